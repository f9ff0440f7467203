"""Facts: labelled images -> *what they are*, as far as it decides which augmentation suits them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.classes import ClassInfo
from segcore.sampling import LabelledImage
from segcore.spatial import Spacing

Floats = npt.NDArray[np.float64]

SIDED = re.compile(r"(^|[^a-z])(left|right)([^a-z]|$)", re.IGNORECASE)
MAX_SPECIMEN_UM = 20.0
"""Larger pixels in micrometres are a printer's resolution (300 dpi = 85 um) and say nothing of what is seen."""
MAX_PLANES = 64
"""So many planes at most are looked at for an up and down."""
MIN_PLANES = 3
MIN_CLASS_SHARE = 0.02
MIN_HEIGHT = 0.15
"""A class that lies, on average over the planes, so far (in heights of the image) above or below the middle."""
MIN_ERRORS = 4.0
"""And whose height is so many standard errors from the middle."""


@dataclass(frozen=True)
class ImageFacts:
    """What the training images have in common."""

    num_bands: int
    dtype: str
    unit: str | None = None
    """Of their spacing; None where it tells nothing."""
    is_georeferenced: bool = False
    is_in_patient: bool = False
    """They have a place in a patient (NIfTI, DICOM)."""
    is_bright: bool = False
    """8-bit, brighter than the middle on average: light shone through a slide."""
    high: str | None = None
    """Name of a class that keeps to one end of the images, top or bottom; None where there is no up and down."""
    sided: str | None = None
    """Name of a class that says left or right."""


def facts_of(images: Sequence[LabelledImage], classes: Sequence[ClassInfo], mean: Sequence[float]) -> ImageFacts:
    """Look at training images.

    Args:
        images: of one kind.
        classes: ids 0, 1, 2...
        mean: of the pixels, per band.
    """
    first = images[0].image
    return ImageFacts(
        num_bands=images[0].num_channels,
        dtype=first.dtype.name,
        unit=_unit(first.spacing),
        is_georeferenced=any(image.image.georef is not None for image in images),
        is_in_patient=any(image.image.attributes.get("affine") is not None for image in images),
        is_bright=first.dtype.name == "uint8" and float(np.mean(mean)) > 127,
        high=_high(images, classes),
        sided=next((info.name for info in classes if SIDED.search(info.name)), None),
    )


def _unit(spacing: Spacing | None) -> str | None:
    if spacing is None or (spacing.unit == "micrometer" and max(spacing.values.values()) > MAX_SPECIMEN_UM):
        return None
    return spacing.unit


def _high(images: Sequence[LabelledImage], classes: Sequence[ClassInfo]) -> str | None:
    """Name of a class that keeps to the top or the bottom: sky, road."""
    planes = [(image, plane) for image in images for plane in range(image.num_planes)]
    chosen = [planes[k] for k in np.unique(np.linspace(0, len(planes) - 1, MAX_PLANES).astype(int))]
    rows = [
        class_heights(image.read_classes(plane, image.target.num_levels - 1), len(classes)) for image, plane in chosen
    ]
    number = high_class(*(np.stack(values) for values in zip(*rows, strict=True)))
    return None if number is None else classes[number].name


def high_class(heights: Floats, pixels: Floats) -> int | None:
    """The class whose height is least likely by chance, if that of any is unlikely.

    Args:
        heights: (planes, K), mean height of each class, -0.5 = top row, 0.5 = bottom row.
        pixels: (planes, K), of each class.
    """
    share = pixels.sum(0) / max(1.0, pixels.sum())
    best, found = MIN_ERRORS, None
    for number in range(pixels.shape[1]):
        seen = heights[:, number][pixels[:, number] > 0]
        if len(seen) < MIN_PLANES or share[number] < MIN_CLASS_SHARE or abs(seen.mean()) < MIN_HEIGHT:
            continue
        errors = abs(seen.mean()) / max(1e-6, float(seen.std(ddof=1)) / np.sqrt(len(seen)))
        if errors > best:
            best, found = errors, number
    return found


def class_heights(classes: npt.NDArray[Any], num_classes: int) -> tuple[Floats, Floats]:
    """Per class of a plane (Y, X): its mean height, -0.5 = top row, and its number of pixels."""
    rows, _ = np.nonzero(classes >= 0)
    numbers = classes[classes >= 0]
    pixels = np.bincount(numbers, minlength=num_classes).astype(np.float64)
    sums = np.bincount(numbers, weights=(rows + 0.5) / classes.shape[0] - 0.5, minlength=num_classes)
    return sums / np.maximum(1, pixels), pixels
