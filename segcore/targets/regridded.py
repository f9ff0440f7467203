"""Regridded: labels that lie on another grid than their image, brought to the image's by nearest.

    pixel of the image --affine or transform--> millimetres or CRS --inverse--> pixel of the labels
    pixel of a resampled image --step--> pixel of its source = pixel of the labels

Every pixel is worked out from its own index alone, so that any cut into windows gives the same labels.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS

from segcore.errors import SourceError
from segcore.geometry import Ints, Window
from segcore.sources import Source, SourceInfo
from segcore.sources.base import Pixels, Valid
from segcore.spatial import Georef

SAME_PX = 0.01
"""Grids whose pixels lie no farther apart than this are the same."""
ROUNDING_PX = 1e-6
"""Added before rounding, so that halves go up whatever the last bits say."""
SMALLEST_PX = 1e-18
"""Area or volume of a pixel, in the units of the world, below which a header is wrong (a CRS may count in degrees)."""
LEFT_OUT_PX = 0.499
"""Labels that lie beyond the image by less than half of one of its pixels are not lost: if resampled, it ends there."""
MAX_BLOCK_PX = 2**22
"""Of the image or of its labels at once."""

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Regrid:
    """The way from an image's pixels to those of its labels, both over the axes without c.

    Args:
        matrix: (label axes, image axes + 1): index in the image, of pixel centres -> index in the labels.
        image_shape: of the image.
        shape: of the labels.
    """

    matrix: Matrix
    image_shape: Ints
    shape: Ints

    def places(self, window: Window) -> list[npt.NDArray[np.intp]]:
        """The label pixel nearest to each of the image's, per axis of the labels; they broadcast to the window."""
        return [np.floor(place).astype(np.intp) for place in self._corners(window)]

    def inside(self, window: Window, beyond_px: float = 0.0) -> Valid:
        """Which pixels of a window of the image lie in the labels' field of view, or so little beyond it."""
        inside = np.ones(window.shape, dtype=np.bool_)
        for place, size in zip(self._corners(window), self.shape, strict=True):
            inside &= (place >= -beyond_px) & (place < size + beyond_px)
        return inside

    def _corners(self, window: Window) -> list[Matrix]:
        """Where pixels of the image lie in the labels, per axis of the labels, from the corner of their first pixel."""
        num_axes = len(self.image_shape)
        found = []
        for row in self.matrix:
            place = np.full((1,) * num_axes, row[-1])
            for axis in np.flatnonzero(row[:-1]):
                index = np.arange(window.start[axis], window.stop[axis], dtype=np.float64)
                place = place + row[axis] * index.reshape([-1 if at == axis else 1 for at in range(num_axes)])
            found.append(place + 0.5 + ROUNDING_PX)
        return found

    def inverse(self) -> "Regrid | None":
        """From the labels to the image; None where a volume labels a single plane."""
        if self.matrix.shape[0] != self.matrix.shape[1] - 1:
            return None
        back = np.linalg.inv(np.vstack([self.matrix, np.eye(len(self.matrix) + 1)[-1]]))[:-1]
        return Regrid(_without_noise(back, self.shape), self.shape, self.image_shape)

    @property
    def is_same(self) -> bool:
        """True if both have the same pixels."""
        if self.shape != self.image_shape:
            return False
        corners = np.array(list(itertools.product(*((0, n - 1) for n in self.shape))))
        moved = corners @ self.matrix[:, :-1].T + self.matrix[:, -1]
        return bool(np.abs(moved - corners).max() <= SAME_PX)

    @property
    def meets(self) -> bool:
        """False if the two lie wholly beside each other."""
        ends = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in self.image_shape))))
        moved = ends @ self.matrix[:, :-1].T + self.matrix[:, -1]
        return bool(((moved.max(axis=0) > -0.5) & (moved.min(axis=0) < np.array(self.shape) - 0.5)).all())


