"""Features: a mask -> *its regions, or its objects, batch by batch*, with class, area and confidence of each.

    mask --trace_windows--> outlines, with sums over their pixels --> Features --> the writer of a format

A region is connected pixels of one class; background and ignore are left out. Of a label of objects each id is one (or
each connected part of it, where it has several), with the class that most of its pixels have in the mask. Nothing is
kept of what was handed on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.classes import ClassInfo
from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.export.polygons import Ids, Labels, Outlines, Sums, trace_windows
from segcore.export.simplify import Polygons
from segcore.geometry import Window
from segcore.scoring.areas import LENGTH_UNITS, pixel_sides, pixel_size
from segcore.scoring.counts import foreground_rows
from segcore.scoring.ground import row_areas
from segcore.selection import probs_layer
from segcore.spatial import METERS_PER_UNIT, parse_length
from segcore.store import Image, Label, Workspace

WINDOW_PX = 2048
NUM_SUMS = 3
"""Columns of what is added up of each, after its pixels by class."""
AREA_UNITS = ("um2", "m2")
"""Of tissue the first, of land the second."""


@dataclass(frozen=True, eq=False)
class Features:
    """Some regions or objects of a mask; row i of each array is one of them."""

    numbers: Ids
    """Id of the object; regions are counted from 1."""
    first_px: Ids
    """Raster index of its first pixel in the mask, which no two of them share."""
    rows: Ids
    """Of its class, among `FeatureSource.classes`."""
    num_px: Ids
    """Pixels of the mask; its exact area, whatever `simplify` does to the outline."""
    ground_m2: Sums
    """Area on the ellipsoid, where pixels are degrees between meridians and parallels; else 0."""
    confidences: Sums
    """Mean probability of the class of each of its pixels; NaN where the layer has none."""
    polygons: Polygons
    """In pixels of the mask, x before y."""

    def __len__(self) -> int:
        return len(self.numbers)

    @classmethod
    def joined(cls, batches: Sequence["Features"]) -> "Features":
        """All of several, in order."""
        parts = zip(*(vars(batch).values() for batch in (NONE, *batches)), strict=True)
        return cls(*map(np.concatenate, parts))


_NO_IDS = np.empty(0, np.int64)
NONE = Features(_NO_IDS, _NO_IDS, _NO_IDS, _NO_IDS, np.empty(0), np.empty(0), np.empty(0, dtype=object))


class FeatureSource:
    """The regions or objects of one mask, read window by window.

    Args:
        image: that the mask is of.
        mask: of classes, or a label of objects.
        config: where the workspace is, and how outlines are simplified.

    Raises:
        StoreError: if a length is given and the size of a pixel is not known.
    """

    def __init__(self, image: Image, mask: Label, config: ExportConfig) -> None:
        self.image, self.mask = image, mask
        self._workspace = Workspace.open(config.workspace)
        self._of_classes = mask
        if mask.tells_objects:
            self._of_classes = self._workspace.label(image.image_id, mask.attributes["mask"])
        known = self._of_classes.classes
        self.classes: tuple[ClassInfo, ...] = tuple(known[row] for row in foreground_rows(known))
        self._rows = np.full(np.iinfo(self._of_classes.dtype).max + 1, len(self.classes), np.int64)
        self._rows[[info.id for info in self.classes]] = np.arange(len(self.classes))
        self._probs = probs_layer(self._workspace, self._of_classes)
        self._tolerance_px = _tolerance_px(image, mask, config.simplify)
        georef = image.georef and image.georef.at_level(mask.base_level)
        self._ground = row_areas(georef, 0, mask.shape()[-2])

    @property
    def has_confidence(self) -> bool:
        """Whether there is a layer of the probabilities that the mask was made with."""
        return self._probs is not None

    def areas(self, batch: Features) -> dict[str, Sums]:
        """(N,) by unit, "um2" or "m2", of the pixels of each; {} if their size is not known."""
        if self._ground is not None:
            return {"m2": batch.ground_m2}
        level = self.mask.base_level
        spacing, georef = self.image.spacing, self.image.georef
        found = pixel_size(self.mask.axes, spacing and spacing.at_level(level), georef and georef.at_level(level))
        return {unit: (batch.num_px * found[unit]).astype(np.float64) for unit in AREA_UNITS if unit in found}

    def batches(self) -> Iterator[Features]:
        """All of them, in an order that the mask alone decides; no batch is empty.

        Raises:
            StoreError: if the mask holds an id that is none of its classes.
        """
        height, width = self.mask.shape()
        background = {info.id for info in self.mask.classes} - {info.id for info in self.classes}
        skip = {0} if self.mask.tells_objects else {self.mask.ignore, *background}
        count = 0
        sides, tolerance = (height, width), self._tolerance_px
        for outlines in trace_windows(self.mask.read, sides, WINDOW_PX, skip, self._measure, tolerance):
            yield self._features(outlines, count)
            count += len(outlines)

    def _features(self, found: Outlines, count: int) -> Features:
        by_class = found.sums[:, :-NUM_SUMS]
        weighed, known, ground_m2 = found.sums[:, -NUM_SUMS:].T
        if self.mask.tells_objects:
            numbers, rows = found.ids, by_class.argmax(axis=1)
        else:
            numbers, rows = np.arange(count + 1, count + len(found) + 1), self._rows[found.ids]
            if rows.max() == len(self.classes):
                unknown = found.ids[rows.argmax()]
                raise StoreError(
                    f"image {self.image.image_id}: mask {self.mask.name} holds {unknown}, which is no class"
                )
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: no pixel of it has a probability
            confidences = weighed / known
        return Features(numbers, found.first_px, rows, found.num_px, ground_m2, confidences, found.polygons)

    def _measure(self, window: Window, ids: npt.NDArray[Any], labels: Labels, count: int) -> Sums:
        """Of each object: pixels by class (of a label of objects), sum of probabilities, pixels that have one, m2."""
        where = np.flatnonzero(labels)
        owners = labels.ravel()[where] - 1
        sums: list[Sums] = []
        if self.mask.tells_objects:
            ids = self._of_classes.read(window)
        rows = self._rows[ids.ravel()[where]]
        if self.mask.tells_objects:
            num_rows = len(self.classes) + 1
            by_class = np.bincount(owners * num_rows + rows, minlength=count * num_rows).reshape(count, num_rows)
            sums.append(by_class[:, :-1].astype(np.float64))
        probs = self._probabilities(window, where, rows)
        is_known = np.isfinite(probs)
        weighed = np.bincount(owners[is_known], weights=probs[is_known], minlength=count)
        known = np.bincount(owners[is_known], minlength=count).astype(np.float64)
        ground: Sums = np.zeros(count)
        if self._ground is not None:
            rows_of = window.start[0] + where // window.shape[1]
            ground = np.bincount(owners, weights=self._ground[rows_of], minlength=count).astype(np.float64)
        return np.column_stack([*sums, weighed, known, ground])

    def _probabilities(self, window: Window, where: Ids, rows: Ids) -> Sums:
        """(n,): that of its own class, for the pixels at these raster indices of a window; NaN where unknown."""
        found = np.full(len(where), np.nan)
        if self._probs is None or not len(where):
            return found
        layer, factor = self._probs, 2 ** (self._probs.base_level - self.mask.base_level)
        start = tuple(a // factor for a in window.start)
        stop = tuple(-(-b // factor) for b in window.stop)
        y, x = np.divmod(where, window.shape[1])
        places = ((y + window.start[0]) // factor - start[0]) * (stop[1] - start[1])
        places += (x + window.start[1]) // factor - start[1]
        for row in np.unique(rows).tolist():
            name = self.classes[row].name if row < len(self.classes) else None
            if name in layer.channels:
                channel = layer.channels.index(name)
                shape = (1, *(b - a for a, b in zip(start, stop, strict=True)))
                values = layer.read(Window((channel, *start), shape)).ravel()
                chosen = rows == row
                scale = 255 if values.dtype == np.uint8 else 1
                found[chosen] = values[places[chosen]].astype(np.float64) / scale
        return found


def _tolerance_px(image: Image, mask: Label, simplify: str | None) -> float:
    """In pixels of the mask; those are taken for as large as their longer side, so that it holds in both."""
    if simplify is None:
        return 0.0
    value, of = parse_length(simplify)
    level = mask.base_level
    spacing, georef = image.spacing, image.georef
    sides, unit = pixel_sides(mask.axes, spacing and spacing.at_level(level), georef and georef.at_level(level))
    if of == "px":
        return value
    if unit == "px":
        raise StoreError(
            f"image {image.image_id}: the size of its pixels is not known as a length, so that `simplify` {simplify} "
            "means nothing there; give it in px (--simplify 1px)"
        )
    return value * METERS_PER_UNIT[of] / LENGTH_UNITS[unit] / max(sides)
