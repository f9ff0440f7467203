"""Describe: all that the page of one image has to know before it asks for a tile; shelf -> *JSON*."""

from typing import Any

from segcore.errors import SegcoreError, worded
from segcore.scoring.areas import LENGTH_LABELS, pixel_sides
from segcore.selection import is_stale
from segcore.store import Image, Label, Layer, Workspace
from segcore.view.drawing import background, is_of_objects, shown_classes
from segcore.view.planes import TILE_PX
from segcore.view.shelf import Group, Shelf, shown_bands, stretch


def described(shelf: Shelf, image_id: str) -> dict[str, Any]:
    """An image with its labels and layers; one of them that is damaged is named under `problems`.

    Raises:
        StoreError: if there is no such image, or it is not complete.
    """
    image, version = shelf.image(image_id)
    has_name = "-" in image_id  # `ingest --ids hash` keeps names off the screen
    names: dict[Group, list[str]] = {
        "labels": shelf.workspace.label_names(image_id),
        "layers": shelf.workspace.layer_names(image_id),
    }
    overlays, problems = [], [*unfinished(shelf.workspace, image_id, names["labels"])]
    for group, found in names.items():
        for name in found:
            try:
                overlays.append(_overlay(shelf, image, group, name))
            except (SegcoreError, KeyError, TypeError, ValueError) as error:
                problems.append(worded(error, image_id))
    return {
        "id": image_id,
        "version": version,
        "source": image.source.rstrip("/").rpartition("/")[2] if has_name else "",
        "split": image.split,
        "group": image.group,
        "dtype": str(image.dtype),
        "tile_px": TILE_PX,
        "levels": [list(image.shape(level)[-2:]) for level in range(image.num_levels)],
        "planes": {axis: n for axis, n in zip(image.axes, image.shape(), strict=True) if axis in "zt"},
        "bands": _bands(shelf, image),
        "linked": image.is_linked,
        **_place(image),
        "overlays": sorted(overlays, key=_order),
        "problems": problems,
    }


def unfinished(workspace: Workspace, image_id: str, complete: list[str]) -> list[str]:
    """Sentences about what was begun for an image and is not there."""
    begun = workspace.objects.folders(f"state/{image_id}")
    lacking = [name for name in begun if name != "image" and name not in complete and not name.startswith("_")]
    return [f"{name} is not complete: run the command that makes it again" for name in lacking]


def _bands(shelf: Shelf, image: Image) -> dict[str, Any]:
    limits, shown = shelf.limits(image.image_id), shown_bands(image)
    return {
        "names": list(image.channels),
        "limits": [list(each) for each in limits],
        "shown": shown,
        "stretch": list(stretch(limits, shown, image.dtype)),
    }


def _place(image: Image) -> dict[str, Any]:
    """How large a pixel is, and where it lies."""
    axes = tuple(axis for axis in image.axes if axis != "c")
    sides, unit = pixel_sides(axes, image.spacing, image.georef)
    spacing = dict(zip(axes, sides, strict=True))
    georef = image.georef
    return {
        "spacing": {axis: spacing[axis] for axis in axes if axis != "t"},
        "unit": LENGTH_LABELS[unit],
        "georef": None if georef is None else {"epsg": georef.epsg, "transform": list(georef.transform)},
    }


def _overlay(shelf: Shelf, image: Image, group: Group, name: str) -> dict[str, Any]:
    opened = shelf.opened(image.image_id, group, name)
    pyramid = opened.pyramid
    facts = {
        "name": name,
        "group": group,
        "version": opened.version,
        "base_level": pyramid.base_level,
        "num_levels": pyramid.num_levels,
        "stale": isinstance(pyramid, Label) and is_stale(image, pyramid),
    }
    if isinstance(pyramid, Layer):
        return facts | {"kind": "values", "channels": list(pyramid.channels)}
    assert isinstance(pyramid, Label), f"{name}: {pyramid}"
    if is_of_objects(pyramid):
        return facts | {"kind": "objects"}
    hidden = background(pyramid)
    classes = [
        {"id": info.id, "name": info.name, "color": list(info.color), "background": info.id in hidden}
        for info in shown_classes(pyramid)
    ]
    return facts | {"kind": "classes", "classes": classes, "ignore": pyramid.ignore}


def _order(overlay: dict[str, Any]) -> tuple[int, str]:
    """Masks first, then targets, the rest of the labels, layers."""
    name = overlay["name"]
    if overlay["group"] == "layers":
        return 3, name
    if name in ("valid", "foreground"):
        return 2, name
    return (1, name) if name.startswith("target") else (0, name)