def regrid_between(labels: SourceInfo, image: SourceInfo) -> Regrid | None:
    """How the pixels of an image find their labels; None if both have the same grid.

    Two files that both say where they lie (an affine, or a CRS with its transform) are laid over each other by that;
    else they must be of one shape. Labels of a resampled image may have the shape of its source.

    Raises:
        SourceError: if they are of other shapes, lie in other CRSs, or beside each other.
    """
    shape, image_shape = plane_shape(labels), plane_shape(image)
    if labels.affine is not None and image.affine is not None and len(shape) == 3:
        worlds, unit = (np.array(labels.affine.matrix), np.array(image.affine.matrix)), "mm, x y z, RAS+"
    elif has_crs(labels.georef) and has_crs(image.georef) and shape[:-2] == image_shape[:-2]:
        assert labels.georef is not None
        assert image.georef is not None
        _check_crs(labels, image)
        worlds, unit = (_world(labels.georef), _world(image.georef)), "x y of the CRS"
    else:
        return _regrid_of_source(labels, image)
    for info, world in zip((labels, image), worlds, strict=True):
        if not np.isfinite(world).all() or abs(np.linalg.det(world)) < SMALLEST_PX:
            raise SourceError(f"{info.uri}: its affine or transform has no size or a wrong one: {world.tolist()}")
    matrix = _between(*worlds, len(shape), len(image_shape))
    regrid = Regrid(_without_noise(matrix, image_shape), image_shape, shape)
    if not regrid.meets:
        raise SourceError(
            f"{labels.uri}: the labels lie beside their image: they reach over {_extent(worlds[0], shape)}, "
            f"{image.uri} over {_extent(worlds[1], image_shape)} ({unit})"
        )
    return None if regrid.is_same else regrid


def _regrid_of_source(labels: SourceInfo, image: SourceInfo) -> Regrid | None:
    """Labels that lie on their image's own pixels, or, where it is resampled, on those of its source.

    Raises:
        SourceError: if they have neither shape.
    """
    shape, image_shape = plane_shape(labels), plane_shape(image)
    told = image.details.get("resampled")
    if told is None or shape != (*image_shape[:-2], *told["source_shape"]):
        check_shapes(labels, image)
        return None
    steps = np.array([*(1.0 for _ in shape[:-2]), *told["step"]])
    # Halves go down here: the centre of a last pixel that is half in the source lies on its border.
    offsets = (steps - 1) / 2 - np.where(steps == 1, 0, 2 * ROUNDING_PX)
    regrid = Regrid(np.column_stack([np.diag(steps), offsets]), image_shape, shape)
    return None if regrid.is_same else regrid


def check_shapes(labels: SourceInfo, image: SourceInfo) -> None:
    """Refuse labels of another shape than their image's, the axis c aside.

    Raises:
        SourceError: naming both.
    """
    shape, image_shape = plane_shape(labels), plane_shape(image)
    if shape == image_shape:
        return
    if len(shape) == len(image_shape) == 2:
        (y, x), (height, width) = shape, image_shape
        told = image.details.get("resampled")
        other = " resampled, {} x {} as it is".format(*told["source_shape"]) if told is not None else ""
        raise SourceError(
            f"{labels.uri}: the mask has {y} x {x} px (y x x), its source {height} x {width}{other}; they must be equal"
        )
    raise SourceError(
        f"{labels.uri}: the mask has {_sides(labels)} px, its source {_sides(image)}; a mask has the planes of its "
        "image, or both say where they lie"
    )


def plane_shape(info: SourceInfo) -> Ints:
    """Its shape without c."""
    return tuple(n for n, axis in zip(info.shape, info.axes, strict=True) if axis != "c")


def has_crs(georef: Georef | None) -> bool:
    """True if it says where on Earth it lies, not only how large a pixel is."""
    return georef is not None and georef.crs_wkt is not None


def read_regridded(source: Source, regrid: Regrid, window: Window) -> tuple[Pixels, Valid]:
    """Label pixels (C, *window.shape) under a window of the image, and which of them the labels know.

    Unknown ones, outside the labels' field of view or unusable in their file, have the value 0.
    """
    places = regrid.places(window)
    sides = zip(places, regrid.shape, strict=True)
    bounds = [(max(int(place.min()), 0), min(int(place.max()) + 1, size)) for place, size in sides]
    box = Window(tuple(a for a, _ in bounds), tuple(max(b - a, 0) for a, b in bounds))
    num_channels = source.info.shape[source.info.axes.index("c")]
    if max(box.num_px, window.num_px) > MAX_BLOCK_PX and window.num_px > 1:
        return _read_halves(source, regrid, window)
    known = regrid.inside(window)
    if box.num_px == 0 or not known.any():
        return np.zeros((num_channels, *window.shape), dtype=source.info.dtype), np.zeros_like(known)
    index = tuple(np.clip(place, a, a + n - 1) - a for place, a, n in zip(places, box.start, box.shape, strict=True))
    pixels = np.stack([channel[index] for channel in read_planes(source, box)])
    known &= source.read_valid(box)[index]
    return np.where(known, pixels, pixels.dtype.type(0)), known


