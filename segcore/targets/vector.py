"""Vector: a target from a file of shapes: QuPath's and other GeoJSON, GeoPackage, shapefile.

    Shapes -> place (pixels) + name_features (class ids) -> Drawing (feature numbers) -> class ids, object ids

A pixel belongs to the shape that holds its centre; of shapes that overlap, to the one that comes later in the file.
Pixel coordinates are those of the source's finest level, x right, y down, with the corner of the image at 0, 0.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import shapely

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import SourceInfo
from segcore.sources.base import Limits, Pixels, decoding
from segcore.sources.files import SourceFile
from segcore.targets.base import Kind, Target, TargetOpening
from segcore.targets.drawing import Drawing
from segcore.targets.geopackage import read_layer
from segcore.targets.naming import Naming, name_features
from segcore.targets.placing import place
from segcore.targets.shapes import Shapes, format_of, read_geojson

MAX_OVERLAPS = 10_000
"""Overlapping pairs of pieces that are measured; of more, it is only said that there are."""
MAX_PAIRS_NAMED = 3
LEAST_OVERLAP_PX = 1.0
"""Neighbours that were drawn along each other overlap by rounding."""


class VectorTarget(Target):
    """Class ids and object ids from the shapes of one file; an object's id is its feature's place in the file, from 1.

    Features that are background or ignored are no objects.
    """

    kind: Kind = "shapes"
    has_instances = True

    def __init__(self, shapes: Shapes, image: SourceInfo, how: TargetOpening) -> None:
        placed = place(shapes, image, how.buffer)
        naming = name_features(shapes, how.table, how.class_property)
        self._drawing = Drawing(placed.areas, image.shape[-2:])
        self.classes, self.ignore = naming.table.classes, naming.table.ignore
        self.dtype = np.dtype(naming.table.dtype)
        self._ids = np.concatenate(([naming.outside], naming.ids)).astype(self.dtype)
        numbers = np.arange(len(self._ids), dtype=np.uint32)
        self._objects = np.where(np.isin(self._ids, (naming.outside, self.ignore)), np.uint32(0), numbers)
        self.notes = (*placed.notes, *naming.notes, *_overlaps(self._drawing, naming))

    def read(self, window: Window) -> Pixels:
        return np.asarray(self._ids[self._drawing.read(window)])

    def read_instances(self, window: Window) -> npt.NDArray[np.uint32]:
        return np.asarray(self._objects[self._drawing.read(window)])

    def close(self) -> None:
        """Nothing is open: the file was read whole."""


def is_shapes(uri: str) -> bool:
    """Is this a file of shapes rather than an image? Judged by its first bytes."""
    file = SourceFile(uri)
    return not file.is_folder and format_of(file) is not None


def read_shapes(uri: str, limits: Limits) -> Shapes:
    """Read a file of shapes whole.

    Raises:
        SourceError: one line with the file: unreadable, over a limit, or of several layers of which none is named.
    """
    file = SourceFile(uri)
    found = format_of(file)
    assert found is not None, f"{uri} holds no shapes"
    with decoding(uri):
        if found != "geojson":
            return read_layer(file, found, limits)
        if file.member is not None:
            raise SourceError(f"{uri}: a GeoJSON has no layers; leave out what follows ::")
        return read_geojson(file, limits)


def open_vector(uris: Sequence[str], image: SourceInfo, how: TargetOpening) -> Target:
    """Open the shapes of one image as its target.

    Raises:
        SourceError: one line with the file: unreadable, not on the image, or with classes that nobody named.
    """
    if len(uris) > 1:
        raise SourceError(f"{uris[0]}: {len(uris)} files of shapes for one image; join them in one file")
    with decoding(uris[0]):
        return VectorTarget(read_shapes(uris[0], how.opening.limits), image, how)


def _overlaps(drawing: Drawing, naming: Naming) -> tuple[str, ...]:
    """A note where shapes of different classes overlap: which of them, how often, and how much."""
    names = {info.id: info.name for info in naming.table.classes} | {naming.table.ignore: "ignore"}
    pairs, is_all = _crossing_pairs(drawing, naming.ids[drawing.numbers.astype(np.intp) - 1])
    one, other = (drawing.numbers[side].astype(np.intp) - 1 for side in pairs)
    areas = shapely.area(shapely.intersection(drawing.pieces[pairs[0]], drawing.pieces[pairs[1]]))
    found: dict[tuple[str, str], float] = {}
    features: dict[tuple[str, str], set[tuple[int, int]]] = {}
    for a, b, area in zip(one.tolist(), other.tolist(), areas.tolist(), strict=True):
        key = min(names[naming.ids[a]], names[naming.ids[b]]), max(names[naming.ids[a]], names[naming.ids[b]])
        found[key] = found.get(key, 0.0) + area
        features.setdefault(key, set()).add((a, b))
    notable = sorted(((area, key) for key, area in found.items() if area >= LEAST_OVERLAP_PX), reverse=True)
    if not notable:
        return ()
    said = ", ".join(
        f"{key[0]} and {key[1]} by {area:.0f} px ({len(features[key])} pairs)"
        for area, key in notable[:MAX_PAIRS_NAMED]
    )
    more = f" and {len(notable) - MAX_PAIRS_NAMED} more" if len(notable) > MAX_PAIRS_NAMED else ""
    least = "" if is_all else "at least "
    return (f"shapes of different classes overlap, the later one in the file wins: {least}{said}{more}",)


def _crossing_pairs(drawing: Drawing, classes: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.intp], bool]:
    """Pieces (2, N) of different classes that touch; and whether these are all."""
    found = [np.zeros((2, 0), dtype=np.intp)]
    num_found = 0
    if len(np.unique(classes)) < 2:
        return found[0], True
    for index, piece in enumerate(drawing.pieces):
        near = drawing.tree.query(piece)
        near = near[(near > index) & (classes[near] != classes[index])]
        if near.size:
            shapely.prepare(piece)
            near = near[shapely.intersects(piece, drawing.pieces[near])]
        found.append(np.stack([np.full_like(near, index), near]))
        num_found += near.size
        if num_found > MAX_OVERLAPS:
            return np.concatenate(found, axis=1)[:, :MAX_OVERLAPS], False
    return np.concatenate(found, axis=1), True
