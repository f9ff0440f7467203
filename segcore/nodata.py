"""Nodata: which values of pixels are none, and how a computed value keeps from being taken for one."""

from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]


def fitting_nodata(nodata: float | None, dtype: str | np.dtype[Any]) -> float | None:
    """The nodata value as pixels of a type have it; None where none can (-9999 in uint8, 1e300 in float32)."""
    kind = np.dtype(dtype)
    if nodata is None or (kind.kind == "f" and not np.isfinite(nodata)):
        return nodata
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            stored = kind.type(nodata)
        return float(stored) if np.isfinite(stored) else None
    limits = np.iinfo(kind)
    return nodata if np.isfinite(nodata) and nodata == int(nodata) and limits.min <= nodata <= limits.max else None


def missing(pixels: Pixels, nodata: float | None) -> npt.NDArray[np.bool_]:
    """Elements without a value, in the shape of `pixels`: nodata, and what is not finite."""
    absent: npt.NDArray[np.bool_] = ~np.isfinite(pixels)
    if nodata is not None and np.isfinite(nodata):
        absent |= pixels == pixels.dtype.type(nodata)
    return absent


def off_nodata(values: Pixels, nodata: float | None) -> Pixels:
    """Computed values that came out as nodata, moved to the next one towards 0 (of 0, to the one above)."""
    if nodata is None or not np.isfinite(nodata):
        return values
    value = values.dtype.type(nodata)
    step = -1 if nodata > 0 else 1
    other = np.nextafter(value, value.dtype.type(step * np.inf)) if values.dtype.kind == "f" else int(nodata) + step
    return np.where(values == value, values.dtype.type(other), values)
