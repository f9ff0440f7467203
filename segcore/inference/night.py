"""Night: the images of one call of predict, in order, through a pipeline; while one ends, the next is already read.

An image that fails is reported, and the others go on. Of a model that tells objects apart, the objects of some images
are made before the next masks are begun: a night that is stopped leaves few masks without theirs.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segcore.errors import StoreError, worded
from segcore.geometry import Ints, Window
from segcore.inference.batch import Batches
from segcore.inference.begin import begin
from segcore.inference.contract import check_contract
from segcore.inference.crop import pieces
from segcore.inference.gaussian import GaussianUnit
from segcore.inference.job import Job
from segcore.inference.model_grid import ModelGrid
from segcore.inference.numerics import Network, devices_of
from segcore.inference.objects import with_objects
from segcore.inference.orders import orders
from segcore.inference.pipeline import Load, Pipeline, Threads
from segcore.inference.plan import mask_attributes, mask_spec
from segcore.inference.run import MaskRun, share_of_all
from segcore.isolation import Crew, Task
from segcore.pace import keep_pace
from segcore.progress import Progress
from segcore.results import ItemResult
from segcore.store import Image, Staging, Workspace
from segcore.until import Until

TOGETHER_SHARDS = 64
"""Images of so many shards (of 2048 px: minutes of a CPU) go through one pipeline before their objects are made; the
next one has to fill up first. With a crew so many for each of its processes."""

log = logging.getLogger("segcore.inference")


class Night:
    """One call of predict: the images of one workspace, in order."""

    def __init__(
        self,
        ws: Workspace,
        job: Job,
        image_ids: tuple[str, ...],
        progress: Progress,
        refused: Mapping[str | None, str],
        crew: Crew | None = None,
    ) -> None:
        """With a crew its processes infer and make the objects, and this one only plans and finishes."""
        self._crew = crew
        self._ws, self._job, self._image_ids, self._progress = ws, job, image_ids, progress
        self._refused = refused
        self._until = Until(job.config.until)
        self._items: dict[str, ItemResult] = {}
        self._runs: dict[str, MaskRun] = {}
        self._networks = networks_of(job)
        self._batches = Batches(self._networks[0], job.package.contract)

    def run(self) -> tuple[tuple[ItemResult, ...], dict[str, Any]]:
        """The items in the order of the images, and details of the whole."""
        job = self._job
        threads = threads_of(job)
        visits = 1 if job.package.info.instances is None else 3  # its objects are made in two passes
        num_shards = sum(image.num_shards(job.config.shard_px) for image in job.images)
        self._progress.start("predict", visits * num_shards, "shards")
        for image_ids in self._together():
            self._infer(threads, image_ids)
            masks = [self._items[image_id] for image_id in image_ids]
            objects = with_objects(self._ws, job, masks, self._progress, self._crew)
            self._items |= zip(image_ids, objects, strict=True)
        details = {"precision": job.precision, "device": job.device.type, "tile_workers": threads.tile_workers}
        fits = min(network.fits for network in self._networks)
        if fits < job.batch:
            details["batch_after_oom"] = fits
        items = tuple(self._items[image_id] for image_id in dict.fromkeys(self._image_ids))
        return items, details | share_of_all([item.details for item in items])

    def _together(self) -> Iterator[list[str]]:
        """The images that go through one pipeline: all, where no objects are made of them."""
        if self._job.package.info.instances is None:
            yield list(dict.fromkeys(self._image_ids))
            return
        shards = {image.image_id: image.num_shards(self._job.config.shard_px) for image in self._job.images}
        together = TOGETHER_SHARDS * (1 if self._crew is None else self._crew.processes)
        found: list[str] = []
        for image_id in dict.fromkeys(self._image_ids):
            found.append(image_id)
            if sum(shards.get(each, 0) for each in found) >= together:
                yield found
                found = []
        if found:
            yield found

    def _infer(self, threads: Threads, image_ids: Sequence[str]) -> None:
        """Make masks; `_items` then has one for each image."""
        advance = self._progress.advance
        try:
            if self._crew is None:
                Pipeline(self._networks, threads, lambda run: advance(), self._finish).run(self._loads(image_ids))
            else:
                self._lead(self._crew, image_ids)
        finally:
            for run in self._runs.values():
                run.close()
        for image_id, run in self._runs.items():
            self._items[image_id] = self._item(image_id, run)
        self._runs.clear()

    def _loads(self, image_ids: Sequence[str]) -> Iterator[Load]:
        for run in self._begun(image_ids):
            while run.units and not run.failed and not self._until.is_over:
                yield from unit_loads(self._job, run, *run.units.popleft())

    def _lead(self, crew: Crew, image_ids: Sequence[str]) -> None:
        """Hand out the work units; an image is finished when the last of its own is back."""
        for outcome in crew.run(self._orders(image_ids)):
            run, (order,) = self._runs.get(outcome.task.label), outcome.task.args
            if run is None or run.failed:  # whatever else comes of an image that is given up
                continue
            if outcome.error is not None:
                run.fail(outcome.error)
                continue
            run.helped(outcome.result, order.num_shards)
            self._progress.advance(order.num_shards)
            if run.remaining == 0:
                try:
                    self._finish(run)
                except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
                    run.fail(error)

    def _orders(self, image_ids: Sequence[str]) -> Iterator[Task]:
        for run in self._begun(image_ids):
            for task in orders(self._job, run):
                if run.failed or self._until.is_over:
                    break
                yield task

    def _begun(self, image_ids: Sequence[str]) -> Iterator[MaskRun]:
        """The images in which something is left to infer, one after the other."""
        for image_id in image_ids:
            self._forget_failed()
            if self._until.is_over:
                self._items[image_id] = self._left_or_skipped(image_id)
                continue
            try:
                run = self._begin(image_id)
            except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
                self._failed(image_id, error)
                continue
            if run is not None:
                yield run

    def _forget_failed(self) -> None:
        """A night of many images keeps nothing of those that failed but their items."""
        for image_id, run in list(self._runs.items()):
            if run.failed:
                self._items[image_id] = self._item(image_id, run)
                del self._runs[image_id]

    def _begin(self, image_id: str) -> MaskRun | None:
        """Begin an image, or go on with it; None if nothing is left to infer."""
        if image_id in self._refused:
            raise StoreError(self._refused[image_id])
        image = self._ws.image(image_id)
        fit = check_contract(self._job.package.contract, image, self._job.config.spacing_tolerance)
        for warning in fit.warnings:
            self._progress.note(warning)
        run = begin(self._ws, self._job, fit.grid, self._batches)
        if run is None:
            num_shards = mask_spec(self._job, fit.grid).num_shards
            self._progress.advance(num_shards)
            details = {"shards_written": 0, "shards_resumed": num_shards}
            self._items[image_id] = self._result("skipped", image, details)
            return None
        try:
            return self._resumed(run)
        except BaseException:
            self._runs.pop(image_id, None)
            run.close()
            raise

    def _left_or_skipped(self, image_id: str) -> ItemResult:
        """The item of an image that the time does not reach: was its mask finished before, or is it left?"""
        image = None
        try:
            image = self._ws.image(image_id)
            fit = check_contract(self._job.package.contract, image, self._job.config.spacing_tolerance)
            run = begin(self._ws, self._job, fit.grid, self._batches, opened_by=Staging.peek)
        except Exception as error:  # whatever is wrong with it, it was not tried tonight
            log.debug("image %s was not looked at", image_id, exc_info=error)
            return ItemResult(state="left", source=image.source if image else None, image=image_id)
        if run is None:
            return self._result("skipped", image, {"shards_written": 0})
        run.close()
        return ItemResult(state="left", source=image.source, image=image_id, details={"shards_left": run.remaining})

    def _resumed(self, run: MaskRun) -> MaskRun | None:
        """Count what an earlier call finished."""
        if run.counts.shards_resumed:
            self._progress.advance(run.counts.shards_resumed)
        self._runs[run.image.image_id] = run
        if run.remaining == 0:
            self._finish(run)
            return None
        return run

    def _finish(self, run: MaskRun) -> None:
        attributes = mask_attributes(self._job, run.image, run.plan)
        if run.counts.tiles:  # not after a kill between the last tile and the mark
            pace = run.pace(attributes["digest"], self._job.device.type)
            keep_pace(self._ws, run.image.image_id, self._job.name, pace)
        run.finish(attributes, self._job.package.classes)
        self._items[run.image.image_id] = self._item(run.image.image_id, run)
        del self._runs[run.image.image_id]  # a night of many images keeps none of them

    def _item(self, image_id: str, run: MaskRun) -> ItemResult:
        if run.finished:
            return self._result("done", run.image, run.details())
        if run.error is None and self._until.is_over:
            return ItemResult(state="left", source=run.image.source, image=image_id, details=run.details())
        error = run.error or StoreError(f"image {image_id}: {run.remaining} shards were not written; run it again")
        return self._failed(image_id, error, run.image, run.details())

    def _result(self, state: Any, image: Image, details: dict[str, Any]) -> ItemResult:
        path = self._ws.describe(f"images/{image.image_id}.ome.zarr/labels/{self._job.name}")
        return ItemResult(state=state, source=image.source, image=image.image_id, path=path, details=details)

    def _failed(
        self, image_id: str, error: BaseException, image: Image | None = None, details: dict[str, Any] | None = None
    ) -> ItemResult:
        """The item of a failed image; noted, and its traceback logged for `--debug`."""
        message = worded(error, image_id)
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


def unit_loads(job: Job, run: MaskRun, unit: Window, pending: Sequence[Ints]) -> Iterator[Load]:
    """What is to be read and inferred for the shards of a work unit that are left."""
    if job.blend == "gaussian":
        for strip in GaussianUnit(run, unit, pending).strips():
            yield Load(run, strip)
        return
    for piece in pieces(run, unit, pending, rows_of(job, run.grid)):
        yield Load(run, piece)


def networks_of(job: Job) -> list[Network]:
    """The model, once per device."""
    return [Network(job.package, device, job.precision, job.batch, job.recipe) for device in devices_of(job.device)]


def threads_of(job: Job) -> Threads:
    """How many threads do what."""
    readers = 4 if job.device.type != "cpu" and job.blend == "crop" else 1
    return Threads(job.tile_workers, readers, slots=job.tile_workers + readers + 1)


def rows_of(job: Job, grid: ModelGrid) -> int | None:
    """Rows of tiles that `crop` reads at once; None = few.

    On a GPU reading is the bottleneck, and a whole shard at once decodes no chunk twice; of a resampled image rows are
    wide.
    """
    return job.config.shard_px if job.device.type != "cpu" and not grid.is_resampled else None
