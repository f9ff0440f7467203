"""Objects: the masks that are finished, of a model that tells objects apart -> *their objects*, image by image."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from segcore.errors import worded
from segcore.inference.contract import check_contract
from segcore.inference.job import Job
from segcore.inference.model_grid import ModelGrid
from segcore.instances.lead import Lead, Result, tried
from segcore.instances.make import Begun, Made, finished
from segcore.instances.rule import Rule
from segcore.isolation import Crew
from segcore.progress import Progress
from segcore.results import ItemResult
from segcore.store import Workspace, instances_name, withdraw_labels

log = logging.getLogger("segcore.inference")


def with_objects(
    ws: Workspace, job: Job, items: Sequence[ItemResult], progress: Progress, crew: Crew | None = None
) -> tuple[ItemResult, ...]:
    """The items of some masks, after their objects were made too; shards are told twice.

    An image whose objects cannot be made has failed; its mask stays, and the next call goes on with the objects. Of a
    model that tells none apart, the objects of an earlier mask of this name are withdrawn. With a crew its processes
    make them: small images whole, each by one of them, and large ones by work units.
    """
    if job.package.info.instances is None:
        for image_id in (item.image for item in items if item.state == "done" and item.image is not None):
            withdraw_labels(ws, image_id, [instances_name(job.name)])
        return tuple(items)
    image_ids = [item.image for item in items if item.state in ("done", "skipped") and item.image is not None]
    begin = partial(_begun, ws, job)
    if crew is None:
        made: dict[str, Result] = {image_id: tried(_made, begin, image_id, progress) for image_id in image_ids}
    else:
        made = Lead(crew, begin, progress).run(image_ids)
    return tuple(_item(item, made[item.image], progress) if item.image in made else item for item in items)


def _begun(ws: Workspace, job: Job, image_id: str) -> Begun:
    fit = check_contract(job.package.contract, ws.image(image_id), job.config.spacing_tolerance)
    rule = rule_of(job, fit.grid)
    assert rule is not None, f"{job.model_id} tells no objects apart"
    return Begun(ws, image_id, job.name, rule, job.config.overwrite)


def _made(begin: Callable[[str], Begun], image_id: str, progress: Progress) -> Made:
    with begin(image_id) as begun:
        return finished(begun, progress)


def _item(item: ItemResult, made: Result, progress: Progress) -> ItemResult:
    if isinstance(made, Exception):
        message = worded(made, str(item.image))
        log.debug("objects of image %s failed", item.image, exc_info=made)
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
