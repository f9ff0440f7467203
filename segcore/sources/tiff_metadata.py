"""TIFF metadata: spacing, channel names and what `inspect` shows, from tags, OME-XML or ImageJ's text."""

import math
from typing import Any
from xml.etree import ElementTree

from segcore.errors import SourceError
from segcore.sources.base import Limits, default_channels
from segcore.sources.tiff_colors import Colors
from segcore.sources.tiff_orientation import Orientation
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


def is_ome(tiff: Any) -> bool:
    """True if the first page's description says so, whole or damaged; tifffile takes damaged ones for plain TIFFs."""
    return bool(tiff.is_ome) or "<OME" in tiff.pages.first.description[:4096]


def check_ome(uri: str, xml: str, num_samples: int, limits: Limits) -> None:
    """Refuse OME-XML that tells of more planes than are read. Called after `check_xml`, before tifffile believes it.

    Args:
        uri: what errors name.
        xml: the description of the first page.
        num_samples: samples of a pixel: channels that share a plane.
        limits: `max_pages` counts.

    Raises:
        SourceError: also if the XML cannot be parsed.
    """
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 - DOCTYPE and ENTITY were refused
    except ElementTree.ParseError as error:
        raise SourceError(f"{uri}: its OME-XML is damaged ({error}); copy it again from where it came") from error
    for element in root.iter():
        counts = [element.get(name, "1") for name in ("PlaneCount", "NumPlanes", "IFD", "FirstZ", "FirstC", "FirstT")]
        planes = [math.prod(int(element.get(f"Size{axis}", 1)) for axis in "ZCT") // num_samples]
        asked = max(*(int(count) for count in counts), *planes) if element.tag.endswith(("Pixels", "TiffData")) else 0
        if asked > limits.max_pages:
            raise SourceError(
                f"{uri}: its OME-XML tells of {asked} planes, over the limit max_pages = {limits.max_pages}"
            )


def ome_pixels(tiff: Any, series: Any) -> Any:
    """The Pixels element of a series of an OME-TIFF; None for other TIFFs, and where it is unclear which one it is."""
    if series.kind != "ome":
        return None
    # The first page's XML tells of all: it is the one that was checked.
    root = ElementTree.fromstring(tiff.pages.first.description)  # noqa: S314
    images = [image for image in root if image.tag.endswith("Image")]
    if len(images) != len(tiff.series):  # images without planes are no series
        images = [image for image in images if image.get("Name") == series.name]
    elif len(images) > 1:
        images = [image for image, found in zip(images, tiff.series, strict=True) if found is series]
    if len(images) != 1:
        return None
    return next((element for element in images[0] if element.tag.endswith("Pixels")), None)


def spacing(tiff: Any, page: Any, pixels: Any, orientation: Orientation) -> Spacing | None:
    """Pixel size: of OME-XML, ImageJ, or the resolution tags; None if unknown.

    Args:
        tiff: tifffile's file.
        page: the first page of the series.
        pixels: the series' Pixels element, of OME-TIFF.
        orientation: the tags tell of rows and columns as they are stored.
    """
    if tiff.is_ome:
        return None if pixels is None else _ome_spacing(pixels)
    if tiff.is_imagej:
        return _imagej_spacing(tiff.imagej_metadata or {}, page)
    return _tag_spacing(page, orientation)


def _ome_spacing(pixels: Any) -> Spacing | None:
    """Of a Pixels element; axes in different units are brought to that of x."""
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


def _imagej_spacing(said: dict[str, Any], page: Any) -> Spacing | None:
    """ImageJ: the resolution tags count pixels per `unit`; `spacing` is z."""
    unit = UNITS.get(str(said.get("unit", "")))
    x, y = _resolution(page, X_RESOLUTION), _resolution(page, Y_RESOLUTION)
    if unit is None or x is None or y is None:
        return None
    values = {"y": 1 / y, "x": 1 / x}
    z = _positive(said.get("spacing"))
    return Spacing(values={"z": z, **values} if z is not None else values, unit=unit, origin="file")


def _tag_spacing(page: Any, orientation: Orientation) -> Spacing | None:
    """Plain TIFF: pixels per inch or centimetre, unless it is a screen's default."""
    um = UM_PER_UNIT.get(int(page.tags.valueof(RESOLUTION_UNIT, 2)))
    x, y = _resolution(page, X_RESOLUTION), _resolution(page, Y_RESOLUTION)
    if um is None or x is None or y is None:
        return None
    if any(math.isclose(x * 25400.0 / um, dpi, rel_tol=1e-3) for dpi in SCREEN_DPI):
        return None
    if orientation.is_transposed:
        x, y = y, x
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


def channel_names(pixels: Any, num_channels: int, colors: Colors) -> tuple[str, ...]:
    """Names of OME channels where each has one; else defaults.

    Args:
        pixels: the series' Pixels element, of OME-TIFF.
        num_channels: of the image.
        colors: those of a page.
    """
    if colors.palette is not None and colors.indexed and num_channels == 1:
        return ("index",)
    if colors.is_expanded and num_channels == 3:
        return default_channels(3)
    elements = [] if pixels is None else [element for element in pixels if element.tag.endswith("Channel")]
    names = tuple(element.get("Name") or "" for element in elements)
    if len(names) == num_channels and all(names) and len(set(names)) == num_channels:
        return names
    if num_channels == 3 and colors.num_channels == 1:
        return tuple(f"channel {i}" for i in range(3))
    return default_channels(num_channels)


def details(tiff: Any, series: Any, colors: Colors) -> dict[str, Any]:
    """What `inspect` shows besides."""
    page = series.keyframe
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
        "images": len(tiff.series),
        "orientation": int(page.tags.valueof(ORIENTATION, 1)),
    }
    if colors.palette is not None and colors.indexed:
        told["palette"] = colors.palette.tolist()
    return told
