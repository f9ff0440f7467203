"""Polygons: class ids -> *outlines*, window by window, with no seam where two windows meet.

    +-----+-----+     An object inside one window is finished at once. The pieces of one that touches the edge of a
    |  a  | b:b |     window are held back; along the seam, pixel by pixel, it shows which of them belong together.
    +-----+-:-:-+     When no piece of an object reaches down into the next row of windows, all its pieces are merged,
    |  c..|.:c  |     once. So time grows with the outlines' length, and memory holds the outlines (never the pixels)
    +-----+-----+     of the objects still open: an object that spans the image is held whole until it ends.

Pixels belong together when they share a side (4-connectivity). Outlines run along pixel edges, in
pixel coordinates (x right, y down, the image's corner is 0, 0), holes included.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio.features
import shapely
from shapely.geometry import Polygon, shape

from segcore.geometry import Grid, Ints, Window

Outline = tuple[int, Polygon]
"""Class id, and one connected object of it."""
Line = npt.NDArray[np.int64]
"""Numbers of pieces along one edge of a window or of a row of windows."""


def trace(ids: npt.NDArray[Any], skip: Collection[int] = ()) -> list[Outline]:
    """Outlines of the objects in one array (Y, X), but for the ids in `skip`."""
    found = rasterio.features.shapes(ids, mask=~np.isin(ids, list(skip)), connectivity=4)
    return [(int(value), shape(geometry)) for geometry, value in found]


def trace_windows(
    read: Callable[[Window], npt.NDArray[Any]], sides: Ints, window_px: int, skip: Collection[int] = ()
) -> Iterator[Outline]:
    """Outlines of the objects of a whole mask, the same as if it had been traced in one piece.

    Args:
        read: gives the class ids (Y, X) of a window.
        sides: (height, width) of the mask in px.
        window_px: side of a window; how much is read at once.
        skip: ids that are no objects: background, ignore.
    """
    grid = Grid(sides, (window_px, window_px))
    rows, columns = grid.counts
    pieces = _Pieces()
    above = np.zeros(sides[1], np.int64)
    for row in range(rows):
        below = np.zeros_like(above)
        beside = np.zeros(window_px, np.int64)
        for column in range(columns):
            window = grid.window((row, column))
            (top, left), (height, width) = window.start, window.shape
            seams, rim = _inner_seams(window, sides), _Rim(height, width)
            for class_id, outline in trace(read(window), skip):
                moved = shapely.transform(outline, lambda at, by=(left, top): at + by)
                if _touches(moved, *seams):
                    rim.paint(outline, pieces.add(class_id, moved))
                else:
                    yield class_id, moved
            pieces.join(above[left : left + width], rim.top)
            pieces.join(beside[:height], rim.left)
            beside, below[left : left + width] = rim.right, rim.bottom
        above = pieces.roots(below) if row + 1 < rows else np.zeros_like(below)
        yield from pieces.finish(set(above.tolist()))


def _inner_seams(window: Window, sides: Ints) -> tuple[set[int], set[int]]:
    """The x and the y of the window's edges that are not the image's edges."""
    (top, left), (bottom, right) = window.start, window.stop
    return {left, right} - {0, sides[1]}, {top, bottom} - {0, sides[0]}


def _touches(outline: Polygon, at_x: set[int], at_y: set[int]) -> bool:
    x0, y0, x1, y1 = outline.bounds
    return x0 in at_x or x1 in at_x or y0 in at_y or y1 in at_y


class _Rim:
    """The pixels along a window's four edges, each with the number of its piece; 0 = none."""

    def __init__(self, height: int, width: int) -> None:
        self.top, self.bottom = np.zeros((2, width), np.int64)
        self.left, self.right = np.zeros((2, height), np.int64)

    def paint(self, outline: Polygon, number: int) -> None:
        """Number the pixels where an outline, in pixels of the window, runs along an edge."""
        ring = np.asarray(outline.exterior.coords).astype(np.int64)
        height, width = self.left.size, self.top.size
        edges = ((self.left, 0, 0), (self.right, 0, width), (self.top, 1, 0), (self.bottom, 1, height))
        for line, axis, at in edges:
            on_edge = (ring[:-1, axis] == at) & (ring[1:, axis] == at)
            along = ring[:, 1 - axis]
            for start, stop in zip(along[:-1][on_edge], along[1:][on_edge], strict=True):
                line[min(start, stop) : max(start, stop)] = number


class _Pieces:
    """Pieces of the objects that seams cut, as sets that grow together (union-find); merged once, at the end."""

    def __init__(self) -> None:
        self._num_added = 0
        self._parent: dict[int, int] = {}
        self._objects: dict[int, tuple[int, list[Polygon]]] = {}
        """Root -> class id, and all pieces."""

    def add(self, class_id: int, outline: Polygon) -> int:
        """Hold a piece back; its number, from 1."""
        self._num_added += 1
        self._parent[self._num_added] = self._num_added
        self._objects[self._num_added] = (class_id, [outline])
        return self._num_added

    def join(self, one: Line, other: Line) -> None:
        """Two lines of pixels on either side of a seam: pieces of one class that face each other are one object."""
        facing = (one != 0) & (other != 0)
        for a, b in np.unique(np.stack([one[facing], other[facing]], axis=1), axis=0).tolist():
            keep, drop = self._root(a), self._root(b)
            if keep == drop or self._objects[keep][0] != self._objects[drop][0]:
                continue
            if len(self._objects[keep][1]) < len(self._objects[drop][1]):
                keep, drop = drop, keep
            self._parent[drop] = keep
            self._objects[keep][1].extend(self._objects.pop(drop)[1])

    def roots(self, line: Line) -> Line:
        """The line with the number of its object for that of every piece."""
        numbers, at = np.unique(line, return_inverse=True)
        return np.array([self._root(number) if number else 0 for number in numbers.tolist()], np.int64)[at]

    def finish(self, still_open: Collection[int]) -> Iterator[Outline]:
        """Merge and forget the objects but for those with these roots."""
        for root in [root for root in self._objects if root not in still_open]:
            class_id, outlines = self._objects.pop(root)
            yield class_id, _without_needless_corners(shapely.union_all(outlines))
        self._parent = {root: root for root in self._objects}

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number


def _without_needless_corners(outline: Polygon) -> Polygon:
    """Drop the points that a seam left in the middle of a straight edge."""
    return Polygon(_corners(outline.exterior.coords), [_corners(ring.coords) for ring in outline.interiors])


def _corners(ring: Any) -> npt.NDArray[np.float64]:
    points = np.asarray(ring)[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] != 0
    corners: npt.NDArray[np.float64] = points[turns]
    return corners
