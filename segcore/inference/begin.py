"""Begin: the mask and layers of one image, opened to be made or gone on with; job, image -> *run*.

What cannot be is refused here, before a pixel is read and before anything that stands is withdrawn.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from segcore.errors import ConfigError, PlanMismatchError
from segcore.inference.adapt import SAMPLE_VERSION, sample_for
from segcore.inference.batch import Batches
from segcore.inference.decision import Kind
from segcore.inference.gaussian import summed_together
from segcore.inference.job import Job
from segcore.inference.layers import Layer, layer_spec
from segcore.inference.model_grid import ModelGrid, Pixels
from segcore.inference.plan import STALE_WITH, as_finished, finest_level, freeze, layer_plan, mask_spec
from segcore.inference.run import MaskRun
from segcore.inference.search import own_foreground, scope_of
from segcore.inference.tile_choice import is_tuned
from segcore.inference.tiling import Tiling
from segcore.store import UNIT_SHARDS, PyramidSpec, Staging, Workspace, latest_plan, layer_name, plan_difference
from segcore.stretch import Stretch, stretch_of


def begin(
    ws: Workspace, job: Job, grid: ModelGrid, batches: Batches, opened_by: Callable[..., Staging] = Staging.begin
) -> MaskRun | None:
    """Freeze the image's plan, open what is to be written by it, and find what is left; None if all is finished.

    Args:
        ws: where its image, mask and layers are.
        job: what is done to it.
        grid: the image.
        batches: of the job.
        opened_by: `Staging.peek` to look ahead, and write nothing.

    Raises:
        SegcoreError: if what stands is of another plan, or what is asked for cannot be.
    """
    run = opened(ws, job, grid, batches, opened_by)
    if run is None:
        return None
    try:
        run.look_for_work(*_together(job, run.tiling))
    except BaseException:
        run.close()
        raise
    return run


def opened(
    ws: Workspace, job: Job, grid: ModelGrid, batches: Batches, opened_by: Callable[..., Staging]
) -> MaskRun | None:
    """As `begin`, but nothing is looked for: what is to be done is known already."""
    image_id, overwrite = grid.image.image_id, job.config.overwrite
    scope, spec = scope_of(ws, job, grid), mask_spec(job, grid)
    frozen = scope.frozen | frozen_sample(job, grid)
    layer_specs = _layer_specs(job, grid)
    tiling = _begun_with(ws, job, grid, frozen, batches)
    job = replace(job, batch=batches.of(tiling))
    tiling = job.shaped(tiling)
    plan = tonight = freeze(job, grid, tiling, frozen)
    if not overwrite and job.name in ws.label_names(image_id):
        plan = as_finished(job, plan, ws.label(image_id, job.name).attributes.get("predict", {}))
        if any(not ws.is_complete(image_id, layer_name(job.name, kind)) for kind in layer_specs):
            _refuse_other_layers(plan, tonight, f"image {image_id}: mask {job.name}")
    staging = opened_by(ws, image_id, job.name, plan, spec, overwrite=overwrite, supersede=STALE_WITH)
    stagings = [staging]
    try:
        layers = tuple(_layers(job, tonight, layer_specs, stagings, opened_by))
        if all(each.finished for each in stagings):
            return None
        stretch = stretch_of(grid.image) if job.package.contract.stretch else None
        return MaskRun(
            grid,
            staging,
            tiling,
            np.dtype(spec.dtype),
            job.ignore,
            scope.search(),
            batch=job.batch,
            stretch=stretch,
            sample=_sample_reader(job, grid, stretch),
            decision=job.recipe.decision,
            layers=layers,
            compiled=job.is_compiled(tiling),
            plan=plan,
        )
    except BaseException:
        for each in stagings:
            each.close()
        raise


def _sample_reader(job: Job, grid: ModelGrid, stretch: Stretch | None) -> Callable[[], Pixels]:
    """Reads what the models are adapted to the image by; the same whatever is asked for tonight."""
    return cache(partial(sample_for, job.package.contract, grid, stretch))


def _together(job: Job, tiling: Tiling) -> tuple[int, int]:
    """Planes of z or t, and shards side by side, that are computed together."""
    if job.blend == "gaussian":
        return summed_together(tiling, job.package.num_logits, job.config.shard_px)
    return tiling.core[0] if len(tiling.core) > 2 else 1, UNIT_SHARDS


def frozen_sample(job: Job, grid: ModelGrid) -> dict[str, Any]:
    """For the plan of a model that is adapted to the image: where the sample is from."""
    if not job.adapts:
        return {}
    mark = own_foreground(grid.image)
    return {"sample": {"version": SAMPLE_VERSION, "foreground": None if mark is None else mark.digest}}


def _begun_with(ws: Workspace, job: Job, grid: ModelGrid, frozen: dict[str, Any], batches: Batches) -> Tiling:
    """The image's tiling; that of a mask that was begun with another size of tile, where no size was asked for."""
    tiling, state = job.tiling(grid), latest_plan(ws.objects, grid.image.image_id, job.name)
    if state is None or job.config.overwrite or not is_tuned(job.config, job.package.contract, tiling.shape):
        return tiling
    begun = state.load()["plan"]
    other = replace(tiling, core=tuple(begun.get("tile_px", tiling.core)))
    if len(other.core) != len(tiling.core):  # the image had other axes then
        return tiling
    tonight = freeze(replace(job, batch=begun.get("batch", job.batch)), grid, other, frozen)
    return other if tonight == begun and batches.of(other) == begun["batch"] else tiling


def _layer_specs(job: Job, grid: ModelGrid) -> dict[Kind, PyramidSpec]:
    """How the layers of an image are stored.

    Raises:
        ConfigError: if the image has no such level.
    """
    kinds, level, image = job.recipe.decision.layers, job.config.layer_level, grid.image
    if kinds and level >= image.num_levels:
        raise ConfigError(f"layer_level {level}: image {image.image_id} has the levels 0 to {image.num_levels - 1}")
    levels = {kind: finest_level(job, kind) for kind in kinds}
    return {kind: layer_spec(grid, job.recipe.decision, kind, levels[kind], job.config.shard_px) for kind in kinds}


def _layers(
    job: Job,
    plan: dict[str, Any],
    specs: Mapping[Kind, PyramidSpec],
    opened: list[Staging],
    opened_by: Callable[..., Staging],
) -> Iterator[Layer]:
    """Begin, or go on with, the layers of an image, by tonight's plan; each is added to what is opened."""
    mask, overwrite = opened[0], job.config.overwrite
    ws = mask.workspace
    for kind, spec in specs.items():
        own, name = layer_plan(job, plan, kind), layer_name(job.name, kind)
        if not overwrite and ws.is_complete(mask.image_id, name):
            own = as_finished(job, own, ws.layer(mask.image_id, job.name, kind).attributes.get("predict", {}))
        opened.append(opened_by(ws, mask.image_id, name, own, spec, overwrite=overwrite, supersede=STALE_WITH))
        yield Layer(kind, opened[-1], mask.spec.base_level, own)


def _refuse_other_layers(made: dict[str, Any], tonight: dict[str, Any], where: str) -> None:
    """Layers that are asked for later have to be of the mask that stands.

    Raises:
        PlanMismatchError: naming what differs.
    """
    difference = plan_difference(made, tonight)
    if difference:
        raise PlanMismatchError(
            f"{where} was made otherwise ({'; '.join(difference[:4])}), its layers would not fit it; ask for the same "
            "again, or give another --name"
        )
