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
from segcore.shown import PICTURE_PX, read_picture
from segcore.store import Image, Label, Layer, Workspace

MAX_ROWS = 6
"""Of pictures in a report."""
MAPS = {
    "band_occlusion": ("Band occlusion", "it is less sure without one of the bands"),
    "grad_cam": ("Grad-CAM", "it speaks for it"),
    "integrated_gradients": ("Integrated gradients", "it speaks for it"),
}
"""Methods, by the beginning of their layers' names: what they are called, and what red says."""
BASELINE = "the mean of the training set"
"""What takes the place of what is taken away; a classic method was not trained, and has 0."""
NUMBERS = {
    "band_occlusion": (
        "drop",
        "Without the band: how much less sure the model is of the class, in percent points",
        "A band is taken away by giving all of its pixels {baseline}.",
    ),
    "integrated_gradients": (
        "adds",
        "What the band adds to the probability of the class, in percent points",
        "Counted from a tile that is {baseline} all over, by integrated gradients.",
    ),
}
"""Methods that leave numbers of bands: where they are, what they say, and what of."""


def table_key(mask: str, method: str) -> str:
    """Where the numbers of a mask lie in the workspace."""
    return f"reports/explain/{mask}/{method}.json"


def makers_of(mask: Label) -> list[str]:
    """Ids of the model, or of the ensemble, that made a mask; none where it does not say."""
    made_by = mask.attributes.get("model")
    return [made_by["id"], *mask.attributes.get("ensemble", ())] if made_by else []


def band_tables(workspace: Workspace, mask: str, image_ids: Sequence[str]) -> tuple[BandTable, ...]:
    """The tables of bands of a mask, by method; none where nobody asked, or of another model than the mask is."""
    makers = makers_of(workspace.label(image_ids[0], mask)) if image_ids else []
    found = []
    for method, words in NUMBERS.items():
        document = json.loads(workspace.objects.get(table_key(mask, method)) or b"{}")
        told = {name: row for name, row in document.get("classes", {}).items() if row.get(words[0])}
        if told and (not makers or document["model"] in makers):
            key, title, how = words
            where = (
                f" of {len(images)} image{'s' if len(images) > 1 else ''}" if (images := document.get("images")) else ""
            )
            found.append(_table(told, key, title, where, how.format(baseline=document.get("baseline", BASELINE))))
    return tuple(found)


def _table(classes: Mapping[str, Mapping[str, Any]], key: str, title: str, where: str, how: str) -> BandTable:
    bands = list(next(iter(classes.values()))[key])
    rows = tuple((band, tuple(row[key].get(band) for row in classes.values())) for band in bands)
    sure = ", ".join(f"{name} {100 * row['confidence']:.1f} %" for name, row in classes.items())
    tiles = sum(row["tiles"] for row in classes.values())
    note = f"Over {tiles} tiles{where}, where the model gives the class: it is sure of {sure}. {how}"
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
    stored = layer.read(first.with_axis(channel, 1)).reshape(window.shape[-2:])
    picture, _ = read_picture(image, first, layer.base_level, longest_px=None)
    red = pictures.reddened(picture, (np.maximum(stored, 1).astype(np.float32) - 1) / np.float32(254))
    (method, red_says), name = MAPS[kind.partition("-")[0]], layer.attributes["explain"]["class"]["name"]
    top, left = first.start[-2:]
    what = f"{name} in the tile at y {top}, x {left} of {image.image_id}"
    panels = (
        Panel("image", pictures.photo_uri(pictures.shrunk(picture, PICTURE_PX)), f"Image: {what}"),
        Panel("where", pictures.photo_uri(pictures.shrunk(red, PICTURE_PX)), f"{method}: {what}"),
    )
    return PictureRow(f"{name}: {image.image_id}", f"{method}, y {top}, x {left}; red: {red_says}", panels)
