"""Foreground: where it is worth looking, found once at a coarse level and kept as the label `foreground`.

coarse level of the image --> Otsu on saturation (stained tissue is coloured, glass is grey), or what is usable
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import skimage  # loads `filters` when it is asked for

from segcore.classes import ClassInfo
from segcore.ingest.tasks import Probe
from segcore.store import PyramidSpec

Method = Literal["otsu", "nodata"]

COARSE_PX = 2048
"""The finest level is taken whose longer side is at most this."""

CLASSES = (
    ClassInfo(id=0, name="background", color=(0, 0, 0)),
    ClassInfo(id=1, name="foreground", color=(86, 180, 233)),
)


def method_for(found: Probe, wanted: Literal["auto", "otsu", "nodata", "off"]) -> Method | None:
    """How to find the foreground of a source; None = not at all.

    `auto` takes Otsu for colour images whose pixels are measured in micrometres (slides), `nodata` where the file says
    which pixels are usable, and none for the rest and for volumes and sequences.
    """
    info = found.info
    if wanted == "off" or info.axes != ("c", "y", "x"):
        return None
    is_rgb = info.shape[0] == 3 and info.dtype == "uint8"
    if wanted != "auto":
        return wanted if wanted == "nodata" or is_rgb else None
    if is_rgb and info.spacing is not None and info.spacing.unit == "micrometer":
        return "otsu"
    return "nodata" if found.has_valid or info.nodata is not None else None


def coarse_level(spec: PyramidSpec) -> int:
    """The level of an image at which its foreground is found."""
    fitting = (level for level, shape in enumerate(spec.levels) if max(shape[-2:]) <= COARSE_PX)
    return next(fitting, len(spec.levels) - 1)


def find_tissue(pixels: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """What is coloured in a whole level of a bright-field image: (Y, X) uint8, 1 = tissue.

    The usable pixels are divided by their saturation, red, green and blue apart at most, at the threshold of Otsu (IEEE
    Trans. SMC 9, 1979); of one colour all over, all that are usable count. Paler ones that hang together with tissue
    are tissue too, down to halfway between the threshold and glass (hysteresis, Canny, IEEE Trans. PAMI 8, 1986): a
    pixel of a coarse level at the tissue's edge is partly glass.

    Args:
        pixels: (3, Y, X) uint8, red, green, blue.
        valid: (Y, X), True = usable.
    """
    saturation = pixels.max(axis=0) - pixels.min(axis=0)
    values = saturation[valid]
    if values.size == 0 or values.min() == values.max():
        return valid.astype(np.uint8)
    threshold: int = skimage.filters.threshold_otsu(values)  # type: ignore[no-untyped-call]
    glass = values[values <= threshold].mean()
    tissue = skimage.filters.apply_hysteresis_threshold(  # type: ignore[no-untyped-call]
        np.where(valid, saturation, 0), (glass + threshold) / 2, threshold
    )
    return np.asarray(tissue & valid).astype(np.uint8)
