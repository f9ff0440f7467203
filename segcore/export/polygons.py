"""Polygons: ids -> *outlines*, window by window, with no seam where two windows meet.

    +-----+-----+     An object inside one window is finished at once. The pieces of one that touches the edge of a
    |  a  | b:b |     window are held back; along the seam, pixel by pixel, it shows which of them belong together.
    +-----+-:-:-+     When no piece of an object reaches down into the next row of windows, all its pieces are merged,
    |  c..|.:c  |     once. So time grows with the outlines' length, and memory holds the outlines (never the pixels)
    +-----+-----+     of the objects still open: an object that spans the image is held whole until it ends.

Pixels belong together when they share a side (4-connectivity). Outlines run along pixel edges, in
pixel coordinates (x right, y down, the image's corner is 0, 0), holes included; with a tolerance they are simplified
(`segcore.export.simplify`), the same way in every window.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio.features
import shapely
from rasterio.transform import Affine
from shapely.geometry import Polygon
from skimage.measure import label

from segcore.export.simplify import IsNode, Polygons, any_of, nodes_in, nodes_on, simplified
from segcore.geometry import Grid, Ints, Window

Ids = npt.NDArray[np.int64]
Sums = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]
"""Numbers of a window's objects (Y, X), from 1; 0 = none."""
Measure = Callable[[Window, npt.NDArray[Any], Labels, int], Sums]
"""A window, its ids (Y, X), the numbers of its n objects and n -> what adds up over the pixels of each (n, M)."""
Line = Ids
"""Numbers of pieces along one edge of a window or of a row of windows."""


@dataclass(frozen=True, eq=False)
class Outlines:
    """Objects that were finished together; row i of each array is one of them."""

    ids: Ids
    """What its pixels hold."""
    first_px: Ids
    """Raster index of its first pixel in the whole mask; no two objects share one."""
    num_px: Ids
    sums: Sums
    """(N, M), of what was measured."""
    polygons: Polygons

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, chosen: npt.NDArray[Any]) -> "Outlines":
        """Those rows, by a mask or by their indices."""
        parts = (self.ids, self.first_px, self.num_px, self.sums, self.polygons)
        return Outlines(*(part[chosen] for part in parts))

    def simplified(self, is_node: IsNode | None, tolerance_px: float) -> "Outlines":
        """The same with fewer corners; as they are where nobody knows the nodes."""
        if is_node is None:
            return self
        return dataclasses.replace(self, polygons=simplified(self.polygons, is_node, tolerance_px))


def trace_windows(
    read: Callable[[Window], npt.NDArray[Any]],
    sides: Ints,
    window_px: int,
    skip: Collection[int] = (),
    measure: Measure | None = None,
    tolerance_px: float = 0,
) -> Iterator[Outlines]:
    """Outlines of the objects of a whole mask, the same as if it had been traced in one piece.

    Args:
        read: gives the ids (Y, X) of a window.
        sides: (height, width) of the mask in px.
        window_px: side of a window; how much is read at once.
        skip: ids that are no objects: background, ignore.
        measure: what else is wanted of each object.
        tolerance_px: how far from its place an outline may come to lie; 0 = it keeps every corner.

    Yields:
        The objects of each window, and those over several windows when they end; none is empty.
    """
    grid = Grid(sides, (window_px, window_px))
    rows, columns = grid.counts
    pieces = _Pieces(tolerance_px)
    above = np.zeros(sides[1], np.int64)
    for row in range(rows):
        below = np.zeros_like(above)
        beside = np.zeros(window_px, np.int64)
        for column in range(columns):
            window = grid.window((row, column))
            left, (height, width) = window.start[1], window.shape
            ids, is_node = _read(read, sides, window, skip) if tolerance_px else (read(window), None)
            found, labels = trace(ids, sides, window, skip, measure)
            is_open = _open(labels, len(found), window, sides)
            if not is_open.all():
                yield found.where(~is_open).simplified(is_node, tolerance_px)
            numbers = np.zeros(len(found) + 1, np.int64)
            numbers[1:][is_open] = pieces.add(found.where(is_open), is_node)
            pieces.join(above[left : left + width], numbers[labels[0]])
            pieces.join(beside[:height], numbers[labels[:, 0]])
            beside, below[left : left + width] = numbers[labels[:, -1]], numbers[labels[-1]]
        above = pieces.roots(below) if row + 1 < rows else np.zeros_like(below)
        ended = pieces.finish(set(above.tolist()))
        if ended is not None:
            yield ended


