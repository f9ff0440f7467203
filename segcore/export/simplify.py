"""Simplify: outlines along pixel edges -> *the same with fewer corners*, none of them moved farther than a tolerance.

    +-----o-----+     A node (o) is a pixel corner where more than two borders meet; it stays. What lies between two
    |  a  |  b  |     of them is an arc, which two objects share, or an object and the background. Every arc is
    +--o--o--o--+     simplified (Douglas & Peucker, 1973) from its upper end to its lower one, so that both of its
    |     c     |     objects get the same line, whichever window they were found in. An arc with a corner keeps one,
    +-----------+     so that nothing between two arcs vanishes.

An object whose lines would then cross is simplified once more, by GEOS's variant that keeps topology, or, where that
does not help, not at all; its borders may then differ from its neighbours', within the tolerance.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Polygons = npt.NDArray[np.object_]
Lines = npt.NDArray[np.object_]
IsNode = Callable[[Ints], Bools]
"""Pixel corners (n, 2), x before y, of the whole mask -> which of them are nodes."""

WALKED_PX = 1_000_000
"""Of outlines that are walked along at once, some 100 bytes each."""
FAR = np.int64(2**62)
SHIFT = np.int64(2**31)
_NONE = np.empty(0, np.int64)


def nodes_in(values: npt.NDArray[Any]) -> Bools:
    """Which pixel corners are nodes.

    Args:
        values: (Y + 2, X + 2) of a window and one pixel around it; equal where pixels belong to one object.

    Returns:
        (Y + 1, X + 1) of the window's own pixel corners.
    """
    beside, below = values[:, 1:] != values[:, :-1], values[1:] != values[:-1]
    degree = beside[1:].astype(np.uint8) + beside[:-1] + below[:, 1:] + below[:, :-1]
    return np.asarray(degree > 2)


def nodes_on(polygons: Polygons, is_node: IsNode) -> Ints:
    """The nodes that outlines run over, as numbers."""
    walked = [_walk(part, is_node) for part in _portions(polygons)]
    return np.unique(np.concatenate([_NONE, *(_codes(walk.points[walk.nodes]) for walk in walked)]))


def any_of(nodes: Sequence[Ints]) -> IsNode:
    """Whether a pixel corner is among those that `nodes_on` found."""
    known = np.unique(np.concatenate([_NONE, *nodes]))
    return lambda corners: np.isin(_codes(corners), known)


def _codes(corners: Ints) -> Ints:
    """(n, 2) -> (n,), in raster order."""
    return corners[:, 1] * SHIFT + corners[:, 0]


def simplified(polygons: Polygons, is_node: IsNode, tolerance_px: float) -> Polygons:
    """Polygons without the corners that are within the tolerance of the line through those that stay; all valid.

    Args:
        polygons: (N,), whose corners are pixel corners.
        is_node: which pixel corners on them are nodes.
        tolerance_px: the largest distance between an outline and what becomes of it.
    """
    parts = [_Arcs(part, _walk(part, is_node)).simplified(tolerance_px) for part in _portions(polygons)]
    return np.concatenate([np.empty(0, dtype=object), *parts])


def _portions(polygons: Polygons) -> Iterator[Polygons]:
    """All of them, a bounded length at a time."""
    portion = np.cumsum(shapely.length(polygons)) // WALKED_PX
    yield from np.split(polygons, np.flatnonzero(np.diff(portion)) + 1) if len(polygons) else ()


@dataclass(frozen=True, eq=False)
class _Walk:
    """Corners and nodes of outlines, ring after ring, in order; no ring repeats its first point."""

    points: Ints
    """(n, 2)."""
    nodes: Bools
    """(n,)."""
    ring_starts: Ints
    """(R + 1,), into the points; the last is n."""
    polygon_starts: Ints
    """(N + 1,), into the rings."""


def _walk(polygons: Polygons, is_node: IsNode) -> _Walk:
    _, corners, (ring_ends, polygon_starts) = shapely.to_ragged_array(polygons)
    corners = corners.astype(np.int64)
    is_last = np.zeros(len(corners), np.bool_)
    is_last[ring_ends[1:] - 1] = True
    at = np.flatnonzero(~is_last)
    steps = corners[at + 1] - corners[at]
    lengths = np.abs(steps).sum(axis=1)
    edge = np.repeat(np.arange(len(at)), lengths)
    along = np.arange(len(edge)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    points = corners[at][edge] + np.sign(steps)[edge] * along[:, None]
    nodes = is_node(points)
    kept = nodes | (along == 0)
    ring = np.repeat(np.arange(len(ring_ends) - 1), np.diff(ring_ends))[at][edge][kept]
    starts = np.searchsorted(ring, np.arange(len(ring_ends)))
    return _Walk(points[kept], nodes[kept], starts, np.asarray(polygon_starts, np.int64))


class _Arcs:
    """The outlines of some polygons, cut at their nodes into lines that have a direction of their own."""

    def __init__(self, polygons: Polygons, walk: _Walk) -> None:
        self._polygons = polygons
        order, arc, self._ring_of = _cut(walk)
        first, last = _ends(arc)
        code = _codes(walk.points)[order]
        self._is_turned = code[first] > code[last]
        points = walk.points[_turned(order, arc, self._is_turned)]
        self._lines: Lines = shapely.linestrings(points.astype(np.float64), indices=arc)
        self._polygon_starts = walk.polygon_starts

    def simplified(self, tolerance: float) -> Polygons:
        """The polygons again; those whose lines cross one another by now are simplified on their own."""
        lines = _fewer_corners(self._lines, tolerance)
        polygons = self._joined(lines)
        for index in np.flatnonzero(~shapely.is_valid(polygons)):
            rings = (self._ring_of >= self._polygon_starts[index]) & (self._ring_of < self._polygon_starts[index + 1])
            own = shapely.multilinestrings(self._lines[rings])
            lines[rings] = shapely.get_parts(shapely.simplify(own, tolerance, preserve_topology=True))
        again = self._joined(lines)
        wrong = ~shapely.is_valid(again)
        again[wrong] = self._polygons[wrong]
        return again

    def _joined(self, lines: Lines) -> Polygons:
        """Polygons of these lines; a ring of fewer than three corners gets its own back."""
        num_rings = self._polygon_starts[-1]
        corners = np.bincount(self._ring_of, shapely.get_num_coordinates(lines) - 1, minlength=num_rings)
        lines = np.where((corners < 3)[self._ring_of], self._lines, lines)
        points, arc = shapely.get_coordinates(lines, return_index=True)
        order = _turned(np.arange(len(points)), arc, self._is_turned)
        ring = self._ring_of[arc]
        # Each arc ends where the next begins: only the last of a ring keeps its end, which closes it.
        kept = (np.diff(arc, append=-1) == 0) | (np.diff(ring, append=-1) != 0)
        ends = np.searchsorted(ring[kept], np.arange(num_rings + 1))
        kind, starts = shapely.GeometryType.POLYGON, (ends, self._polygon_starts)
        return np.asarray(shapely.from_ragged_array(kind, points[order][kept], starts), dtype=object)


def _cut(walk: _Walk) -> tuple[Ints, Ints, Ints]:
    """The points in the order of the arcs, the arc of each, and the ring of each arc; the ends of an arc are in it.

    A ring begins at a node, or, without one, at its first pixel corner; an arc that comes back to where it began is
    two, cut at its last pixel corner, or, where it began there, at its first.
    """
    starts, lengths = walk.ring_starts[:-1], np.diff(walk.ring_starts)
    index, code = np.arange(len(walk.points)), _codes(walk.points)
    is_first = code == np.repeat(np.minimum.reduceat(code, starts), lengths)
    node = np.minimum.reduceat(np.where(walk.nodes, index, FAR), starts)
    begin = np.where(node < FAR, node, np.minimum.reduceat(np.where(is_first, index, FAR), starts))
    ring = np.repeat(np.arange(len(starts)), lengths + 1)
    along = np.arange(len(ring)) - np.repeat(np.cumsum(lengths + 1) - lengths - 1, lengths + 1)
    order = starts[ring] + (begin[ring] - starts[ring] + along) % lengths[ring]
    inner = (along > 0) & (along < lengths[ring])
    divides = walk.nodes[order] & inner
    twice, arc = _divided(along == 0, divides)
    again, extremes = np.zeros_like(divides), code[order][twice]
    first, last = _ends(arc)
    is_closed = extremes[first] == extremes[last]
    at_end = np.maximum.reduceat(extremes, first)
    at_end = np.where(at_end > extremes[first], at_end, np.minimum.reduceat(extremes, first))
    again[twice[is_closed[arc] & (extremes == at_end[arc])]] = True
    twice, arc = _divided(along == 0, divides | (again & inner))
    return order[twice], arc, ring[twice][_ends(arc)[0]]


def _divided(begins: Bools, divides: Bools) -> tuple[Ints, Ints]:
    """Places, those where an arc ends and the next begins twice; and the arc of each."""
    twice = np.repeat(np.arange(len(divides)), 1 + divides)
    arc = np.cumsum(begins[twice] | (np.diff(twice, prepend=-1) == 0)) - 1
    return twice, arc


def _ends(arc: Ints) -> tuple[Ints, Ints]:
    """Where each arc has its first and its last point."""
    first = np.flatnonzero(np.diff(arc, prepend=-1))
    return first, np.append(first[1:], len(arc)) - 1


def _turned(order: Ints, arc: Ints, is_turned: Bools) -> Ints:
    """The order with some arcs from their end to their beginning."""
    first, last = _ends(arc)
    index = np.arange(len(order))
    turned: Ints = order[np.where(is_turned[arc], first[arc] + last[arc] - index, index)]
    return turned


def _fewer_corners(lines: Lines, tolerance: float) -> Lines:
    """Each line simplified; none that has a corner loses all, so that nothing between two of them vanishes."""
    found = shapely.simplify(lines, tolerance, preserve_topology=False)
    straight = np.flatnonzero((shapely.get_num_coordinates(found) == 2) & (shapely.get_num_coordinates(lines) > 2))
    if not len(straight):
        return np.asarray(found, dtype=object)
    points, line = shapely.get_coordinates(lines[straight], return_index=True)
    first, last = _ends(line)
    chord, away = (points[last] - points[first])[line], points - points[first][line]
    off = np.abs(chord[:, 0] * away[:, 1] - chord[:, 1] * away[:, 0])
    is_farthest = off == np.maximum.reduceat(off, first)[line]
    middle = np.minimum.reduceat(np.where(is_farthest, np.arange(len(line)), FAR), first)
    divides = np.zeros(len(line), np.bool_)
    divides[middle] = True
    begins = np.zeros(len(line), np.bool_)
    begins[first] = True
    twice, half = _divided(begins, divides)
    halves = shapely.simplify(shapely.linestrings(points[twice], indices=half), tolerance, preserve_topology=False)
    corners, half = shapely.get_coordinates(halves, return_index=True)
    kept = (half % 2 == 0) | (np.diff(half, prepend=-1) == 0)  # the second half begins where the first one ends
    found[straight] = shapely.linestrings(corners[kept], indices=half[kept] // 2)
    return np.asarray(found, dtype=object)
