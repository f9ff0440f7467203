"""Why: what `segcore explain` left in the workspace -> *tables and pictures* of the report.

reports/explain/<mask>/<method>.json          by class: how much each band matters
layers/<image_id>/<mask>.<method>-<class>...  where the model looked
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from segcore.geometry import Window
from segcore.report import BandTable, Panel, PictureRow, pictures
from segcore.store import Image, Layer, Workspace

MAX_ROWS = 6
"""Of pictures in a report."""
PICTURE_PX = 560
MAPS = {"grad_cam": "Grad-CAM", "integrated_gradients": "Integrated gradients"}
"""Methods that leave layers."""
NUMBERS = {
    "band_occlusion": (
        "drop",
        "Without the band: how much less sure the model is of the class, in percent points",
        "A band is taken away by giving all of its pixels the mean of the training set.",
    ),
    "integrated_gradients": (
        "adds",
        "What the band adds to the probability of the class, in percent points",
        "Counted from a tile that is the mean of the training set all over, by integrated gradients.",
    ),
}
"""Methods that leave numbers of bands: where they are, what they say, and what of."""


def table_key(mask: str, method: str) -> str:
    """Where the numbers of a mask lie in the workspace."""
    return f"reports/explain/{mask}/{method}.json"


def band_tables(workspace: Workspace, mask: str, image_ids: Sequence[str]) -> tuple[BandTable, ...]:
    """The tables of bands of a mask, by method; none where nobody asked, or of another model than the mask is."""
    made_by = {} if not image_ids else workspace.label(image_ids[0], mask).attributes.get("model", {})
    found = []
    for method, words in NUMBERS.items():
        document = _document(workspace.objects.get(table_key(mask, method)))
        told = {name: row for name, row in document.get("classes", {}).items() if row.get(words[0])}
        if told and document.get("model") == made_by.get("id", document.get("model")):
            found.append(_table(told, *words))
    return tuple(found)


def _document(data: bytes | None) -> dict[str, Any]:
    try:
        return dict(json.loads(data or b"{}"))
    except ValueError:  # damaged: the next `segcore explain` writes it anew
        return {}


def _table(classes: Mapping[str, Mapping[str, Any]], key: str, title: str, how: str) -> BandTable:
    bands = list(next(iter(classes.values()))[key])
    rows = tuple((band, tuple(row[key].get(band) for row in classes.values())) for band in bands)
    sure = ", ".join(f"{name} {100 * row['confidence']:.1f} %" for name, row in classes.items())
    tiles = sum(row["tiles"] for row in classes.values())
    note = f"Over {tiles} tiles, where the model gives the class: it is sure of {sure}. {how}"
    values = [value for _, row in rows for value in row if value is not None]
    return BandTable(title, note, tuple(classes), rows, max([*values, 1e-9]))


def saliency_rows(workspace: Workspace, mask: str, image_ids: Sequence[str]) -> tuple[PictureRow, ...]:
    """The first tile that was looked at, of each layer of the first images that have some of the mask that stands."""
    found: list[PictureRow] = []
    for image_id in image_ids:
        digest = workspace.label(image_id, mask).digest
        for kind in _kinds(workspace, image_id, mask):
            if len(found) == MAX_ROWS:
                return tuple(found)
            layer = workspace.layer(image_id, mask, kind)
            if layer.attributes["windows"] and layer.attributes["explain"]["mask"]["digest"] == digest:
                found.append(_row(workspace.image(image_id), layer, kind))
    return tuple(found)


def _kinds(workspace: Workspace, image_id: str, mask: str) -> Iterator[str]:
    for name in workspace.layer_names(image_id):
        own, kind = name.rsplit(".", 1)
        if own == mask and kind.partition("-")[0] in MAPS:
            yield kind


def _row(image: Image, layer: Layer, kind: str) -> PictureRow:
    place = layer.attributes["windows"][0]
    window, channel = Window(tuple(place["start"]), tuple(place["shape"])), image.axes.index("c")
    first = Window(window.start, (*(1,) * (window.ndim - 2), *window.shape[-2:]))  # of several planes
    level = layer.base_level
    pixels = image.read(first.with_axis(channel, image.shape(level)[channel]), level)
    heat = layer.read(first.with_axis(channel, 1)).reshape(window.shape[-2:])
    valid = image.read_valid(first, level).reshape(heat.shape)
    picture = pictures.to_rgb(pixels.reshape(-1, *heat.shape), image.channels, valid)
    hot = pictures.heated(picture, (np.maximum(heat, 1).astype(np.float32) - 1) / np.float32(254))
    method, name = MAPS[kind.partition("-")[0]], layer.attributes["explain"]["class"]["name"]
    top, left = first.start[-2:]
    what = f"{name} in the tile at y {top}, x {left} of {image.image_id}"
    panels = (
        Panel("image", pictures.photo_uri(pictures.shrunk(picture, PICTURE_PX)), f"Image: {what}"),
        Panel("what speaks for it", pictures.photo_uri(pictures.shrunk(hot, PICTURE_PX)), f"{method}: {what}"),
    )
    return PictureRow(f"{name}: {image.image_id}", f"{method}, y {top}, x {left}; red: it speaks for it", panels)
