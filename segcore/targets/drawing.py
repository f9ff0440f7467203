"""Drawing: polygons in pixels -> the number of the polygon that covers each pixel's centre, window by window.

+----+----+     The raster is made in blocks that are anchored at the image's corner, and every window is cut from
| 1  |  2 |     them. So a window never differs from the same part of the whole, not even by the rounding of a
+----+--:-+     centre that lies on an edge.
| 1 :|  : |
"""

import numpy as np
import numpy.typing as npt
import rasterio.features
import shapely
from rasterio.transform import Affine

from segcore.geometry import Grid, Ints, Window
from segcore.targets.shapes import Geometries

Numbers = npt.NDArray[np.uint32]

BLOCK_PX = 1024
BLOCKS_KEPT = 8
"""Blocks that stay in memory, of 4 MiB each."""
FAR_PX = 2**20
MAX_POINTS = 4096
"""Polygons with more are cut to pieces, so that a block does not go through outlines that lie elsewhere."""


class Drawing:
    """Polygons over an image, numbered from 1 in their order; where they overlap, the later one wins.

    A pixel belongs to a polygon that holds its centre.
    """

    def __init__(self, areas: Geometries, shape_yx: Ints) -> None:
        pieces: list[shapely.Geometry] = []
        numbers: list[int] = []
        for number, area in enumerate(_near(areas, shape_yx), 1):
            found = _pieces(area)
            pieces += found
            numbers += [number] * len(found)
        self.pieces = np.array(pieces, dtype=object)
        self.numbers = np.array(numbers, dtype=np.uint32)
        self.tree = shapely.STRtree(self.pieces)
        self._grid = Grid(tuple(shape_yx), (BLOCK_PX, BLOCK_PX))
        self._kept: dict[Ints, Numbers] = {}

    def read(self, window: Window) -> Numbers:
        """Numbers (Y, X) of a window over (y, x); 0 = no polygon."""
        numbers = np.zeros(window.shape, dtype=np.uint32)
        for index in self._grid.touching(window):
            block = self._grid.window(index)
            shared = window.intersected(block)
            drawn = self._block(index)[shared.relative_to(block.start).slices]
            numbers[shared.relative_to(window.start).slices] = drawn
        return numbers

    def _block(self, index: Ints) -> Numbers:
        if index not in self._kept:
            while len(self._kept) >= BLOCKS_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[index] = self._drawn(self._grid.window(index))
        return self._kept[index]

    def _drawn(self, window: Window) -> Numbers:
        (top, left), (bottom, right) = window.start, window.stop
        numbers = np.zeros(window.shape, dtype=np.uint32)
        touching = np.sort(self.tree.query(shapely.box(left, top, right, bottom)))
        if touching.size:
            drawn = zip(self.pieces[touching], self.numbers[touching].tolist(), strict=True)
            rasterio.features.rasterize(drawn, out=numbers, transform=Affine.translation(left, top))
        return numbers


def _near(areas: Geometries, shape_yx: Ints) -> Geometries:
    """Areas, cut where they reach so far beyond the image that GDAL, which counts in 32 bits, would draw nothing."""
    height, width = shape_yx
    sides = shapely.bounds(areas)
    far = (sides[:, :2] < -FAR_PX).any(axis=1) | (sides[:, 2:] > np.add((width, height), FAR_PX)).any(axis=1)
    near = areas.copy()
    near[far] = shapely.intersection(areas[far], shapely.box(-FAR_PX, -FAR_PX, width + FAR_PX, height + FAR_PX))
    return near


def _pieces(area: shapely.Geometry) -> list[shapely.Geometry]:
    """The polygons of an area, large ones cut along lines between pixels, where no pixel's centre lies."""
    pieces: list[shapely.Geometry] = []
    todo = [area]
    while todo:
        found = todo.pop()
        if found.geom_type != "Polygon":  # cut polygons leave lines and points too, where they touch the cut
            todo += [part for part in shapely.get_parts(found).tolist() if part.area > 0]
            continue
        if not found.area > 0:
            continue
        left, top, right, bottom = found.bounds
        x, y = round((left + right) / 2), round((top + bottom) / 2)
        if shapely.get_num_coordinates(found) <= MAX_POINTS or max(right - left, bottom - top) < 2:
            pieces.append(found)
        elif right - left > bottom - top:
            todo += [found & shapely.box(left, top, x, bottom), found & shapely.box(x, top, right, bottom)]
        else:
            todo += [found & shapely.box(left, top, right, y), found & shapely.box(left, y, right, bottom)]
    return pieces
