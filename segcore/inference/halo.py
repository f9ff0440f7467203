"""Halo: the share of labels that `halo: fast` changes against `exact`; found on a few tiles, kept with the model."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from segcore.errors import StoreError
from segcore.geometry import Ints, Window
from segcore.inference.adapt import sample_for
from segcore.inference.calibration import keep, kept
from segcore.inference.contract import check_contract
from segcore.inference.job import Job
from segcore.inference.model_grid import ModelGrid
from segcore.inference.numerics import Network
from segcore.inference.precision import device_slug, spread_tiles
from segcore.inference.tile_choice import tiling_for
from segcore.inference.tiling import read_reflected, read_validity, stacked
from segcore.models.receptive import one_thread
from segcore.progress import Progress
from segcore.store import Workspace
from segcore.stretch import stretch_of

MAX_DISAGREEMENT = 0.01
"""A larger share of labels is worth a warning."""

log = logging.getLogger("segcore.inference")


class Disagreement(BaseModel):
    """What was found for one model on one device; `state/models/<model_id>/halo-<device>.json`."""

    model_config = ConfigDict(frozen=True)

    share: float
    """Of the usable pixels of a few write windows: those whose class changes with the halo."""
    fast_px: Ints
    """Halo, per axis of the image."""
    exact_px: Ints
    tile_px: Ints
    """Sides of a write window: seams are more frequent with smaller ones."""


def halo_details(ws: Workspace, job: Job, image_ids: Iterable[str], progress: Progress) -> dict[str, Any]:
    """For the result's details: `halo_disagreement` of `halo: fast`; noted if it is large."""
    contract = job.package.contract
    if job.recipe.ensemble or job.config.halo != "fast" or job.blend != "crop" or contract.global_context:
        return {}
    found = _found(ws, job, image_ids)
    if found is None:
        return {}
    if found.share > MAX_DISAGREEMENT:
        progress.note(
            f"halo fast ({found.fast_px[-1]} px): {found.share:.1%} of the labels on a few tiles are others with "
            f"halo exact ({found.exact_px[-1]} px); give --halo exact, or a number of px between the two"
        )
    return {"halo_disagreement": round(found.share, 6)}


def _found(ws: Workspace, job: Job, image_ids: Iterable[str]) -> Disagreement | None:
    """What was kept, else what the first image shows that the model can take; None if there is no such image."""
    key = f"state/models/{job.package.model_id}/halo-{device_slug(job.device)}.json"
    known = kept(ws, key, Disagreement)
    if known is not None:
        return known
    for image_id in image_ids:
        try:
            grid = check_contract(job.package.contract, ws.image(image_id), job.config.spacing_tolerance).grid
        except Exception as error:  # one bad image never stops the others; it is reported when its turn comes
            log.debug("image %s cannot show what its halo costs", image_id, exc_info=error)
            continue
        try:
            found = measure_disagreement(job, grid)
        except StoreError as error:  # nothing usable there
            log.debug("image %s cannot show what its halo costs", image_id, exc_info=error)
            continue
        except Exception as error:  # not of all images in turn: it costs seconds
            log.debug("what the halo costs is not known", exc_info=error)
            return None
        return found if job.config.dry_run else keep(ws, key, found)
    return None


def measure_disagreement(job: Job, grid: ModelGrid) -> Disagreement:
    """Infer the same few tiles with either halo, in float32, so that nothing but the halo can change a class.

    Raises:
        StoreError: if these tiles have no usable pixel.
    """
    image = grid.image
    fast = tiling_for(job.config, job.package, grid)  # of the package's own size: larger tiles have fewer seams
    exact = tiling_for(job.config.model_copy(update={"halo": "exact", "halo_planes": None}), job.package, grid)
    wide = replace(fast, halo=tuple(map(max, fast.halo, exact.halo)))
    cut = tuple(b - a for a, b in zip(fast.halo, wide.halo, strict=True))
    num_px = num_changed = 0
    if any(cut):
        stretch = stretch_of(image) if job.package.contract.stretch else None
        network = Network(job.package, job.device, "float32", batch=1)
        if network.adapts:
            network = network.adapted(sample_for(job.package.contract, grid, stretch), image.nodata)
        for tile in spread_tiles(grid, wide):
            pixels = stacked(read_reflected(grid, tile.read, stretch), tile.read.start, [tile], 1)
            inner = (slice(None), slice(None), *(slice(c, n - c) for c, n in zip(cut, tile.read.shape, strict=True)))
            with one_thread(), torch.inference_mode():
                ids = network.ids(pixels, wide.halo, image.nodata)
                changed = ids != network.ids(pixels[inner], fast.halo, image.nodata)
            write = grid.mask_window(tile.write)
            inside = grid.on_mask(changed[0], Window(tile.write.start, changed.shape[1:]), write)
            valid = read_validity(grid, write)
            num_px += inside.size if valid is None else int(valid.sum())
            num_changed += int(inside.sum() if valid is None else inside[valid].sum())
        if num_px == 0:
            raise StoreError(f"image {image.image_id}: no usable pixel in the tiles that were tried")
    share = num_changed / max(1, num_px)
    return Disagreement(share=share, fast_px=fast.halo, exact_px=exact.halo, tile_px=fast.core)
