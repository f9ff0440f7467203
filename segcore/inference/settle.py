"""Settle: what `auto` means tonight (device, precision, tile, compiled), once for all images; config -> *job*."""

import logging
from collections.abc import Iterable
from dataclasses import replace

import torch

from segcore.config import PredictConfig
from segcore.errors import ConfigError
from segcore.inference.calibration import keep, kept
from segcore.inference.compiled import lacking
from segcore.inference.contract import check_contract
from segcore.inference.decision import Decision
from segcore.inference.field import with_kept_field
from segcore.inference.job import Job
from segcore.inference.numerics import Network, NotFiniteError, Recipe, resolve_device
from segcore.inference.precision import (
    Calibration,
    calibrate,
    calibration_tiles,
    check_precision,
    device_slug,
    faster_formats,
    noise_tile,
)
from segcore.inference.recipe import jointly, recipe_of
from segcore.inference.survey import survey
from segcore.inference.tile_choice import check_halo, is_tuned
from segcore.inference.tuning import Tuning, tuned
from segcore.models.classic.base import ClassicModel
from segcore.models.package import ModelPackage
from segcore.store import Workspace

log = logging.getLogger("segcore.inference")


def resolve(ws: Workspace, config: PredictConfig, package: ModelPackage, image_ids: Iterable[str]) -> Job:
    """Settle what `auto` means.

    Raises:
        ConfigError: if the device or the precision is not there, or the model cannot have the halo.
    """
    recipe = recipe_of(ws, config, package)
    package = jointly(with_kept_field(ws, package, config.dry_run), recipe.ensemble)
    check_halo(config, package.contract)
    device = resolve_device(config.device)
    check_precision(config.precision, device)
    check_compile(config.compile, device)
    if config.compile == "on" and package.adapts:
        raise ConfigError(
            f"compile on: model {package.model_id} is adapted to each image and would be compiled anew for each; leave "
            "it out, or train with --arguments norm=batch"
        )
    images = survey(ws, package.contract, config.spacing_tolerance, dict.fromkeys(image_ids))
    job = Job(config, package, device, recipe, batch=config.batch, images=images)
    precision = resolve_precision(ws, job) if config.precision == "auto" else config.precision
    return _tuned(ws, replace(job, precision=precision))


def resolve_precision(ws: Workspace, job: Job) -> str:
    """What `auto` means here: read from the workspace, else found on tiles of the first image that has them.

    Of an ensemble it is that of all its models together: what agrees for one of them says nothing of the others.
    """
    candidates = ["float32", *faster_formats(job.device)]
    # A classic method is no faster with fewer bits a pixel.
    if len(candidates) == 1 or isinstance(job.package.load_weights(), ClassicModel):
        return "float32"
    key = f"state/models/{job.model_id}/{device_slug(job.device)}.json"
    known = kept(ws, key, Calibration)
    if known is not None:
        return known.precision
    contract, models = job.package.contract, (job.package, *job.recipe.ensemble)
    for seen in job.images:
        try:
            grid = check_contract(contract, ws.image(seen.image_id), job.config.spacing_tolerance).grid
            tiles = calibration_tiles(grid, job.tiling(grid), contract.stretch)
            found = calibrate(models, job.device, candidates, tiles, grid.image.nodata)
            return (found if job.config.dry_run else keep(ws, key, found)).precision
        except NotFiniteError:
            return "float32"  # not kept: whether it is the image or the model shows when the image's turn comes
        except Exception as error:  # one bad image never stops the others; it is reported when its turn comes
            log.debug("image %s cannot settle the precision", seen.image_id, exc_info=error)
    return "float32"


def check_compile(asked: str, device: torch.device) -> None:
    """Refuse to compile where that cannot be.

    Raises:
        ConfigError: naming what is missing.
    """
    missing = lacking(device) if asked == "on" else None
    if missing is not None:
        raise ConfigError(f"compile on: expected {missing}, found none; install it, or give compile: auto")


def _tuned(ws: Workspace, job: Job) -> Job:
    """With the fastest way to run tiles, if an image is large enough for that to matter."""
    contract = job.package.contract
    is_large = any(is_tuned(job.config, contract, image.shape) for image in job.images)
    # What is kept is of the one model.
    return _fastest(ws, job) if is_large and not job.recipe.ensemble else job


def _fastest(ws: Workspace, job: Job) -> Job:
    """With the speed of tiles, and compiled where that is measured to pay.

    Not of a model that is adapted to each image: each would have to be compiled.
    """
    contract = job.package.contract

    def measured(compiled: bool) -> Tuning | None:
        recipe = Recipe(Decision(len(job.package.classes), job.ignore), can_compile=compiled)
        noise = noise_tile(contract, (*contract.strides[:-2], 2 * contract.stride, 2 * contract.stride))
        network = Network(job.package, job.device, job.precision, 1, recipe).adapted(noise[None])
        return tuned(ws, network, job.package.contract, job.package.model_id, job.config.dry_run)

    if job.config.compile == "on":
        return replace(job, tuning=measured(True))
    eager = measured(False)
    # What is measured is one model with one tile at once, and says nothing of others.
    is_open = job.config.compile == "auto" and job.device.type == "cuda" and job.batch == 1 and not job.recipe.samples
    is_open = is_open and not job.adapts
    compiled = measured(True) if is_open and eager is not None and lacking(job.device) is None else None
    if eager is None or compiled is None or not eager.is_worth_compiling(compiled):
        return replace(job, tuning=eager)
    return replace(job, tuning=compiled, recipe=replace(job.recipe, can_compile=True))
