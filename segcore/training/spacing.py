"""Spacing: images of any pixel size -> pixels of the one that was asked for, as predict will see them."""

import math
from collections.abc import Sequence

from segcore.errors import ConfigError
from segcore.inference.contract import SAME, sized
from segcore.inference.model_grid import ModelGrid
from segcore.spatial import METERS_PER_UNIT, Spacing, WantedSpacing
from segcore.store import Image

MAX_ENLARGED = 1.5
"""Pixels are made so many times smaller at most: what is not in an image cannot be learnt from it."""


def asked(text: str, images: Sequence[Image]) -> Spacing:
    """What a user asks for; without a unit it is the first image's."""
    wanted = WantedSpacing.parse(text)
    unit = wanted.unit or next((image.spacing.unit for image in images if image.spacing is not None), "micrometer")
    return Spacing(values={"y": wanted.value, "x": wanted.value}, unit=unit, origin="asked for")


def common(images: Sequence[Image]) -> Spacing | None:
    """One size for images whose own differ: their median, or larger where the coarsest could not be brought to it.

    The median is what nnU-Net trains at (Isensee et al., Nature Methods 18, 2021). None where all are alike, or some
    image has no size that compares with the others'.
    """
    own = [image.spacing for image in images]
    known = [spacing for spacing in own if spacing is not None]
    if not known or len(known) < len(own):
        return None
    unit = known[0].unit
    if any(spacing.unit != unit and not {spacing.unit, unit} <= METERS_PER_UNIT.keys() for spacing in known):
        return None
    scale = METERS_PER_UNIT.get(unit, 1.0)
    sizes = sorted(
        METERS_PER_UNIT.get(spacing.unit, 1.0) / scale * math.sqrt(spacing.values["y"] * spacing.values["x"])
        for spacing in known
    )
    if sizes[-1] <= (1 + SAME) * sizes[0]:
        return None
    value = max(sizes[len(sizes) // 2], sizes[-1] / MAX_ENLARGED)
    return Spacing(values={"y": value, "x": value}, unit=unit, origin=f"images of {sizes[0]:g} to {sizes[-1]:g} {unit}")


def resampled(image: Image, wanted: Spacing) -> ModelGrid:
    """The image's pixels at a wanted size: those of its nearest level, resampled where they differ by over 2 %.

    The same level and the same grid that predict takes for a model of this size.

    Raises:
        ConfigError: if the image has no size, one of another kind, or pixels too large.
    """
    where, size = f"spacing: image {image.image_id}", f"{wanted.values['y']:g} {wanted.unit}"
    own = image.spacing
    if own is None:
        raise ConfigError(
            f"{where}: expected pixels of a known size to make {size} of, got none; ingest it with its spacing, or "
            "train with `level`"
        )
    if own.unit != wanted.unit and not {own.unit, wanted.unit} <= METERS_PER_UNIT.keys():
        raise ConfigError(
            f"{where}: expected a pixel size that compares with {size}, got {own.values['y']:g} {own.unit}; ask for "
            f"one in {own.unit}"
        )
    grid = sized(image, wanted, math.inf)
    if min(grid.step) < (1 - 1e-9) / MAX_ENLARGED:
        raise ConfigError(
            f"{where}: expected pixels of at most {MAX_ENLARGED * wanted.values['y']:g} {wanted.unit} to make {size} "
            f"of, got {own.values['y']:g} {own.unit}; ask for a larger spacing, or give the image the split test"
        )
    return grid
