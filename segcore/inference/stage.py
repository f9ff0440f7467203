"""Predict: images and a model package -> masks; the job is settled once, then the images run through one pipeline."""

import time
from typing import Any

from segcore.config import PredictConfig
from segcore.errors import StoreError
from segcore.inference.allocator import memory_is_kept
from segcore.inference.estimate import estimate
from segcore.inference.halo import halo_details
from segcore.inference.interrupt import ends_on_sigterm
from segcore.inference.job import Job
from segcore.inference.night import Night
from segcore.inference.numerics import repeatable
from segcore.inference.objects import num_objects
from segcore.inference.search import screen_config
from segcore.inference.settle import resolve
from segcore.isolation import Crew
from segcore.measure import Peak
from segcore.models.package import read_package
from segcore.progress import SILENT, Progress
from segcore.results import STATED, StageResult
from segcore.store import Workspace


def predict(config: PredictConfig, progress: Progress = SILENT, crew: Crew | None = None) -> StageResult:
    """Segment images tile by tile; a killed call is simply made again, and goes on where it was.

    Args:
        config: the workspace, the model, and how to run it.
        progress: hears of shards as they are written, of warnings and of failed images.
        crew: processes that infer and make objects, a work unit at a time; by default this one does.

    Returns:
        One item per image: `done`, `skipped` (its mask was complete), or `failed` with its error.

    Raises:
        SegcoreError: where nothing can be done at all: no workspace, model, images or device.
    """
    with Peak() as peak, ends_on_sigterm(), repeatable(), memory_is_kept():
        began_s = time.process_time()
        ws = Workspace.open(config.workspace)
        package = read_package(ws, config.model)
        image_ids = config.images or tuple(ws.image_ids())
        if not image_ids:
            raise StoreError(f"workspace {ws.uri}: no image in it; fill it with `segcore ingest`")
        job = resolve(ws, config, package, image_ids)
        halo = halo_details(ws, job, image_ids, progress)
        settled_s = time.process_time() - began_s
        refused, screened = _screened(job, image_ids, progress, crew)
        if config.dry_run:
            items, details = estimate(ws, job, image_ids, refused, settled_s)
            for key in ("expected_cpu_s", "expected_s"):  # the whole of what the call takes
                details[key] = round(details[key] + screened.get("screen", {}).get(key, 0), 2)
        else:
            items, details = Night(ws, job, image_ids, progress, refused, crew).run()
            details |= num_objects(items)
        details |= screened | halo
    return StageResult(
        stage="predict",
        items=items,
        paths=tuple(item.path for item in items if item.path and item.state in ("done", "skipped")),
        seconds=peak.seconds,
        peak_mib=peak.mib,
        details={"model": package.model_id, "name": job.name, **details},
    )


def _screened(
    job: Job, image_ids: tuple[str, ...], progress: Progress, crew: Crew | None
) -> tuple[dict[str | None, str], dict[str, Any]]:
    """Run the first model of a cascade over all images: why which of them failed, and details."""
    if job.config.screen is None:
        return {}, {}
    found = predict(screen_config(job, image_ids), progress, crew)
    refused = {item.image: f"screen: {item.error}" for item in found.items if item.state == "failed"}
    stated = {key: found.details[key] for key in STATED if key in found.details}
    return refused, {"screen": {"model": found.details["model"], "seconds": round(found.seconds, 3), **stated}}
