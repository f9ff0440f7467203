"""Settle: what `auto` means tonight (device, precision, batch, tile), once for all images; config -> *job*."""

import logging
from collections.abc import Iterable
from dataclasses import replace

from segcore.config import PredictConfig
from segcore.inference.contract import check_contract
from segcore.inference.job import Job
from segcore.inference.numerics import Network, resolve_device
from segcore.inference.precision import check_precision, fixed_batch, resolve_precision
from segcore.inference.recipe import jointly, recipe_of
from segcore.inference.tile_choice import check_halo, is_tuned, tiling_for
from segcore.inference.tuning import tuned
from segcore.models.package import ModelPackage
from segcore.store import Workspace

log = logging.getLogger("segcore.inference")


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
