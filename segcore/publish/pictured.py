"""Pictured: worst images and tiles of a mask -> *pictures*, one at a time, and no more bytes than a page bears."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segcore.classes import ClassInfo
from segcore.geometry import Window
from segcore.progress import Progress
from segcore.report import BandTable, Failure, Panel, PictureRow, UnusualImages, pictures
from segcore.report.content import ERRORS
from segcore.report.html import number, percent
from segcore.report.rows import area_text, headline_labels, headline_score, worst_first
from segcore.results import ItemResult
from segcore.scoring.counts import foreground_rows
from segcore.selection import failure
from segcore.shown import Ids, coarse_plane, read_ids, read_picture
from segcore.store import Image, Label, Workspace
from segcore.unusual import unusual_images
from segcore.why import band_tables, saliency_rows

MAX_OVERLAYS = 24
PLANES = {"t": "time", "z": "plane"}
"""Axes of which a picture shows one place; counted from 1, as people do."""
MAX_BYTES = 6 << 20
"""Of all pictures of images and tiles in a page; when they are spent, the rest is left out, and that is said."""


class Pictured:
    """Reads pictures from the workspace; one that cannot be read is named in `failures`, the rest go on."""

    def __init__(self, workspace: Workspace, document: Mapping[str, Any], progress: Progress) -> None:
        self.document = document
        self.classes = tuple(ClassInfo.model_validate(value) for value in document["classes"])
        self.failures: dict[str, Failure] = {}
        """By image id, the first of each."""
        self._workspace, self._progress = workspace, progress
        self._bytes_left = MAX_BYTES
        self._shown = worst_first(document)[:MAX_OVERLAYS]
        progress.start("report", len(self._shown) + len(document["worst_tiles"]), "pictures")

    def items(self) -> tuple[ItemResult, ...]:
        """The images of which a picture failed."""
        return tuple(ItemResult(state="failed", image=i, error=failed.error) for i, failed in self.failures.items())

    def worst_tiles(self) -> tuple[PictureRow, ...]:
        """Image, target, mask and errors of the worst tiles, at the mask's finest level."""
        tiles = self.document["worst_tiles"]
        return tuple(row for tile in tiles if (row := self._try(tile["image"], tile)) is not None)

    def overlays(self) -> tuple[PictureRow, ...]:
        """Image, target, mask over image and errors of the worst images, at a coarse level."""
        return tuple(row for image_id in self._shown if (row := self._try(image_id, None)) is not None)

    def saliency(self) -> tuple[PictureRow, ...]:
        """What layers of `segcore explain` show of the worst images."""
        try:
            return saliency_rows(self._workspace, self.document["mask"], self._shown)
        except Exception as error:  # noqa: BLE001 - without these pictures the report is still one
            self._progress.note(f"report: no picture of why: {type(error).__name__}: {error}")
            return ()

    def bands(self) -> tuple[BandTable, ...]:
        """What tables of `segcore explain` say of the bands."""
        try:
            return band_tables(self._workspace, self.document["mask"], list(self.document["per_image"]))
        except Exception as error:  # noqa: BLE001 - a damaged table is written anew by the next `segcore explain`
            self._progress.note(f"report: no table of bands: {type(error).__name__}: {error}")
            return ()

    def unusual(self) -> UnusualImages | None:
        """The images that `segcore drift` found the least like the training images."""
        try:
            return unusual_images(self._workspace, self.document["mask"], list(self.document["per_image"]))
        except Exception as error:  # noqa: BLE001 - without this list the report is still one
            self._progress.note(f"report: no list of unusual images: {type(error).__name__}: {error}")
            return None

    def _try(self, image_id: str, tile: Mapping[str, Any] | None) -> PictureRow | None:
        if self._bytes_left <= 0:
            return None
        try:
            image = self._workspace.image(image_id)
            mask = self._workspace.label(image_id, self.document["mask"])
            has_target = self.document["per_image"][image_id]["has_target"]
            target = self._workspace.label(image_id, "target") if has_target else None
            row = self._overlay(image, mask, target) if tile is None else self._tile(image, mask, target, tile)
        except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
            self.failures.setdefault(image_id, Failure(image_id, f"no picture of it: {failure(image_id, error)}"))
            return None
        finally:
            self._progress.advance()
        self._bytes_left -= row.num_bytes
        return row

    def _overlay(self, image: Image, mask: Label, target: Label | None) -> PictureRow:
        window, level = coarse_plane(image, mask.base_level)
        panels = self._panels(image, mask, target, window, level, f"of {image.image_id}")
        return PictureRow(image.image_id, self._caption(image, mask, window, level), panels)

    def _tile(self, image: Image, mask: Label, target: Label | None, tile: Mapping[str, Any]) -> PictureRow:
        assert target is not None, f"a worst tile of {image.image_id} without a target"
        window = Window(tuple(tile["start"]), tuple(tile["shape"]))
        sides = zip(mask.axes, window.start, mask.shape(mask.base_level), strict=True)
        place = ", ".join(f"{axis} {start}" for axis, start, side in sides if axis in "yx" or side > 1)
        what = f"of the tile at {place} of {image.image_id}"
        caption = f"{place}: {percent(tile['wrong_share'])} of {number(tile['counted_px'])} px wrong"
        return PictureRow(image.image_id, caption, self._panels(image, mask, target, window, mask.base_level, what))

    def _panels(
        self, image: Image, mask: Label, target: Label | None, window: Window, level: int, what: str
    ) -> tuple[Panel, ...]:
        """Of a plane: image, target (or else the mask by itself), mask over image, errors."""
        picture, valid = read_picture(image, window, level)
        sides = picture.shape[:2]
        mask_ids = read_ids(mask, window, level, valid, sides)
        tinted = pictures.overlay(picture, mask_ids, self.classes, foreground_rows(self.classes))
        over = Panel("mask over image", pictures.photo_uri(tinted), f"Mask over image {what}: {self._shares(mask_ids)}")
        first = Panel("image", pictures.photo_uri(picture), f"Image {what}")
        if target is None:
            return first, self._flat("mask", mask_ids, what), over
        target_ids = read_ids(target, window, level, valid, sides)
        known = [info.id for info in self.classes]
        counted = np.isin(target_ids, known) & np.isin(mask_ids, known)
        wrong = pictures.errors(picture, target_ids, mask_ids, counted)
        errors = Panel(ERRORS, pictures.photo_uri(wrong), f"Wrong pixels {what}")
        return first, self._flat("target", target_ids, what), over, errors

    def _flat(self, title: str, ids: Ids, what: str) -> Panel:
        alt = f"{title.capitalize()} {what}: {self._shares(ids)}"
        return Panel(title, pictures.ids_uri(ids, self.classes), alt)

    def _shares(self, ids: Ids) -> str:
        return ", ".join(f"{info.name} {percent(float((ids == info.id).mean()))}" for info in self.classes[:8])

    def _caption(self, image: Image, mask: Label, window: Window, level: int) -> str:
        entry = self.document["per_image"][image.image_id]
        height, width = mask.shape()[-2:]
        parts = [f"{width} x {height} px" + (f" at level {mask.base_level}" if mask.base_level else "")]
        sides = zip(mask.axes, window.start, mask.shape(level), mask.shape(), strict=True)
        planes = [(axis, start * num // held, num) for axis, start, held, num in sides if axis in PLANES and num > 1]
        parts += [f"{PLANES[axis]} {at + 1} of {num}" for axis, at, num in planes]
        if image.split:
            parts.append(image.split)
        if headline_score(entry) is not None:
            label = headline_labels(self.classes)["overall"]
            parts.append(f"{next(iter(label.values()))} {percent(headline_score(entry))}")
        rows = foreground_rows(self.classes)[:6]
        parts += [f"{self.classes[r].name} {area_text(entry['areas'][self.classes[r].name])}" for r in rows]
        return " · ".join(parts)
