"""Looking: a model and an image -> *the image's statistics*, of a sample of windows and as the model sees them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from segcore.drift.bands import band_statistics, has_stains, stain_statistics
from segcore.drift.distance import MIN_IMAGES
from segcore.drift.reference import Reference, Seen
from segcore.drift.texture import texture, texture_module
from segcore.errors import ContractError, SegcoreError
from segcore.geometry import Window
from segcore.inference.adapt import windows_for
from segcore.inference.contract import check_contract
from segcore.inference.model_grid import ModelGrid, Valid
from segcore.inference.normalised import missing_values, normalised
from segcore.inference.tiling import read_reflected, read_validity
from segcore.models import has_weights
from segcore.models.image_norm import adapted
from segcore.models.package import ModelPackage
from segcore.progress import Progress
from segcore.store import Image
from segcore.stretch import stretch_of
from segcore.taps import Axis

MAX_TEXTURE = 4
"""Windows whose features are pooled; a sample has eight as a rule."""


class Looker:
    """A model, ready to look at one image after the other.

    Args:
        package: the model.
        device: where it runs.
        reference: says which statistics are wanted; None = those that suit the first image.
    """

    def __init__(self, package: ModelPackage, device: torch.device, reference: Reference | None = None) -> None:
        self._package, self._contract, self._device = package, package.contract, device
        network = package.load_weights(device).requires_grad_(False)
        self._network = network if has_weights(network) else None
        self.module = None if reference is None else reference.module
        """Of the network; "" = it has no features to pool, None = not yet known."""
        self._stained = None if reference is None else "stain" in reference.groups

    def seen(self, grid: ModelGrid) -> Seen:
        """The statistics of an image.

        Raises:
            ContractError: if it has no usable pixel.
            SegcoreError: if one of its bands has none, or holds numbers so large that nothing can be computed of them.
        """
        image, contract = grid.image, self._contract
        stretch = stretch_of(image) if contract.stretch else None
        windows = windows_for(contract, grid)
        sample = [read_reflected(grid, window, stretch) for window in windows]
        missing = np.concatenate([_missing(grid, *each) for each in zip(windows, sample, strict=True)], axis=1)
        pixels = np.concatenate([part.reshape(len(part), -1) for part in sample], axis=1)
        if missing.all():
            raise ContractError(f"image {image.image_id}: no usable pixel in the sample")
        if missing.all(axis=1).any():
            raise SegcoreError(f"image {image.image_id}: a band has no usable pixel in the sample")
        found = {"bands": band_statistics(pixels, missing, contract.bands)}
        if self._has_stains(image):
            found["stain"] = stain_statistics(pixels, missing)
        tiles = [torch.from_numpy(normalised(contract, image, part)).to(self._device) for part in sample]
        if self._has_texture(tiles[0]):
            assert self._network is not None
            assert self.module
            network = adapted(self._network, torch.cat(tiles)) if self._package.adapts else self._network
            found["texture"] = texture(network, self.module, tiles[:MAX_TEXTURE])
        if not all(np.isfinite(group.values).all() for group in found.values()):
            raise SegcoreError(
                f"image {image.image_id}: its statistics are not finite; expected numbers that a network can take: "
                "name its fill value as nodata in the file, and ingest it again"
            )
        return found

    def _has_stains(self, image: Image) -> bool:
        if self._stained is None:
            self._stained = has_stains(self._contract, None if image.spacing is None else image.spacing.unit)
        return self._stained

    def _has_texture(self, tile: torch.Tensor) -> bool:
        if self.module is None:
            self.module = "" if self._network is None else texture_module(self._network, tile, self._contract.strides)
        return bool(self.module)


def _missing(grid: ModelGrid, window: Window, pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Values (C, n) of a window that do not count: nodata, and unusable or mirrored pixels."""
    missing = missing_values(grid.image, pixels).copy()
    inside = window.intersected(Window.whole(grid.shape))
    counted = np.zeros(window.shape, np.bool_)
    counted[inside.relative_to(window.start).slices] = True
    valid = _valid(grid, inside)
    if valid is not None:
        counted[inside.relative_to(window.start).slices] &= valid
    missing[:, ~counted] = True
    return missing.reshape(len(pixels), -1)


def _valid(grid: ModelGrid, window: Window) -> Valid | None:
    """Usable pixels of a window; None = all. A resampled one is as the level's pixel is in which its centre lies."""
    if not grid.is_resampled:
        return read_validity(grid, window)
    if not grid.image.has_valid:
        return None  # the resampled pixels tell
    sides = zip(grid.step, grid.mask_shape[-2:], window.start[-2:], window.stop[-2:], strict=True)
    rows, columns = (Axis(step, n).nearest(start, stop) for step, n, start, stop in sides)
    start = (*window.start[:-2], int(rows[0]), int(columns[0]))
    stop = (*window.stop[:-2], int(rows[-1]) + 1, int(columns[-1]) + 1)
    valid = read_validity(grid, Window(start, tuple(b - a for a, b in zip(start, stop, strict=True))))
    return None if valid is None else valid[..., rows - rows[0], :][..., columns - columns[0]]


def reference_of(
    package: ModelPackage, images: Sequence[Image], device: torch.device, progress: Progress
) -> Reference | None:
    """The statistics of training images; None of fewer than three.

    One that cannot be looked at is left out, with a note: it costs no training its package.

    Args:
        package: of their model.
        images: of the training.
        device: where the model runs.
        progress: listener.
    """
    if len(images) < MIN_IMAGES:
        progress.note(f"{len(images)} training images: too few for statistics to hold new images against")
        return None
    progress.start("drift", len(images), "images")
    looker, seen = Looker(package, device), []
    for image in images:
        try:
            seen.append(looker.seen(check_contract(package.contract, image).grid))
        except SegcoreError as error:
            progress.note(f"left out of the statistics for drift: {error}")
        progress.advance()
    return Reference.of(seen, looker.module or "")
