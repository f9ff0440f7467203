"""Settle: what `auto` means tonight (device, precision, tile), once for all images; config -> *job*."""

import logging
from collections.abc import Iterable
from dataclasses import replace

from segcore.config import PredictConfig
from segcore.inference.contract import check_contract
from segcore.inference.job import Job
from segcore.inference.numerics import Network, resolve_device
from segcore.inference.precision import check_precision, resolve_precision
from segcore.inference.recipe import jointly, recipe_of
from segcore.inference.tile_choice import check_halo, is_tuned, tiling_for
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
    precision = _precision(ws, job, image_ids) if config.precision == "auto" else config.precision
    return _tuned(ws, replace(job, precision=precision), image_ids)


def _precision(ws: Workspace, job: Job, image_ids: Iterable[str]) -> str:
    """What `auto` means, on the first image that the model can take."""
    config, package = job.config, job.package
    for image_id in image_ids:
        try:
            grid = check_contract(package.contract, ws.image(image_id), config.spacing_tolerance).grid
            tiling = tiling_for(config, package, grid)
            return resolve_precision(ws, package, job.device, grid, tiling, dry_run=config.dry_run)
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
