"""Settle: what `auto` means tonight (device, precision, tile), once for all images; config -> *job*."""

import logging
from collections.abc import Iterable
from dataclasses import replace

from segcore.config import PredictConfig
from segcore.inference.calibration import keep, kept
from segcore.inference.contract import check_contract
from segcore.inference.job import Job
from segcore.inference.numerics import Network, NotFiniteError, resolve_device
from segcore.inference.precision import (
    Calibration,
    calibrate,
    calibration_tiles,
    check_precision,
    device_slug,
    faster_formats,
)
from segcore.inference.recipe import jointly, recipe_of
from segcore.inference.tile_choice import check_halo, is_tuned
from segcore.inference.tuning import tuned
from segcore.models.package import ModelPackage
from segcore.store import Workspace

log = logging.getLogger("segcore.inference")


def resolve(ws: Workspace, config: PredictConfig, package: ModelPackage, image_ids: Iterable[str]) -> Job:
    """Settle what `auto` means.

    Raises:
        ConfigError: if the device or the precision is not there, or the model cannot have the halo.
    """
    recipe = recipe_of(ws, config, package)
    package = jointly(package, recipe.ensemble)
    check_halo(config, package.contract)
    device = resolve_device(config.device)
    check_precision(config.precision, device)
    job = Job(config, package, device, recipe, "float32", config.batch)
    precision = resolve_precision(ws, job, image_ids) if config.precision == "auto" else config.precision
    return _tuned(ws, replace(job, precision=precision), image_ids)


def resolve_precision(ws: Workspace, job: Job, image_ids: Iterable[str]) -> str:
    """What `auto` means here: read from the workspace, else found on tiles of the first image that the model can take.

    Of an ensemble it is that of all its models together: what agrees for one of them says nothing of the others.
    """
    candidates = ["float32", *faster_formats(job.device)]
    if len(candidates) == 1:
        return "float32"
    key = f"state/models/{job.model_id}/{device_slug(job.device)}.json"
    known = kept(ws, key, Calibration)
    if known is not None:
        return known.precision
    contract, models = job.package.contract, (job.package, *job.recipe.ensemble)
    for image_id in image_ids:
        try:
            grid = check_contract(contract, ws.image(image_id), job.config.spacing_tolerance).grid
            tiles = calibration_tiles(grid, job.tiling(grid), contract.stretch)
            found = calibrate(models, job.device, candidates, tiles, grid.image.nodata)
            return (found if job.config.dry_run else keep(ws, key, found)).precision
        except NotFiniteError:
            return "float32"  # not kept: whether it is the image or the model shows when the image's turn comes
        except Exception as error:  # one bad image never stops the others; it is reported when its turn comes
            log.debug("image %s cannot settle the precision", image_id, exc_info=error)
    return "float32"


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
