"""Boundaries: class numbers of target and mask, window by window -> *HD95, ASSD, NSD, boundary IoU* of each class.

A boundary pixel of a class has a pixel of another class on one of its faces (4 neighbours in a plane, 6 in a volume).
Towards pixels that do not count (ignore, nodata, beyond the image) nobody knows where the class ends, so that there
is no boundary:

    pixels      a a a b b . a     . = does not count
    boundary        a b           of a: one pixel, of b: one; none beside the point

Distances are between the centres of boundary pixels, from each of one to the nearest of the other. Windows come with a
halo: a distance up to the cap is exact, however the image is cut; a longer one (or none, where the other has no
boundary) counts as the cap.

    HD95          the larger of the 95th percentiles of target -> mask and mask -> target (linear interpolation)
    ASSD          mean of all distances, both ways
    NSD           share of boundary pixels, both ways, that are within the tolerance (Nikolov et al., 2018)
    boundary IoU  IoU of the two bands along the boundaries, inside the class, as wide as the tolerance (Cheng et al.,
                  2021; the width is Euclidean here: within the tolerance of a pixel of another class), and a
                  boundary pixel at least

Equal distances are counted together, so percentiles are exact, and memory is bounded by the number of distances that
a halo holds.
"""

import itertools
import math
from collections import Counter as Tally
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from segcore.geometry import Ints, Window

Numbers = npt.NDArray[np.integer[Any]]
Places = npt.NDArray[np.int64]
"""(n, axes) pixels, or flat (n,)."""

BOUNDARY_METRICS = ("hd95", "assd", "nsd", "boundary_iou")
"""Distances in the ruler's unit, then shares."""
EXACT = 1 + 1e-9
"""Two lengths that differ by less than this are one: 3, 4 and 5 times a spacing are not sums of the same roundings."""


NEAR_SIDES = 8
NEAR_STEPS = 200
"""How far, in sides of a pixel, and at how many neighbours one looks before a tree is built."""


@dataclass(frozen=True, slots=True)
class Ruler:
    """How long a pixel is, and which lengths matter; all in `unit`.

    Raises:
        AssertionError: if the tolerance is beyond the cap.
    """

    sides: tuple[float, ...]
    """Of a pixel, per axis of the label; 0 for t: there is no distance in time."""
    unit: str
    """"px", "um", "mm" or "m"."""
    tolerance: float
    cap: float
    """The longest distance that is measured."""

    def __post_init__(self) -> None:
        assert self.tolerance <= self.cap, f"tolerance {self.tolerance} is beyond the cap {self.cap} {self.unit}"

    @property
    def spatial(self) -> Ints:
        """The axes along which there are boundaries."""
        return tuple(axis for axis, side in enumerate(self.sides) if side > 0)

    def reach(self, length: float) -> Ints:
        """Pixels per axis that a length spans at most."""
        return tuple(int(length * EXACT / side) if side > 0 else 0 for side in self.sides)

    @property
    def halo(self) -> Ints:
        """Pixels per axis that a window has to show beyond its core: one more tells whether the last is a boundary."""
        return tuple(px + (side > 0) for px, side in zip(self.reach(self.cap), self.sides, strict=True))


def common_lengths(rulers: Collection[Ruler]) -> dict[str, Any]:
    """`unit`, `tolerance`, `cap` that all (at least one) have; None of what differs, and of lengths in other units."""
    units = {ruler.unit for ruler in rulers}
    found: dict[str, Any] = {"unit": units.pop() if len(units) == 1 else None}
    for name in ("tolerance", "cap"):
        lengths = {getattr(ruler, name) for ruler in rulers}
        found[name] = lengths.pop() if found["unit"] is not None and len(lengths) == 1 else None
    return found


@dataclass(slots=True)
class _ClassTally:
    """What one class adds up to."""

    distances: tuple[Tally[float], Tally[float]] = field(default_factory=lambda: (Tally(), Tally()))
    """Target -> mask, mask -> target: how often each distance occurs; inf beyond the cap."""
    band_px: int = 0
    """In both bands."""
    any_band_px: int = 0


