"""Polygons: class ids -> *outlines*, window by window, with no seam where two windows meet.

    +-----+-----+     An object inside one window is finished at once. One that touches the edge of a window
    |  a  | b:b |     is held back, and merged with its neighbours when the row of windows is complete; it is
    +-----+-:-:-+     finished when it does not reach down into the next row. So memory holds one row's
    |  c..|.:c  |     open objects, not the image.
    +-----+-----+

Pixels belong together when they share a side (4-connectivity). Outlines run along pixel edges, in
pixel coordinates (x right, y down, the image's corner is 0, 0), holes included.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio.features
import shapely
from shapely.geometry import MultiPolygon, Polygon, shape

from segcore.geometry import Grid, Ints, Window

Outline = tuple[int, Polygon]
"""Class id, and one connected object of it."""


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
    held: dict[int, list[Polygon]] = {}
    for row in range(rows):
        for column in range(columns):
            window = grid.window((row, column))
            top, left = window.start
            seams = _inner_seams(window, sides)
            for class_id, outline in trace(read(window), skip):
                moved = shapely.transform(outline, lambda at, by=(left, top): at + by)
                if _touches(moved, *seams):
                    held.setdefault(class_id, []).append(moved)
                else:
                    yield class_id, moved
        bottom = min((row + 1) * window_px, sides[0])
        yield from _finish_row(held, bottom if row + 1 < rows else None)


def _inner_seams(window: Window, sides: Ints) -> tuple[set[int], set[int]]:
    """The x and the y of the window's edges that are not the image's edges."""
    (top, left), (bottom, right) = window.start, window.stop
    return {left, right} - {0, sides[1]}, {top, bottom} - {0, sides[0]}


def _touches(outline: Polygon, at_x: set[int], at_y: set[int]) -> bool:
    x0, y0, x1, y1 = outline.bounds
    return x0 in at_x or x1 in at_x or y0 in at_y or y1 in at_y


def _finish_row(held: dict[int, list[Polygon]], seam_y: int | None) -> Iterator[Outline]:
    """Merge what was held back; give out what cannot grow any more, keep what touches the seam below."""
    for class_id in sorted(held):
        merged = shapely.union_all(held.pop(class_id))
        parts = merged.geoms if isinstance(merged, MultiPolygon) else [merged]
        kept = []
        for part in parts:
            if seam_y is not None and part.bounds[3] == seam_y:
                kept.append(part)
            else:
                yield class_id, _without_needless_corners(part)
        if kept:
            held[class_id] = kept


def _without_needless_corners(outline: Polygon) -> Polygon:
    """Drop the points that a seam left in the middle of a straight edge."""
    return Polygon(_corners(outline.exterior.coords), [_corners(ring.coords) for ring in outline.interiors])


def _corners(ring: Any) -> npt.NDArray[np.float64]:
    points = np.asarray(ring)[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] != 0
    corners: npt.NDArray[np.float64] = points[turns]
    return corners