def _read(
    read: Callable[[Window], npt.NDArray[Any]], sides: Ints, window: Window, skip: Collection[int]
) -> tuple[npt.NDArray[Any], IsNode]:
    """The ids of a window, and which pixel corners in it are nodes: one pixel around it is looked at too."""
    around = window.expanded((1, 1)).intersected(Window.whole(sides))
    ids = read(around)
    values = np.full([side + 2 for side in window.shape], -1, np.int64)
    top, left = window.start
    values[Window((around.start[0] - top + 1, around.start[1] - left + 1), around.shape).slices] = _kept(ids, skip)
    nodes = nodes_in(values)
    return ids[window.relative_to(around.start).slices], lambda corners: nodes[
        corners[:, 1] - top, corners[:, 0] - left
    ]


def _kept(ids: npt.NDArray[Any], skip: Collection[int]) -> Ids:
    """Ids from 1, and 0 for those that are no objects."""
    kept: Ids = (ids.astype(np.int64) + 1) * ~np.isin(ids, list(skip))
    return kept


def trace(
    ids: npt.NDArray[Any], sides: Ints, window: Window, skip: Collection[int], measure: Measure | None = None
) -> tuple[Outlines, Labels]:
    """Outlines of the objects in one window, and which of its pixels are whose; object i has the number i + 1.

    Args:
        ids: (Y, X) of the window.
        sides: of the whole mask.
        window: where in it they lie.
        skip: ids that are no objects.
        measure: what else is wanted of each object.
    """
    labels = label(_kept(ids, skip), background=0, connectivity=1).astype(np.int32)  # type: ignore[no-untyped-call]
    where = np.flatnonzero(labels)
    owners = labels.ravel()[where]
    count = int(owners.max(initial=0))
    first = np.zeros(count + 1, np.int64)
    first[owners[::-1]] = where[::-1]
    first = first[1:]
    (top, left), width = window.start, window.shape[1]
    outlines = Outlines(
        ids=ids.ravel()[first].astype(np.int64),
        first_px=(top + first // width) * sides[1] + left + first % width,
        num_px=np.bincount(owners, minlength=count + 1)[1:],
        sums=np.zeros((count, 0)) if measure is None else measure(window, ids, labels, count),
        polygons=_polygons(labels, count, Affine.translation(left, top)),
    )
    return outlines, labels


def _polygons(labels: Labels, count: int, place: Affine) -> Polygons:
    """The outline of each number; made of flat arrays, since one by one takes shapely several times as long."""
    numbers: list[int] = []
    rings: list[list[tuple[float, float]]] = []
    starts = [0]
    for geometry, number in rasterio.features.shapes(labels, mask=labels > 0, connectivity=4, transform=place):
        numbers.append(int(number))
        rings.extend(geometry["coordinates"])
        starts.append(len(rings))
    assert len(numbers) == count, f"{len(numbers)} outlines of {count} objects"
    polygons = np.empty(count, dtype=object)
    if count:
        corners = np.array(list(chain.from_iterable(rings)), np.float64)
        ends = np.cumsum([0, *map(len, rings)])
        made = shapely.from_ragged_array(shapely.GeometryType.POLYGON, corners, (ends, np.array(starts)))
        polygons[np.array(numbers) - 1] = made
    return polygons


def _open(labels: Labels, count: int, window: Window, sides: Ints) -> npt.NDArray[np.bool_]:
    """(n,), True for the objects that touch an edge of the window which is none of the image."""
    touching = np.zeros(count + 1, np.bool_)
    edges = (labels[0], labels[:, 0], labels[-1], labels[:, -1])
    at_image = (window.start[0] == 0, window.start[1] == 0, window.stop[0] == sides[0], window.stop[1] == sides[1])
    for edge, is_image in zip(edges, at_image, strict=True):
        if not is_image:
            touching[edge] = True
    return touching[1:]


@dataclass(slots=True)
class _Held:
    """An object that may go on in a window still to come."""

    id: int
    first_px: int
    num_px: int
    sums: Sums
    pieces: list[Polygon]
    nodes: list[Ids]
    """Of all windows that it has pieces in."""

    def take(self, other: "_Held") -> None:
        self.first_px = min(self.first_px, other.first_px)
        self.num_px += other.num_px
        self.sums = self.sums + other.sums
        self.pieces.extend(other.pieces)
        self.nodes.extend(other.nodes)


class _Pieces:
    """Pieces of the objects that seams cut, as sets that grow together (union-find); merged once, at the end."""

    def __init__(self, tolerance_px: float) -> None:
        self._tolerance_px = tolerance_px
        self._num_added = 0
        self._parent: dict[int, int] = {}
        self._objects: dict[int, _Held] = {}
        """By root."""

    def add(self, found: Outlines, is_node: IsNode | None) -> Ids:
        """Hold pieces of one window back; their numbers, from 1."""
        nodes = [] if is_node is None else [nodes_on(found.polygons, is_node)]
        numbers = np.arange(self._num_added + 1, self._num_added + len(found) + 1)
        self._num_added += len(found)
        for i, number in enumerate(numbers.tolist()):
            self._parent[number] = number
            facts = (int(found.ids[i]), int(found.first_px[i]), int(found.num_px[i]))
            self._objects[number] = _Held(*facts, found.sums[i], [found.polygons[i]], nodes.copy())
        return numbers

    def join(self, one: Line, other: Line) -> None:
        """Two lines of pixels on either side of a seam: pieces of one id that face each other are one object."""
        facing = (one != 0) & (other != 0)
        for a, b in np.unique(np.stack([one[facing], other[facing]], axis=1), axis=0).tolist():
            keep, drop = self._root(a), self._root(b)
            if keep == drop or self._objects[keep].id != self._objects[drop].id:
                continue
            if len(self._objects[keep].pieces) < len(self._objects[drop].pieces):
                keep, drop = drop, keep
            self._parent[drop] = keep
            self._objects[keep].take(self._objects.pop(drop))

    def roots(self, line: Line) -> Line:
        """The line with the number of its object for that of every piece."""
        numbers, at = np.unique(line, return_inverse=True)
        return np.array([self._root(number) if number else 0 for number in numbers.tolist()], np.int64)[at]

    def finish(self, still_open: Collection[int]) -> Outlines | None:
        """Merge and forget the objects but for those with these roots; None if all are open."""
        ended = [self._objects.pop(root) for root in list(self._objects) if root not in still_open]
        self._parent = {root: root for root in self._objects}
        if not ended:
            return None
        polygons = np.empty(len(ended), dtype=object)
        polygons[:] = [_merged(held.pieces) for held in ended]
        ids, first_px, num_px = np.array([(held.id, held.first_px, held.num_px) for held in ended], np.int64).T
        nodes = {id(part): part for held in ended for part in held.nodes}  # pieces of one window share them
        is_node = any_of(list(nodes.values())) if self._tolerance_px else None
        sums = np.stack([held.sums for held in ended])
        return Outlines(ids, first_px, num_px, sums, polygons).simplified(is_node, self._tolerance_px)

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number


def _merged(pieces: list[Polygon]) -> Polygon:
    """One outline, without the points that a seam left in the middle of a straight edge."""
    if len(pieces) == 1:
        return pieces[0]
    whole = shapely.union_all(pieces)
    return Polygon(_corners(whole.exterior.coords), [_corners(ring.coords) for ring in whole.interiors])


def _corners(ring: Any) -> npt.NDArray[np.float64]:
    points = np.asarray(ring)[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] != 0
    corners: npt.NDArray[np.float64] = points[turns]
    return corners
