"""Refine: the masks of one name -> *refined ones* under another, image by image."""

from dataclasses import dataclass

from segcore.components.cells import Cells
from segcore.components.label import make_components, mask_spec
from segcore.config import RefineConfig
from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.measure import Peak
from segcore.progress import SILENT, Progress
from segcore.refine.make import STALE_WITH, make_refined, memory_mib, plan_of
from segcore.refine.steps import Steps, steps_of
from segcore.results import ItemResult, StageResult, State
from segcore.selection import Masked, failure, mask_name, select
from segcore.store import Label, Staging, Workspace, instances_name, is_instances, withdraw_labels
from segcore.store.places import array_prefix


def refine(config: RefineConfig, progress: Progress = SILENT) -> StageResult:
    """Refine every mask of one name; a killed call is simply made again, and goes on where it was.

    Returns:
        One item per image: `done`, `skipped` (its refined mask was complete), or `failed` with its error.

    Raises:
        ConfigError: if `config.model` is neither a mask's name nor a model package, or has no such class.
        StoreError: if there is no workspace, or no image has the mask.
    """
    with Peak() as peak:
        ws = Workspace.open(config.workspace)
        name = mask_name(ws, config.model)
        if is_instances(name):
            mask = name.removesuffix(instances_name(""))
            raise ConfigError(f"--model {name}: these are the objects of {mask}; refine {mask}")
        own = (config.name or f"{name}_refined") if config.changes_pixels else name
        if own == name and config.changes_pixels:
            raise ConfigError(f"name: '{own}' is the mask that is refined; give the new one another name")
        items = _items(_Job(config, ws, name, own), select(ws, name, config.images), progress)
    counted = {"objects": sum(item.details["objects"] for item in items if "objects" in item.details)}
    planned = {"dry_run": True, **_summed(items)} if config.dry_run else {}
    return StageResult(
        stage="refine",
        items=items,
        paths=() if config.dry_run else tuple(item.path for item in items if item.path is not None),
        seconds=peak.seconds,
        peak_mib=peak.mib,
        details={"mask": name, "name": own, **(counted if config.objects else {}), **planned},
    )


@dataclass(frozen=True)
class _Job:
    """What is done to every image."""

    config: RefineConfig
    ws: Workspace
    name: str
    own: str


def _items(job: _Job, chosen: list[Masked], progress: Progress) -> tuple[ItemResult, ...]:
    progress.start("refine", sum(_num_steps(job, masked) for masked in chosen), "cells")
    items = []
    for masked in chosen:
        try:
            item = _item(job, masked, progress)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
            item = ItemResult(state="failed", image=masked.image_id, error=failure(masked.image_id, error))
            progress.note(item.error or "")
        items.append(item)
    return tuple(items)


def _num_steps(job: _Job, masked: Masked) -> int:
    """How often a cell of an image will be looked at; 0 of one that cannot be refined: its item says why."""
    try:
        image, mask = masked.opened()
        cells = Cells(mask, mask_spec(job.ws, image.image_id, job.name).shard_px)
        passes = steps_of(job.config, image, mask).num_passes(cells.coder) if job.config.changes_pixels else 0
        return cells.grid.num_cells * (passes + 2 * job.config.objects)
    except Exception:  # noqa: BLE001 - it is met again, and reported
        return 0


def _item(job: _Job, masked: Masked, progress: Progress) -> ItemResult:
    image, mask = masked.opened()
    config, image_id = job.config, image.image_id
    steps = steps_of(config, image, mask)
    if config.dry_run:
        details = _planned(job, mask, steps)
        return ItemResult(state="skipped", source=image.source, image=image_id, details=details)
    written, details = 0, {}
    if config.changes_pixels:
        written = make_refined(job.ws, image_id, job.name, job.own, steps, config.overwrite, progress).shards_written
        details["shards_written"] = written
        if written and not config.objects:
            withdraw_labels(job.ws, image_id, [instances_name(job.own)])  # those of an earlier mask of this name
    if config.objects:
        made = make_components(job.ws, image_id, job.own, config.overwrite, progress)
        details["objects"] = made.count
        written += made.shards_written
    path = job.ws.describe(array_prefix(image_id, job.own if config.changes_pixels else instances_name(job.own)))
    state: State = "done" if written else "skipped"
    return ItemResult(state=state, source=image.source, image=image_id, path=path, details=details)


def _planned(job: _Job, mask: Label, steps: Steps) -> dict[str, int]:
    """What would be done to an image, for `--dry-run`."""
    spec = mask_spec(job.ws, mask.image_id, job.name)
    memory = memory_mib(Cells(mask, spec.shard_px), steps, job.config.objects)
    if not job.config.changes_pixels:
        return {"memory_mib": memory}
    plan, overwrite = plan_of(mask, steps), job.config.overwrite
    found = Staging.peek(job.ws, mask.image_id, job.own, plan, spec, overwrite=overwrite, supersede=STALE_WITH)
    left = 0 if found.finished else len(found.pending(Window.whole(spec.shape)))
    return {
        "shards": left,
        "shards_finished": spec.num_shards - left,
        "memory_mib": memory,
    }


def _summed(items: tuple[ItemResult, ...]) -> dict[str, int]:
    """Shards of all images, and the memory of the one that takes most."""
    known = [item.details for item in items if item.state != "failed"]
    shards = sum(details.get("shards", 0) for details in known)
    return {"shards": shards, "memory_mib": max((details["memory_mib"] for details in known), default=0)}
