"""Unusual: what `segcore drift` left in the workspace -> *the most unusual images* of the report.

reports/drift/<model_id>.json     images, the most unusual first, and in what
"""

import json
from collections.abc import Sequence

from segcore.geometry import Window
from segcore.report import Panel, UnusualImages, UnusualRow, pictures
from segcore.store import Image, Workspace
from segcore.why import makers_of

MAX_ROWS = 8
LEVEL_PX = 1024
"""Pictures are read at the finest level whose longer side is at most this."""
PICTURE_PX = 240


def list_key(model_id: str) -> str:
    """Where the list of a model lies in the workspace."""
    return f"reports/drift/{model_id}.json"


def unusual_images(workspace: Workspace, mask: str, image_ids: Sequence[str]) -> UnusualImages | None:
    """The most unusual of some images with a mask, to the model that made it; None where nobody asked."""
    makers = makers_of(workspace.label(image_ids[0], mask)) if image_ids else []
    data = workspace.objects.get(list_key(makers[0])) if makers else None
    if data is None:
        return None
    document, asked = json.loads(data), set(image_ids)
    rows = [row for row in document["images"] if row["image"] in asked]
    if not rows:
        return None
    shown = tuple(
        UnusualRow(
            image=row["image"],
            score=row["score"],
            percentile=row["percentile"],
            is_unusual=row["unusual"],
            words="; ".join(row["words"]),
            picture=_picture(workspace.image(row["image"])),
        )
        for row in rows[:MAX_ROWS]
    )
    return UnusualImages(document["num_training_images"], len(rows), sum(row["unusual"] for row in rows), shown)


def _picture(image: Image) -> Panel:
    """The middle plane, small."""
    levels = range(image.num_levels)
    level = next((n for n in levels if max(image.shape(n)[-2:]) <= LEVEL_PX), levels[-1])
    channel, shape = image.axes.index("c"), image.shape(level)
    sides = [n for axis, n in enumerate(shape) if axis != channel]
    plane = Window((*(n // 2 for n in sides[:-2]), 0, 0), (*(1 for _ in sides[:-2]), *sides[-2:]))
    pixels = image.read(plane.with_axis(channel, shape[channel]), level)
    valid = image.read_valid(plane, level).reshape(sides[-2:])
    rgb = pictures.to_rgb(pixels.reshape(-1, *sides[-2:]), image.channels, valid)
    return Panel("image", pictures.photo_uri(pictures.shrunk(rgb, PICTURE_PX)), f"Image {image.image_id}")