class Boundaries:
    """Gathers the boundaries of one image: `add` for every window, then `scores`."""

    def __init__(self, num_classes: int, ruler: Ruler) -> None:
        self._num_classes, self._ruler = num_classes, ruler
        self._classes = [_ClassTally() for _ in range(num_classes)]
        self._band_steps, _ = _steps(ruler, ruler.tolerance)
        steps, lengths = _steps(ruler, min(ruler.cap, NEAR_SIDES * min(ruler.sides[axis] for axis in ruler.spatial)))
        self._near_steps, self._near_lengths = steps[:NEAR_STEPS], lengths[:NEAR_STEPS]

    def add(self, target: Numbers, mask: Numbers, core: Window) -> None:
        """Add one window.

        Args:
            target: class numbers 0..K-1 of the window with its halo (less at the image's border); K = does not count.
            mask: likewise, K at the same pixels.
            core: the part that belongs to this window, counted from the arrays' first pixel.
        """
        assert target.shape == mask.shape, f"target {target.shape} and mask {mask.shape} differ"
        times = [n for n, side in zip(target.shape, self._ruler.sides, strict=True) if side == 0]
        assert set(times) <= {1}, f"boundaries of {times} planes of t at once: the nearest would be of another time"
        edges = _Edges(target, self._num_classes, self._ruler), _Edges(mask, self._num_classes, self._ruler)
        for number in sorted(edges[0].classes | edges[1].classes):
            tally = self._classes[number]
            inner = edges[0].inner(number), edges[1].inner(number)
            for way, (start, end) in enumerate((inner, inner[::-1])):
                tally.distances[way].update(self._distances(_inside(start, core), end, target.shape))
            bands = [self._band(edge, own, number, core) for edge, own in zip(edges, inner, strict=True)]
            tally.band_px += int(np.count_nonzero(bands[0] & bands[1]))
            tally.any_band_px += int(np.count_nonzero(bands[0] | bands[1]))

    def _distances(self, of: Places, to: Places, shape: Ints) -> dict[float, int]:
        """How often each distance occurs, from pixels `of` (n, axes) to the nearest of `to` (m, axes)."""
        found = np.full(len(of), math.inf)
        if len(of) and len(to):
            left = self._near(of, to, shape, found)
            if left.size:
                found[left] = self._far(of[left], to)
        values, times = np.unique(found, return_counts=True)
        return dict(zip(values.tolist(), times.tolist(), strict=True))

    def _near(self, of: Places, to: Places, shape: Ints, found: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
        """Write the distances of those that have one nearby; the others' rows are returned.

        Masks are mostly right to a few pixels, where looking at the neighbours, nearest first, beats every tree.
        """
        reach = tuple(np.abs(self._near_steps).max(axis=0).tolist())
        room = tuple(n + 2 * r for n, r in zip(shape, reach, strict=True))
        is_there = np.zeros(math.prod(room), np.bool_)
        is_there[_flat(to + reach, room)] = True
        left, base = np.arange(len(of)), _flat(of + reach, room)
        for step, length in zip(self._near_steps @ _strides(room), self._near_lengths, strict=True):
            hit = is_there[base + step]
            found[left[hit]] = length
            left, base = left[~hit], base[~hit]
        return left

    def _far(self, of: Places, to: Places) -> npt.NDArray[np.float64]:
        """Distances by a tree; inf beyond the cap."""
        sides, cap = np.asarray(self._ruler.sides), self._ruler.cap * EXACT
        tree = cKDTree(to * sides, balanced_tree=False, compact_nodes=False)
        nearest = tree.query(of * sides, distance_upper_bound=cap)[1]
        is_near = nearest < len(to)
        found = np.full(len(of), math.inf)
        # Taken anew from whole pixels, so that equal steps are equal distances wherever they lie.
        found[is_near] = _lengths(of[is_near] - to[nearest[is_near]], self._ruler)
        found[found > cap] = math.inf
        return found

    def _band(self, edges: "_Edges", inner: Places, number: int, core: Window) -> npt.NDArray[np.bool_]:
        """Which pixels of the core are of the class, and boundary or within the tolerance of one of another class."""
        reach = self._ruler.reach(self._ruler.tolerance)
        around = Window(core.start, core.shape).expanded(reach)
        room = tuple(n + 4 * r for n, r in zip(core.shape, reach, strict=True))
        band = np.zeros(math.prod(room), np.bool_)
        base = _flat(_inside(edges.outer(number), around) - around.start + reach, room)
        for step in self._band_steps @ _strides(room):
            band[base + step] = True
        cut = Window(tuple(2 * r for r in reach), core.shape)
        found = np.asarray(band.reshape(room)[cut.slices] & (edges.numbers[core.slices] == number))
        found[tuple((_inside(inner, core) - core.start).T)] = True
        return found

    def scores(self) -> list[dict[str, Any]]:
        """Of every class: `BOUNDARY_METRICS` (None where neither has a boundary), and the pixels behind them.

        `target_px` and `mask_px` are boundary pixels, `capped_px` those of both whose distance is the cap.
        """
        return [self._scores_of(tally) for tally in self._classes]

    def _scores_of(self, tally: _ClassTally) -> dict[str, Any]:
        both = tally.distances[0] + tally.distances[1]
        found: dict[str, Any] = dict.fromkeys(BOUNDARY_METRICS)
        if num := both.total():
            cap, tolerance = self._ruler.cap, self._ruler.tolerance * EXACT
            found = {
                "hd95": max(percentile(way, 0.95, cap) for way in tally.distances if way),
                "assd": math.fsum(min(length, cap) * times for length, times in both.items()) / num,
                "nsd": sum(times for length, times in both.items() if length <= tolerance) / num,
                "boundary_iou": tally.band_px / tally.any_band_px,
            }
        pixels = {"target_px": tally.distances[0].total(), "mask_px": tally.distances[1].total()}
        return {**found, **pixels, "capped_px": both[math.inf]}


class _Edges:
    """Boundary pixels of all classes of one label in one window, found at once."""

    def __init__(self, numbers: Numbers, uncounted: int, ruler: Ruler) -> None:
        self.numbers = numbers
        pairs = [_unequal_neighbours(numbers, uncounted, axis) for axis in ruler.spatial]
        first = np.concatenate([pair[0] for pair in pairs])
        second = np.concatenate([pair[1] for pair in pairs])
        self._inner = np.concatenate([first, second])
        self._outer = np.concatenate([second, first])
        self._number = numbers.reshape(-1)[self._inner]
        self.classes: set[int] = set(np.unique(self._number).tolist())

    def inner(self, number: int) -> Places:
        """A class's pixels that have another class beside them."""
        return self._places(self._inner[self._number == number])

    def outer(self, number: int) -> Places:
        """The pixels of other classes beside them."""
        return self._places(self._outer[self._number == number])

    def _places(self, flat: Places) -> Places:
        flat = np.sort(flat)  # np.unique hashes, which takes ten times as long
        distinct = flat[np.flatnonzero(np.diff(flat, prepend=-1))]
        return np.stack(np.unravel_index(distinct, self.numbers.shape), axis=1)


def _unequal_neighbours(numbers: Numbers, uncounted: int, axis: int) -> tuple[Places, Places]:
    """Flat places of pixels, and of their next ones along an axis, where both count and differ."""
    every = [slice(None)] * numbers.ndim
    lower, upper = every.copy(), every.copy()
    lower[axis], upper[axis] = slice(None, -1), slice(1, None)
    here, there = numbers[tuple(lower)], numbers[tuple(upper)]
    differ = np.zeros(numbers.shape, np.bool_)
    differ[tuple(lower)] = (here != there) & (here != uncounted) & (there != uncounted)
    first = np.flatnonzero(differ)
    return first, first + _strides(numbers.shape)[axis]


def _steps(ruler: Ruler, length: float) -> tuple[Places, npt.NDArray[np.float64]]:
    """All steps of whole pixels (n, axes) up to a length, the shortest first, and their lengths."""
    steps = np.array(list(itertools.product(*(range(-r, r + 1) for r in ruler.reach(length)))), np.int64)
    lengths = _lengths(steps, ruler)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= length * EXACT]
    return steps[order], lengths[order]


