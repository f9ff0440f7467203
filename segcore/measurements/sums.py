"""Sums: the pixels of a window by object -> *what adds up*, so that objects may lie in many windows.

Moments are kept about the centroid and merged as Chan, Golub and LeVeque do ("Updating formulae", 1979): coordinates of
a large image would lose digits if they were squared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.integer[Any]]
Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

STEPS = np.array([1.0, np.sqrt(2), (1 + np.sqrt(2)) / 2])
"""Lengths of a perimeter's steps: straight on, across, and one of each."""


@dataclass(frozen=True)
class Sums:
    """Of n objects, D axes, B bands, K classes and P channels of probabilities."""

    id: Int64s
    area: Int64s
    """(n,): px."""
    low: Int64s
    """(n, D): first pixel of the box along each axis, in px of the mask."""
    high: Int64s
    """(n, D): the one behind the last."""
    mean: Floats
    """(n, D): centroid, px; whole numbers are centres of pixels."""
    spread: Floats
    """(n, D, D): second moments about it, px^2, summed."""
    steps: Int64s
    """(n, 3): of the perimeter, see `STEPS`."""
    ground: Floats
    """(n,): m^2 on the ground; 0 where pixels are all of one size."""
    classes: Int64s
    """(n, K): px of each class."""
    known: Int64s
    """(n, B): px with a value."""
    value: Floats
    """(n, B): their sum."""
    least: Floats
    """(n, B)"""
    most: Floats
    """(n, B)"""
    sure_px: Int64s
    """(n,): px with probabilities."""
    sure: Floats
    """(n, P): their sums, by channel."""

    def __len__(self) -> int:
        return len(self.id)

    def of(self, rows: npt.NDArray[Any]) -> "Sums":
        """Some of them, by index or by a boolean of each."""
        return Sums(**{name: values[rows] for name, values in vars(self).items()})


ADDED = ("area", "steps", "ground", "classes", "known", "value", "sure_px", "sure")
LEAST, MOST = ("low", "least"), ("high", "most")


def together(parts: list[Sums]) -> Sums:
    """Objects of several windows, in the order of their ids; what has one id is one object."""
    all_of = {name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])}
    ids, owner = np.unique(all_of["id"], return_inverse=True)
    found: dict[str, Any] = {"id": ids}
    for names, ufunc, start in ((ADDED, np.add, 0), (LEAST, np.minimum, None), (MOST, np.maximum, None)):
        for name in names:
            values = all_of[name]
            found[name] = np.zeros((len(ids), *values.shape[1:]), values.dtype)
            if start is None:
                found[name][owner] = values  # one of them, to begin with
            ufunc.at(found[name], owner, values)
    weight = all_of["area"].astype(np.float64)
    mean = np.zeros((len(ids), all_of["mean"].shape[1]))
    origin = found["low"].astype(np.float64)
    np.add.at(mean, owner, (all_of["mean"] - origin[owner]) * weight[:, None])
    mean /= found["area"][:, None]
    found["mean"] = origin + mean
    off = all_of["mean"] - found["mean"][owner]
    spread = np.zeros((len(ids), *all_of["spread"].shape[1:]))
    np.add.at(spread, owner, all_of["spread"] + off[:, :, None] * off[:, None, :] * weight[:, None, None])
    return Sums(**found, spread=spread)


@dataclass(frozen=True)
class Seen:
    """The pixels of one window: arrays (Y, X) or (Z, Y, X) of its own pixels."""

    start: Int64s
    """(D,): its first pixel in the mask."""
    ids: Ids
    """With `HALO_PX` more on all sides of y and x; 0 = no object, or no array."""
    codes: Ids
    """Rows of classes; others are counted by none."""
    ground: Floats | None
    """(Y,): m^2 of a pixel of each row, where it differs."""
    pixels: npt.NDArray[Any] | None
    """(B, ...)"""
    has_value: Bools | None
    """(B, ...)"""
    probs: npt.NDArray[Any] | None
    """(P, ...): uint8 to 255, or float16 to 1, nan = none; of many classes they would fill the memory as float64."""


HALO_PX = 2
"""Of ids around a window: a step of a perimeter looks that far."""


def sums_of(seen: Seen, num_classes: int) -> Sums:
    """What adds up of every object in a window."""
    inside = (..., slice(HALO_PX, -HALO_PX), slice(HALO_PX, -HALO_PX))
    own = seen.ids[inside]
    where = np.flatnonzero(own)
    ids, number = _numbered(own.reshape(-1)[where])
    n, shape = len(ids), own.shape
    area = np.bincount(number, minlength=n).astype(np.int64)
    place = [np.asarray(at) for at in np.unravel_index(where, shape)]
    low, high = np.zeros((n, len(shape)), np.int64), np.zeros((n, len(shape)), np.int64)
    for axis, at in enumerate(place):
        low[:, axis], high[:, axis] = _extremes(number, at, n)
    high += 1
    mean, spread = _moments(number, [at - low[number, axis] for axis, at in enumerate(place)], area)
    flat_codes = seen.codes.reshape(-1)[where].astype(np.int64)
    counted = flat_codes < num_classes
    classes = np.bincount(number[counted] * num_classes + flat_codes[counted], minlength=n * num_classes)
    ground: Floats = np.zeros(n)
    if seen.ground is not None:
        ground = ground + np.bincount(number, seen.ground[place[-2]], n)
    return Sums(
        id=ids,
        area=area,
        low=low + seen.start,
        high=high + seen.start,
        mean=mean + low + seen.start,
        spread=spread,
        steps=_steps(seen.ids, ids) if len(shape) == 2 else np.zeros((n, 3), np.int64),
        ground=ground,
        classes=classes.reshape(n, num_classes).astype(np.int64),
        **_values(seen, where, number, n),
        **_sureness(seen, where, number, n),
    )


