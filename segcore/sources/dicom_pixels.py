"""DICOM pixels: from stored values to those that the image holds; arithmetic alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from segcore.sources.base import Pixels


@dataclass(frozen=True)
class Values:
    """What the pixels of a slice can be, by its header."""

    dtype: str
    """As they are stored."""
    low: int
    high: int
    """Least and greatest stored value, by its bits."""
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def is_scaled(self) -> bool:
        return (self.slope, self.intercept) != (1.0, 0.0)


def values_of(bits_stored: int, is_signed: bool, bits_allocated: int, slope: float, intercept: float) -> Values:
    """Those of whole numbers of so many bits."""
    low = -(1 << bits_stored - 1) if is_signed else 0
    high = (1 << bits_stored - is_signed) - 1
    return Values(f"{'int' if is_signed else 'uint'}{bits_allocated}", low, high, slope, intercept)


def result_dtype(found: Iterable[Values]) -> np.dtype[Any]:
    """One type for all slices.

    The stored type where no slice is scaled; scaled, the first of int16 and int32 that holds every value that the
    headers allow, if all of them are whole; else float32.
    """
    kinds = set(found)
    if not any(kind.is_scaled for kind in kinds):
        return np.result_type(*(np.dtype(kind.dtype) for kind in kinds))
    if all(
        float(kind.slope).is_integer() and float(kind.intercept).is_integer() and kind.dtype[0] in "iu"
        for kind in kinds
    ):
        ends = [end * kind.slope + kind.intercept for kind in kinds for end in (kind.low, kind.high)]
        for name in ("int16", "int32"):
            if np.iinfo(name).min <= min(ends) and max(ends) <= np.iinfo(name).max:
                return np.dtype(name)
    return np.dtype("float32")


def rescaled(stored: Pixels, values: Values, dtype: np.dtype[Any], is_inverted: bool) -> Pixels:
    """The values that a slice means: slope x stored + intercept; where 0 is white, turned round before."""
    if is_inverted:
        # Within the range of the stored bits, so that it fits the type.
        stored = (np.int64(values.low + values.high) - stored.astype(np.int64)).astype(stored.dtype)
    if not values.is_scaled:
        return stored.astype(dtype, copy=False)
    if dtype.kind == "f":
        return np.asarray(stored * np.float64(values.slope) + np.float64(values.intercept), dtype=dtype)
    return np.asarray(stored.astype(np.int64) * int(values.slope) + int(values.intercept), dtype=dtype)