def _lengths(steps: Places, ruler: Ruler) -> npt.NDArray[np.float64]:
    lengths: npt.NDArray[np.float64] = np.sqrt(((steps * ruler.sides) ** 2).sum(axis=1))
    return lengths


def _strides(shape: Ints) -> Places:
    return np.array([math.prod(shape[axis + 1 :]) for axis in range(len(shape))], np.int64)


def _flat(places: Places, shape: Ints) -> Places:
    """Places (n, axes) as indices into the flat array."""
    flat: Places = places @ _strides(shape)
    return flat


def _inside(places: Places, window: Window) -> Places:
    """The rows of `places` (n, axes) that lie in a window."""
    inside: Places = places[((places >= window.start) & (places < window.stop)).all(axis=1)]
    return inside


def percentile(times: Tally[float], share: float, cap: float) -> float:
    """A percentile of values that are given with how often they occur, as numpy's `linear` has it.

    Args:
        times: value -> how often; at least one.
        share: 0..1.
        cap: what larger values count as.
    """
    values = np.array(sorted(times), np.float64)
    ends = np.cumsum([times[value] for value in values.tolist()])
    place = share * (int(ends[-1]) - 1)
    low, high = (values[np.searchsorted(ends, rank, side="right")] for rank in (math.floor(place), math.ceil(place)))
    low, high = min(low, cap), min(high, cap)
    return float(low + (high - low) * (place - math.floor(place)))
