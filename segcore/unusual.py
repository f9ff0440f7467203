"""Unusual: what `segcore drift` left in the workspace -> *the most unusual images* of the report.

reports/drift/<model_id>.json     images, the most unusual first, and in what
"""

import json
from collections.abc import Sequence

from segcore.report import Panel, UnusualImages, UnusualRow, pictures
from segcore.shown import coarse_plane, read_picture
from segcore.store import Image, Workspace
from segcore.why import makers_of

MAX_ROWS = 8
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
    picture, _ = read_picture(image, *coarse_plane(image), PICTURE_PX)
    return Panel("image", pictures.photo_uri(picture), f"Image {image.image_id}")
