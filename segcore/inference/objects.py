"""Objects: the masks that are finished, of a model that tells objects apart -> *their objects*, image by image."""

import logging
from collections.abc import Sequence

from segcore.errors import worded
from segcore.inference.contract import check_contract
from segcore.inference.job import Job
from segcore.inference.model_grid import ModelGrid
from segcore.instances.make import make_objects
from segcore.instances.rule import Rule
from segcore.progress import Progress
from segcore.results import ItemResult
from segcore.store import Workspace, instances_name, withdraw_labels

log = logging.getLogger("segcore.inference")


def with_objects(ws: Workspace, job: Job, items: Sequence[ItemResult], progress: Progress) -> tuple[ItemResult, ...]:
    """The items of some masks, after their objects were made too; shards are told twice.

    An image whose objects cannot be made has failed; its mask stays, and the next call goes on with the objects. Of a
    model that tells none apart, the objects of an earlier mask of this name are withdrawn.
    """
    if job.package.info.instances is None:
        for image_id in (item.image for item in items if item.state == "done" and item.image is not None):
            withdraw_labels(ws, image_id, [instances_name(job.name)])
        return tuple(items)
    made = ("done", "skipped")
    return tuple(_item(ws, job, item, progress) if item.state in made else item for item in items)


def _item(ws: Workspace, job: Job, item: ItemResult, progress: Progress) -> ItemResult:
    image_id = item.image
    assert image_id is not None, "an item of predict has no image"
    try:
        fit = check_contract(job.package.contract, ws.image(image_id), job.config.spacing_tolerance)
        rule = rule_of(job, fit.grid)
        assert rule is not None, f"{job.model_id} tells no objects apart"
        made = make_objects(ws, image_id, job.name, rule, job.config.overwrite, progress)
    except Exception as error:  # one bad image never stops the others; it is reported
        message = worded(error, image_id)
        log.debug("objects of image %s failed", image_id, exc_info=error)
        progress.note(message)
        return item.model_copy(update={"state": "failed", "error": message})
    details = {**item.details, "objects": made.count}
    return item.model_copy(update={"state": "done" if made.shards_written else item.state, "details": details})


def rule_of(job: Job, grid: ModelGrid) -> Rule | None:
    """The rule in pixels of an image's mask; None of a model that tells no objects apart."""
    rule = job.package.info.instances
    return None if rule is None else rule.scaled(grid.step)


def num_objects(items: Sequence[ItemResult]) -> dict[str, int]:
    """Of all images together, for the result's details; nothing of a model that tells none apart."""
    found = [item.details["objects"] for item in items if "objects" in item.details]
    return {"objects": sum(found)} if found else {}
