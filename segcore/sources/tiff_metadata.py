"""TIFF metadata: spacing, channel names and what `inspect` shows, from tags, OME-XML or ImageJ's text."""

import math
from typing import Any
from xml.etree import ElementTree

import numpy as np

from segcore.errors import SourceError
from segcore.sources.base import Limits, default_channels
from segcore.spatial import Spacing

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, ORIENTATION, GDAL_NODATA = 282, 283, 296, 274, 42113
UM_PER_UNIT = {2: 25400.0, 3: 10000.0}
"""Micrometres per inch and per centimetre, by the values of ResolutionUnit."""

SCREEN_DPI = (72.0, 96.0)
"""What programs write when they know nothing of the pixel size."""

UNITS = {
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",
    "μm": "micrometer",
    "\\u00b5m": "micrometer",
    "micron": "micrometer",
    "microns": "micrometer",
    "micrometer": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "inch": "inch",
    "m": "meter",
    "Å": "angstrom",
    "pm": "picometer",
}
"""Units as OME and ImageJ write them, and as NGFF does. µ exists twice in Unicode."""


def check_xml(uri: str, description: str, limits: Limits) -> None:
    """Refuse XML that is too long, or that declares a document type: entities can blow up or read files.

    Raises:
        SourceError: before anything parses it.
    """
    if len(description) > limits.max_metadata_bytes:
        raise SourceError(
            f"{uri}: {len(description)} characters of metadata are over the limit "
            f"max_metadata_bytes = {limits.max_metadata_bytes}"
        )
    upper = description.upper()
    if "<!DOCTYPE" in upper or "<!ENTITY" in upper:
        raise SourceError(f"{uri}: its XML declares a DOCTYPE or ENTITY, which OME-XML never needs; refused for safety")


def spacing(tiff: Any, page: Any) -> Spacing | None:
    """Pixel size: of OME-XML, ImageJ, or the resolution tags; None if unknown."""
    if tiff.is_ome:
        return _ome_spacing(page.description)
    if tiff.is_imagej:
        return _imagej_spacing(tiff.imagej_metadata or {}, page)
    return _tag_spacing(page)


def _ome_spacing(xml: str) -> Spacing | None:
    """From the first image's Pixels element; axes in different units are brought to that of x."""
    pixels = _ome_pixels(xml)
    if pixels is None:
        return None
    values, unit = {}, None
    for axis in "xyz":
        size = _positive(pixels.get(f"PhysicalSize{axis.upper()}"))
        name = UNITS.get(pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm"))
        if size is None or name is None:
            continue
        unit = unit or name
        values[axis] = size * METRES[name] / METRES[unit]
    if unit is None or not {"x", "y"} <= set(values):
        return None
    return Spacing(values={axis: values[axis] for axis in "zyx" if axis in values}, unit=unit, origin="file")


METRES = {
    "picometer": 1e-12,
    "angstrom": 1e-10,
    "nanometer": 1e-9,
    "micrometer": 1e-6,
    "millimeter": 1e-3,
    "centimeter": 1e-2,
    "inch": 0.0254,
    "meter": 1.0,
}


def _ome_pixels(xml: str) -> Any:
    """The first Pixels element, or None. Called after `check_xml`."""
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 - DOCTYPE and ENTITY were refused
    except ElementTree.ParseError:
        return None
    return next(
        (element for element in root.iter() if element.tag.endswith("}Pixels") or element.tag == "Pixels"), None
    )


def _imagej_spacing(said: dict[str, Any], page: Any) -> Spacing | None:
    """ImageJ: the resolution tags count pixels per `unit`; `spacing` is z."""
    unit = UNITS.get(str(said.get("unit", "")))
    x, y = _resolution(page, X_RESOLUTION), _resolution(page, Y_RESOLUTION)
    if unit is None or x is None or y is None:
        return None
    values = {"y": 1 / y, "x": 1 / x}
    z = _positive(said.get("spacing"))
    return Spacing(values={"z": z, **values} if z is not None else values, unit=unit, origin="file")


def _tag_spacing(page: Any) -> Spacing | None:
    """Plain TIFF: pixels per inch or centimetre, unless it is a screen's default."""
    um = UM_PER_UNIT.get(int(page.tags.valueof(RESOLUTION_UNIT, 2)))
    x, y = _resolution(page, X_RESOLUTION), _resolution(page, Y_RESOLUTION)
    if um is None or x is None or y is None:
        return None
    if any(math.isclose(x * 25400.0 / um, dpi, rel_tol=1e-3) for dpi in SCREEN_DPI):
        return None
    return Spacing(values={"y": um / y, "x": um / x}, unit="micrometer", origin="file")


def _resolution(page: Any, tag: int) -> float | None:
    """A resolution tag as a number; None if it is missing or senseless."""
    value = page.tags.valueof(tag)
    if not isinstance(value, tuple) or len(value) != 2 or value[1] == 0:
        return None
    # 1 pixel per unit is what writers put who have to put something.
    return _positive(value[0] / value[1]) if value[0] != value[1] else None


def _positive(value: Any) -> float | None:
    """A finite number over 0, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def nodata(page: Any) -> float | None:
    """GDAL's nodata tag, which some write without a georeference."""
    value = page.tags.valueof(GDAL_NODATA)
    try:
        return float(str(value).strip("\0 ")) if value is not None else None
    except ValueError:
        return None


def channel_names(
    tiff: Any, num_channels: int, num_samples: int, page: Any, expanded: bool, indexed: bool
) -> tuple[str, ...]:
    """Names of OME channels where each has one; else defaults."""
    if indexed and page.photometric == 3:
        return ("index",)
    if expanded:
        return default_channels(3)
    pixels = _ome_pixels(page.description) if tiff.is_ome else None
    names = (
        [element.get("Name") or "" for element in pixels if element.tag.endswith("Channel")]
        if pixels is not None
        else []
    )
    if len(names) == num_channels and all(names) and len(set(names)) == num_channels:
        return tuple(names)
    if num_channels == 3 and num_samples == 1:
        return tuple(f"channel {i}" for i in range(3))
    return default_channels(num_channels)


def details(tiff: Any, series: Any, page: Any, palette: Any) -> dict[str, Any]:
    """What `inspect` shows besides."""
    tiled = bool(page.is_tiled)
    told: dict[str, Any] = {
        "kind": {"ome": "OME-TIFF", "imagej": "ImageJ TIFF"}.get(series.kind, "TIFF"),
        "compression": getattr(page.compression, "name", str(page.compression)).lower(),
        "photometric": getattr(page.photometric, "name", str(page.photometric)).lower(),
        "bits": int(page.bitspersample),
        "tiled": tiled,
        "tile": [int(page.tilelength), int(page.tilewidth)]
        if tiled
        else [int(page.rowsperstrip), int(page.imagewidth)],
        "levels": [[int(level.keyframe.imagelength), int(level.keyframe.imagewidth)] for level in series.levels],
        "images": len(tiff.series),
        "orientation": int(page.tags.valueof(ORIENTATION, 1)),
    }
    if palette is not None:
        told["palette"] = np.asarray(palette).tolist()
    return told
