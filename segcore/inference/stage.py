"""Predict: images and a model package -> masks, image by image through one pipeline.

While one image ends, the next is already being read. An image that fails is reported, and the others go on.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from segcore.config import PredictConfig
from segcore.errors import ConfigError, PlanMismatchError, SegcoreError, StoreError
from segcore.geometry import Window
from segcore.inference.allocator import memory_is_kept
from segcore.inference.contract import Fit, check_contract
from segcore.inference.crop import columns
from segcore.inference.decision import Kind
from segcore.inference.estimate import estimate
from segcore.inference.gaussian import GaussianUnit, planes_together
from segcore.inference.halo import halo_details
from segcore.inference.interrupt import ends_on_sigterm
from segcore.inference.layers import Layer, layer_spec
from segcore.inference.model_grid import ModelGrid
from segcore.inference.numerics import Network, devices_of, repeatable, resolve_device
from segcore.inference.pipeline import Load, Pipeline, Threads
from segcore.inference.plan import (
    STALE_WITH,
    Job,
    as_finished,
    check_halo,
    freeze,
    is_tuned,
    jointly,
    layer_plan,
    mask_attributes,
    mask_spec,
    recipe_of,
    tiling_for,
)
from segcore.inference.precision import check_precision, fixed_batch, resolve_precision
from segcore.inference.run import MaskRun, share_of_all
from segcore.inference.search import Scope, scope_of, screen_config
from segcore.inference.tiling import Tiling
from segcore.inference.tuning import tuned
from segcore.measure import Peak
from segcore.models.package import ModelPackage, read_package
from segcore.models.receptive import with_field
from segcore.progress import SILENT, Progress
from segcore.results import ItemResult, StageResult
from segcore.store import UNIT_SHARDS, Image, PyramidSpec, Staging, Workspace, latest_plan, layer_name, plan_difference
from segcore.stretch import stretch_of

log = logging.getLogger("segcore.inference")


def predict(config: PredictConfig, progress: Progress = SILENT) -> StageResult:
    """Segment images tile by tile; a killed call is simply made again, and goes on where it was.

    Args:
        config: the workspace, the model, and how to run it.
        progress: hears of shards as they are written, of warnings and of failed images.

    Returns:
        One item per image: `done`, `skipped` (its mask was complete), or `failed` with its error.

    Raises:
        SegcoreError: where nothing can be done at all: no workspace, model, images or device.
    """
    with Peak() as peak, ends_on_sigterm(), repeatable(), memory_is_kept():
        ws = Workspace.open(config.workspace)
        package = with_field(read_package(ws, config.model))
        image_ids = config.images or tuple(ws.image_ids())
        if not image_ids:
            raise StoreError(f"workspace {ws.uri}: no image in it; fill it with `segcore ingest`")
        job = resolve(ws, config, package, image_ids)
        if config.dry_run:
            items, details = estimate(ws, job, image_ids)
        else:
            refused, screened = _screened(job, image_ids, progress)
            halo = halo_details(ws, job, image_ids, progress)
            items, details = _Night(ws, job, image_ids, progress, refused).run()
            details |= screened | halo
    return StageResult(
        stage="predict",
        items=items,
        paths=tuple(item.path for item in items if item.path and item.state != "failed"),
        seconds=peak.seconds,
        peak_mib=peak.mib,
        details={"model": package.model_id, "name": job.name, **details},
    )


def _screened(job: Job, image_ids: tuple[str, ...], progress: Progress) -> tuple[dict[str | None, str], dict[str, Any]]:
    """Run the first model of a cascade over all images: why which of them failed, and details."""
    if job.config.screen is None:
        return {}, {}
    found = predict(screen_config(job, image_ids), progress)
    refused = {item.image: f"screen: {item.error}" for item in found.items if item.state == "failed"}
    return refused, {"screen": {"model": found.details["model"], "seconds": round(found.seconds, 3)}}


def resolve(ws: Workspace, config: PredictConfig, package: ModelPackage, image_ids: Iterable[str]) -> Job:
    """Settle what `auto` means, on the first image that the model can take.

    Raises:
        ConfigError: if the device or the precision is not there, or the model cannot have the halo.
    """
    recipe = recipe_of(ws, config, package)
    package = jointly(package, recipe.ensemble)
    check_halo(config, package.contract)
    device = resolve_device(config.device)
    check_precision(config.precision, device)
    precision: str = "float32" if config.precision == "auto" else config.precision
    job = Job(config, package, device, recipe, precision, config.batch)
    if config.precision != "auto" and config.batch == 1:
        return _tuned(ws, job, image_ids)
    for image_id in image_ids:
        try:
            grid = check_contract(package.contract, ws.image(image_id), config.spacing_tolerance).grid
            tiling = tiling_for(config, package, grid)
            if config.precision == "auto":
                precision = resolve_precision(ws, package, device, grid, tiling, dry_run=config.dry_run)
        except Exception as error:  # one bad image never stops the others; it is reported when its turn comes
            log.debug("image %s cannot settle the precision", image_id, exc_info=error)
            continue
        batch = fixed_batch(package, device, precision, config.batch, tiling)
        return _tuned(ws, replace(job, precision=precision, batch=batch), image_ids)
    return job


def _tuned(ws: Workspace, job: Job, image_ids: Iterable[str]) -> Job:
    """With the speed of tiles, if an image is large enough for that to matter."""
    contract = job.package.contract
    if job.recipe.ensemble:  # what is kept is of the one model
        return job
    for image_id in image_ids:
        try:
            is_large = is_tuned(job.config, contract, ws.image(image_id).shape())
        except Exception as error:  # reported when its turn comes
            log.debug("image %s is not looked at for its size", image_id, exc_info=error)
            continue
        if is_large:
            network = Network(job.package, job.device, job.precision, batch=1)
            return replace(job, tuning=tuned(ws, network, contract, job.package.model_id, job.config.dry_run))
    return job


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


class _Night:
    """One call of predict: the images of one workspace, in order."""

    def __init__(
        self,
        ws: Workspace,
        job: Job,
        image_ids: tuple[str, ...],
        progress: Progress,
        refused: Mapping[str | None, str],
    ) -> None:
        self._ws, self._job, self._image_ids, self._progress = ws, job, image_ids, progress
        self._refused = refused
        self._items: dict[str, ItemResult] = {}
        self._runs: dict[str, MaskRun] = {}
        self._plans: dict[str, dict[str, Any]] = {}

    def run(self) -> tuple[tuple[ItemResult, ...], dict[str, Any]]:
        """The items in the order of the images, and details of the whole."""
        job = self._job
        devices = devices_of(job.device)
        networks = [Network(job.package, device, job.precision, job.batch, job.recipe) for device in devices]
        readers = 4 if job.device.type != "cpu" and job.blend == "crop" else 1
        threads = Threads(job.tile_workers, readers, slots=job.tile_workers + readers + 1)
        self._progress.start("predict", self._num_shards(), "shards")
        try:
            Pipeline(networks, threads, lambda run: self._progress.advance(), self._finish).run(self._loads())
        finally:
            for run in self._runs.values():
                run.close()
        for image_id, run in self._runs.items():
            self._items[image_id] = self._item(image_id, run)
        details = {"precision": job.precision, "device": job.device.type, "tile_workers": threads.tile_workers}
        fits = min(network.fits for network in networks)
        if fits < job.batch:
            details["batch_after_oom"] = fits
        items = tuple(self._items[image_id] for image_id in dict.fromkeys(self._image_ids))
        return items, details | share_of_all([item.details for item in items])

    def _num_shards(self) -> int:
        """Shards of all images that the model can take, finished ones too: arithmetic on their shapes."""
        total = 0
        for image_id in self._image_ids:
            try:
                total += mask_spec(self._job, self._fit(self._ws.image(image_id)).grid).num_shards
            except Exception as error:  # reported when its turn comes
                log.debug("shards of image %s are not counted", image_id, exc_info=error)
                continue
        return total

    def _fit(self, image: Image) -> Fit:
        return check_contract(self._job.package.contract, image, self._job.config.spacing_tolerance)

    def _loads(self) -> Iterator[Load]:
        for image_id in dict.fromkeys(self._image_ids):
            self._forget_failed()
            try:
                run = self._begin(image_id)
            except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
                self._failed(image_id, error)
                continue
            if run is None:
                continue
            for unit in self._units(run):
                yield from self._unit_loads(run, unit)
                if run.failed:
                    break

    def _forget_failed(self) -> None:
        """A night of many images keeps nothing of those that failed but their items."""
        for image_id, run in list(self._runs.items()):
            if run.failed:
                self._items[image_id] = self._item(image_id, run)
                del self._runs[image_id]

    def _begin(self, image_id: str) -> MaskRun | None:
        """Freeze the image's plan and see what is left; None if nothing is."""
        job = self._job
        if image_id in self._refused:
            raise StoreError(self._refused[image_id])
        image = self._ws.image(image_id)
        fit = self._fit(image)
        for warning in fit.warnings:
            self._progress.note(warning)
        tiling = job.tiling(fit.grid)
        scope, spec = scope_of(self._ws, job, fit.grid), mask_spec(job, fit.grid)
        layer_specs = self._layer_specs(fit.grid)  # what cannot be is refused before anything is withdrawn
        tiling = self._begun_with(image_id, fit.grid, tiling, scope)
        plan = tonight = freeze(job, fit.grid, tiling, scope.frozen)
        if not job.config.overwrite and job.name in self._ws.label_names(image_id):
            plan = as_finished(job, plan, self._ws.label(image_id, job.name).attributes.get("predict", {}))
            if any(not self._ws.is_complete(image_id, layer_name(job.name, kind)) for kind in layer_specs):
                _refuse_other_layers(plan, tonight, f"image {image_id}: mask {job.name}")
        staging = Staging.begin(
            self._ws, image_id, job.name, plan, spec, overwrite=job.config.overwrite, supersede=STALE_WITH
        )
        opened = [staging]
        try:
            layers = tuple(self._layers(fit.grid, tonight, layer_specs, opened))
            num_shards = spec.grid(0).num_cells
            if all(each.finished for each in opened):
                self._progress.advance(num_shards)
                details = {"shards_written": 0, "shards_resumed": num_shards}
                self._items[image_id] = self._result("skipped", image, details)
                return None
            run = MaskRun(
                fit.grid,
                staging,
                tiling,
                np.dtype(spec.dtype),
                job.ignore,
                scope.search(),
                stretch=stretch_of(image) if job.package.contract.stretch else None,
                decision=job.recipe.decision,
                layers=layers,
            )
            return self._resumed(image, plan, run)
        except BaseException:
            self._runs.pop(image_id, None)
            for each in opened:
                each.close()
            raise

    def _begun_with(self, image_id: str, grid: ModelGrid, tiling: Tiling, scope: Scope) -> Tiling:
        """The tiling of a mask that was begun with another size of tile, where no size was asked for."""
        job, state = self._job, latest_plan(self._ws.objects, image_id, self._job.name)
        if state is None or job.config.overwrite or not is_tuned(job.config, job.package.contract, tiling.shape):
            return tiling
        begun = state.load()["plan"]
        other = replace(tiling, core=tuple(begun.get("tile_px", tiling.core)))
        return other if freeze(job, grid, other, scope.frozen) == begun else tiling

    def _layer_specs(self, grid: ModelGrid) -> dict[Kind, PyramidSpec]:
        """How the layers of an image are stored.

        Raises:
            ConfigError: if the image has no such level.
        """
        job, image = self._job, grid.image
        if job.recipe.decision.layers and job.config.layer_level >= image.num_levels:
            raise ConfigError(
                f"layer_level {job.config.layer_level}: image {image.image_id} has the levels 0 to "
                f"{image.num_levels - 1}"
            )
        level, shard_px = job.config.layer_level, job.config.shard_px
        return {
            kind: layer_spec(grid, job.recipe.decision, kind, level, shard_px) for kind in job.recipe.decision.layers
        }

    def _layers(
        self, grid: ModelGrid, plan: dict[str, Any], specs: Mapping[Kind, PyramidSpec], opened: list[Staging]
    ) -> Iterator[Layer]:
        """Begin, or go on with, the layers of an image, by tonight's plan; each is added to what is opened."""
        job, image_id, overwrite = self._job, grid.image.image_id, self._job.config.overwrite
        for kind, spec in specs.items():
            own, name = layer_plan(job, plan, kind), layer_name(job.name, kind)
            if not overwrite and self._ws.is_complete(image_id, name):
                own = as_finished(job, own, self._ws.layer(image_id, job.name, kind).attributes.get("predict", {}))
            opened.append(Staging.begin(self._ws, image_id, name, own, spec, overwrite=overwrite, supersede=STALE_WITH))
            yield Layer(kind, opened[-1], grid.level, own)

    def _resumed(self, image: Image, plan: dict[str, Any], run: MaskRun) -> MaskRun | None:
        """Count what an earlier call finished."""
        run.remaining = sum(len(run.pending(unit)) for unit in self._units(run))
        run.counts.shards_resumed = run.staging.spec.grid(0).num_cells - run.remaining
        if run.counts.shards_resumed:
            self._progress.advance(run.counts.shards_resumed)
        self._plans[image.image_id] = plan
        self._runs[image.image_id] = run
        if run.remaining == 0:
            self._finish(run)
            return None
        return run

    def _units(self, run: MaskRun) -> list[Window]:
        """Work units in which a shard is left, over as many planes as are computed together."""
        tiling, depth = run.tiling, 1
        if self._job.blend == "gaussian":
            depth = planes_together(tiling, len(self._job.package.classes), UNIT_SHARDS * self._job.config.shard_px)
        elif len(tiling.core) > 2:
            depth = tiling.core[0]
        grid = run.staging.spec.groups(UNIT_SHARDS, depth)
        return [unit for unit in map(grid.window, grid.indices()) if run.pending(unit)]

    def _unit_loads(self, run: MaskRun, unit: Window) -> Iterator[Load]:
        pending = run.pending(unit)
        if self._job.blend == "gaussian":
            for strip in GaussianUnit(run, unit, pending).strips():
                yield Load(run, strip)
            return
        # On a GPU reading is the bottleneck, and a whole shard at once decodes no chunk twice.
        rows = None if self._job.device.type == "cpu" else self._job.config.shard_px
        for column in columns(run, unit, pending):
            for piece in column.pieces(rows):
                yield Load(run, piece)

    def _finish(self, run: MaskRun) -> None:
        plan = self._plans[run.image.image_id]
        run.finish(mask_attributes(self._job, run.image, plan), self._job.package.classes)
        self._items[run.image.image_id] = self._item(run.image.image_id, run)
        del self._runs[run.image.image_id]  # a night of many images keeps none of them

    def _item(self, image_id: str, run: MaskRun) -> ItemResult:
        if run.finished:
            return self._result("done", run.image, run.details())
        error = run.error or StoreError(f"image {image_id}: {run.remaining} shards were not written; run it again")
        return self._failed(image_id, error, run.image, run.details())

    def _result(self, state: Any, image: Image, details: dict[str, Any]) -> ItemResult:
        path = self._ws.describe(f"images/{image.image_id}.ome.zarr/labels/{self._job.name}")
        return ItemResult(state=state, source=image.source, image=image.image_id, path=path, details=details)

    def _failed(
        self, image_id: str, error: BaseException, image: Image | None = None, details: dict[str, Any] | None = None
    ) -> ItemResult:
        """The item of a failed image; noted, and its traceback logged for `--debug`."""
        known = isinstance(error, SegcoreError)
        message = str(error) if known else f"image {image_id}: {type(error).__name__}: {error}"
        message = " ".join(message.split())
        log.debug("image %s failed", image_id, exc_info=error)
        self._progress.note(message)
        item = ItemResult(
            state="failed",
            source=image.source if image else None,
            image=image_id,
            error=message,
            details=details or {},
        )
        self._items[image_id] = item
        return item