def _numbered(values: Ids) -> tuple[Int64s, Int64s]:
    """The ids there are, sorted, and the number of each value among them."""
    if not values.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    wide = values.astype(np.int64)
    least = int(wide.min())
    if wide.max() - least > 4 * wide.size:
        ids, number = np.unique(wide, return_inverse=True)
        return ids, number
    present = np.flatnonzero(np.bincount(wide - least))
    number_of = np.zeros(int(present[-1]) + 1, np.int64)
    number_of[present] = np.arange(len(present))
    return present + least, number_of[wide - least]


def _extremes(number: Int64s, values: npt.NDArray[Any], n: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """(n,) least and greatest value of each object; 0 where it has none."""
    least, most = np.zeros(n, values.dtype), np.zeros(n, values.dtype)
    least[number] = most[number] = values
    np.minimum.at(least, number, values)
    np.maximum.at(most, number, values)
    return least, most


def _moments(number: Int64s, place: list[Int64s], area: Int64s) -> tuple[Floats, Floats]:
    """Means (n, D) and second moments about them (n, D, D), summed; whole numbers up to the division."""
    n, ndim = len(area), len(place)
    first = np.stack([np.bincount(number, at, n) for at in place], axis=1) if n else np.zeros((0, ndim))
    spread = np.zeros((n, ndim, ndim))
    for i in range(ndim):
        for j in range(i, ndim):
            second = np.bincount(number, place[i] * place[j], n) - first[:, i] * first[:, j] / area
            spread[:, i, j] = spread[:, j, i] = second
    return first / area[:, None], spread


def _steps(ids: Ids, present: Int64s) -> Int64s:
    """(n, 3): the steps of each object's perimeter, as `skimage.measure.perimeter` counts them (4 neighbours).

    Benkrid and Crookes ("Design and FPGA implementation of a perimeter estimator", 2000): a pixel at the rim is a step
    whose length depends on which of its neighbours are at the rim too.
    """
    middle = ids[1:-1, 1:-1]
    at_rim = middle > 0
    differs = np.zeros_like(at_rim)
    for beside in (ids[:-2, 1:-1], ids[2:, 1:-1], ids[1:-1, :-2], ids[1:-1, 2:]):
        differs |= beside != middle
    at_rim &= differs
    width = middle.shape[1]
    rim = np.flatnonzero(np.pad(at_rim[1:-1, 1:-1], 1))
    flat_ids, flat_rim = middle.reshape(-1), at_rim.reshape(-1)
    own = flat_ids[rim]
    code = np.ones(len(rim), np.int64)
    for off, worth in ((1, 2), (width, 2), (width - 1, 10), (width + 1, 10)):
        for there in (rim - off, rim + off):
            code += worth * (flat_rim[there] & (flat_ids[there] == own))
    kind = np.full(50, -1)
    kind[[5, 7, 15, 17, 25, 27]], kind[[21, 33]], kind[[13, 23]] = 0, 1, 2
    kinds = kind[code]
    number = np.searchsorted(present, own.astype(np.int64))
    counted = kinds >= 0
    found = np.bincount(number[counted] * 3 + kinds[counted], minlength=3 * len(present))
    return found.reshape(-1, 3).astype(np.int64)


def _values(seen: Seen, where: Int64s, number: Int64s, n: int) -> Mapping[str, Any]:
    """Of each band: how many values, their sum, the least and the greatest."""
    num_bands = 0 if seen.pixels is None else len(seen.pixels)
    known, value = np.zeros((n, num_bands), np.int64), np.zeros((n, num_bands))
    least, most = np.full((n, num_bands), np.inf), np.full((n, num_bands), -np.inf)
    for band in range(num_bands):
        assert seen.pixels is not None
        values = seen.pixels[band].reshape(-1)[where]
        own = number
        if seen.has_value is not None:
            has_value = seen.has_value[band].reshape(-1)[where]
            values, own = values[has_value], number[has_value]
        known[:, band] = np.bincount(own, minlength=n)
        value[:, band] = np.bincount(own, values, n)
        there = known[:, band] > 0
        for column, extreme in zip((least, most), _extremes(own, values, n), strict=True):
            column[there, band] = extreme[there]
    return {"known": known, "value": value, "least": least, "most": most}


def _sureness(seen: Seen, where: Int64s, number: Int64s, n: int) -> Mapping[str, Any]:
    """Of each channel of probabilities: their sum."""
    if seen.probs is None:
        return {"sure_px": np.zeros(n, np.int64), "sure": np.zeros((n, 0))}
    values = seen.probs.reshape(len(seen.probs), -1)[:, where]
    is_there = ~np.isnan(values).any(axis=0)
    most = 255.0 if values.dtype == np.uint8 else 1.0
    sums = [np.bincount(number[is_there], each[is_there].astype(np.float64) / most, n) for each in values]
    return {"sure_px": np.bincount(number[is_there], minlength=n).astype(np.int64), "sure": np.stack(sums, axis=1)}
