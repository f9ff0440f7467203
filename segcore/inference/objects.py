"""Objects: the masks that are finished, of a model that tells objects apart -> *their objects*, image by image."""

import logging
import math
from collections.abc import Iterator, Sequence

from segcore.errors import worded
from segcore.inference.contract import check_contract
from segcore.inference.job import Job
from segcore.inference.model_grid import ModelGrid
from segcore.instances.make import Made, label_spec, make_objects
from segcore.instances.rule import Rule
from segcore.isolation import ByName, Crew, Task
from segcore.progress import Progress
from segcore.results import ItemResult
from segcore.store import Workspace, instances_name, withdraw_labels

WHOLE = ByName("segcore.instances.make", "make_whole")

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
    masks = [item for item in items if item.state in ("done", "skipped")]
    made: dict[str | None, Made | Exception] = {}
    if crew is not None:
        made |= _made_whole(ws, job, masks, progress, crew)
    for item in masks:
        if item.image not in made:
            made[item.image] = _made(ws, job, str(item.image), progress, crew)
    return tuple(_item(item, made[item.image], progress) if item in masks else item for item in items)


def _made(ws: Workspace, job: Job, image_id: str, progress: Progress, crew: Crew | None) -> Made | Exception:
    try:
        rule = _rule(ws, job, image_id)
        return make_objects(ws, image_id, job.name, rule, job.config.overwrite, progress, crew)
    except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
        return error


def _made_whole(
    ws: Workspace, job: Job, masks: Sequence[ItemResult], progress: Progress, crew: Crew
) -> dict[str | None, Made | Exception]:
    """By image id what became of those of one work unit; larger ones are left out."""
    found: dict[str | None, Made | Exception] = {}
    shards: dict[str, int] = {}

    def tasks() -> Iterator[Task]:
        for image_id in (str(item.image) for item in masks):
            try:
                spec = label_spec(ws, image_id, job.name)
                if math.prod(spec.units.counts) > 1:
                    continue
                rule = _rule(ws, job, image_id)
            except Exception as error:  # noqa: BLE001 - as above
                found[image_id] = error
                continue
            shards[image_id] = spec.num_shards
            yield Task(WHOLE, (ws.uri, image_id, job.name, rule, job.config.overwrite), image_id)

    for outcome in crew.run(tasks()):
        image_id = outcome.task.label
        found[image_id] = outcome.result if outcome.error is None else outcome.error
        progress.advance(2 * shards[image_id])
    return found


def _item(item: ItemResult, made: Made | Exception, progress: Progress) -> ItemResult:
    if isinstance(made, Exception):
        message = worded(made, str(item.image))
        log.debug("objects of image %s failed", item.image, exc_info=made)
        progress.note(message)
        return item.model_copy(update={"state": "failed", "error": message})
    details = {**item.details, "objects": made.count}
    return item.model_copy(update={"state": "done" if made.shards_written else item.state, "details": details})


def _rule(ws: Workspace, job: Job, image_id: str) -> Rule:
    fit = check_contract(job.package.contract, ws.image(image_id), job.config.spacing_tolerance)
    rule = rule_of(job, fit.grid)
    assert rule is not None, f"{job.model_id} tells no objects apart"
    return rule


def rule_of(job: Job, grid: ModelGrid) -> Rule | None:
    """The rule in pixels of an image's mask; None of a model that tells no objects apart."""
    rule = job.package.info.instances
    return None if rule is None else rule.scaled(grid.step)


def num_objects(items: Sequence[ItemResult]) -> dict[str, int]:
    """Of all images together, for the result's details; nothing of a model that tells none apart."""
    found = [item.details["objects"] for item in items if "objects" in item.details]
    return {"objects": sum(found)} if found else {}