def _read_halves(source: Source, regrid: Regrid, window: Window) -> tuple[Pixels, Valid]:
    """The same, half by half of the longest side."""
    axis = int(np.argmax(window.shape))
    first = window.shape[axis] // 2
    parts = []
    for offset, size in ((0, first), (first, window.shape[axis] - first)):
        start = tuple(a + offset * (at == axis) for at, a in enumerate(window.start))
        shape = tuple(size if at == axis else n for at, n in enumerate(window.shape))
        parts.append(read_regridded(source, regrid, Window(start, shape)))
    pixels, known = zip(*parts, strict=True)
    return np.concatenate(pixels, axis=axis + 1), np.concatenate(known, axis=axis)


def read_planes(source: Source, window: Window) -> Pixels:
    """Pixels (C, *window.shape) of a window over the axes without c, wherever the file has its channels."""
    channel = source.info.axes.index("c")
    return np.moveaxis(source.read(window.with_axis(channel, source.info.shape[channel])), channel, 0)


def _world(georef: Georef) -> Matrix:
    """(x, y, 1) of pixel centres -> the CRS, from a transform of pixel corners."""
    a, b, c, d, e, f = georef.transform
    return np.array([[a, b, c + (a + b) / 2], [d, e, f + (d + e) / 2], [0, 0, 1]])


def _between(labels: Matrix, image: Matrix, num_label_axes: int, num_image_axes: int) -> Matrix:
    """Index in the image -> index in the labels, in array order; axes before those of the world stay as they are."""
    matrix = np.linalg.inv(labels) @ image
    linear, offset = matrix[:-1, :-1][::-1, ::-1], matrix[:-1, -1][::-1]
    placed = len(linear)
    if num_image_axes < placed:  # one plane of a volume: z is 0
        linear = linear[:, placed - num_image_axes :]
    whole = np.zeros((num_label_axes, num_image_axes + 1))
    outer = num_label_axes - placed
    whole[:outer, :outer] = np.eye(outer)
    whole[outer:, outer:-1], whole[outer:, -1] = linear, offset
    return whole


def _without_noise(matrix: Matrix, shape: Ints) -> Matrix:
    """Zeros for what moves no pixel of the image by ROUNDING_PX: axes that run along each other are told by them."""
    linear = np.where(np.abs(matrix[:, :-1]) * np.array(shape) < ROUNDING_PX, 0.0, matrix[:, :-1])
    return np.hstack([linear, matrix[:, -1:]])


def _check_crs(labels: SourceInfo, image: SourceInfo) -> None:
    assert labels.georef is not None
    assert image.georef is not None
    one, other = CRS.from_wkt(labels.georef.crs_wkt), CRS.from_wkt(image.georef.crs_wkt)
    if one != other:
        raise SourceError(
            f"{labels.uri}: the mask is in {_name(labels.georef)}, its source in {_name(image.georef)}; warp it first: "
            "gdalwarp -t_srs ... -r near"
        )


def _name(georef: Georef) -> str:
    """A CRS for a person: its EPSG code, or the name in its WKT."""
    return f"EPSG:{georef.epsg}" if georef.epsg else (georef.crs_wkt or "").split('"')[1]


def _extent(world: Matrix, shape: Ints) -> str:
    """Where an array lies: from .. to, per axis of the world."""
    sides = (*(1,) * (len(world) - 1 - len(shape)), *shape)[-(len(world) - 1) :]
    ends = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in reversed(sides)))))
    placed = ends @ world[:-1, :-1].T + world[:-1, -1]
    pairs: Sequence[tuple[float, float]] = list(zip(placed.min(axis=0), placed.max(axis=0), strict=True))
    return ", ".join(f"{low:.10g}..{high:.10g}" for low, high in pairs)


def _sides(info: SourceInfo) -> str:
    pairs = zip(info.axes, info.shape, strict=True)
    return " x ".join(f"{axis} {n}" for axis, n in pairs if axis != "c")
