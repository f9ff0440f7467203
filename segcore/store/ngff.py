"""NGFF: the OME-Zarr 0.5 metadata of images and labels, and the GeoZarr conventions beside it.

Source: OME-NGFF 0.5 (multiscales, omero, labels, image-label); GeoZarr `proj:` and `spatial:` conventions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from segcore.classes import RGB, ClassInfo
from segcore.geometry import Ints
from segcore.spatial import Georef, Spacing
from segcore.store.pyramid import Pixels, PyramidSpec

VERSION = "0.5"
_AXIS_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_NGFF_UNITS = {"angstrom", "nanometer", "micrometer", "millimeter", "centimeter", "meter", "kilometer", "foot", "inch"}
_CHANNEL_COLORS = ("FF0000", "00FF00", "0000FF", "FFFFFF", "00FFFF", "FF00FF", "FFFF00")


def multiscales(name: str, spec: PyramidSpec, spacing: Spacing | None) -> list[dict[str, Any]]:
    """Axes, and scale then translation for every level; binned levels carry the half-pixel translation."""
    sizes = [spacing.values.get(axis, 1.0) if spacing else 1.0 for axis in spec.axes]
    datasets = []
    for level in range(len(spec.levels)):
        factors = [2 ** (spec.base_level + level) if h else 1 for h in spec.halve]
        binned = spec.kind != "instances"
        shifts = [(f - 1) / 2 * size if binned else 0.0 for f, size in zip(factors, sizes, strict=True)]
        scale = [f * size for f, size in zip(factors, sizes, strict=True)]
        transformations = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shifts}]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    return [
        {
            "name": name,
            "axes": [_axis(axis, spacing) for axis in spec.axes],
            "datasets": datasets,
            "type": {"image": "mean", "mask": "mode", "instances": "nearest"}[spec.kind],
        }
    ]


def _axis(axis: str, spacing: Spacing | None) -> dict[str, str]:
    described = {"name": axis, "type": _AXIS_TYPES[axis]}
    if spacing is not None and axis in spacing.values and spacing.unit in _NGFF_UNITS:
        described["unit"] = spacing.unit
    return described


def omero(channels: Sequence[str], coarsest: Pixels, axes: Sequence[str]) -> dict[str, Any]:
    """Rendering hints: colours, and windows from the 1st to the 99th percentile of the coarsest level."""
    moved = np.moveaxis(coarsest, axes.index("c"), 0) if "c" in axes else coarsest[None]
    described = []
    for i, (name, pixels) in enumerate(zip(channels, moved, strict=True)):
        finite = pixels[np.isfinite(pixels)] if np.issubdtype(pixels.dtype, np.floating) else pixels.ravel()
        low, start, end, high = np.percentile(finite, (0, 1, 99, 100)).tolist() if finite.size else (0, 0, 1, 1)
        if pixels.dtype == np.uint8:
            low, high = 0, 255
        color = "FFFFFF" if len(channels) == 1 else _CHANNEL_COLORS[i % len(_CHANNEL_COLORS)]
        window = {"min": low, "max": high, "start": start, "end": max(end, start + 1e-6)}
        described.append({"label": name, "color": color, "active": i < 3, "window": window})
    return {"channels": described, "rdefs": {"model": "greyscale" if len(channels) == 1 else "color"}}


def image_label(classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """Colours and names of a label's values."""
    return {
        "version": VERSION,
        "colors": [{"label-value": c.id, "rgba": [*_rgb(c.color), 0 if c.id == 0 else 255]} for c in classes],
        "properties": [{"label-value": c.id, "name": c.name} for c in classes],
        "source": {"image": "../../"},
    }


def _rgb(color: RGB) -> list[int]:
    return [int(value) for value in color]


def geozarr(georef: Georef, shape_yx: Ints) -> dict[str, Any]:
    """CRS and affine transform under the keys of the `proj:` and `spatial:` conventions."""
    attributes: dict[str, Any] = {
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": list(georef.transform),
        "spatial:shape": list(shape_yx),
        "spatial:registration": "pixel",
    }
    if georef.epsg is not None:
        attributes["proj:code"] = f"EPSG:{georef.epsg}"
    if georef.crs_wkt is not None:
        attributes["proj:wkt2"] = georef.crs_wkt
    return attributes


def group(attributes: dict[str, Any]) -> dict[str, Any]:
    """The `zarr.json` of a Zarr v3 group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}
