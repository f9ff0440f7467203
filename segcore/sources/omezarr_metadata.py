"""OME-Zarr metadata: groups, multiscales, spacing and names, read by hand with limits, before anything is opened.

Source: OME-NGFF 0.4 and 0.5 (multiscales, omero, plate, well, bioformats2raw.layout); GeoZarr `proj:`, `spatial:`.
"""

import json
import math
from itertools import takewhile
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segcore.errors import SourceError
from segcore.sources.base import Limits, default_channels
from segcore.sources.files import MEMBER, SourceFile
from segcore.spatial import METERS_PER_UNIT, UNIT_NAMES, Georef, Spacing

MARKS = ("zarr.json", ".zattrs", ".zgroup")
"""A folder with one of these is a Zarr group."""
VERSIONS = ("0.4", "0.5")
SERIES_KEY = "bioformats2raw.layout"
METERS = METERS_PER_UNIT | {"angstrom": 1e-10, "picometer": 1e-12}


class Axis(BaseModel):
    """One axis of a multiscale image."""

    model_config = ConfigDict(frozen=True)

    name: str
    unit: str | None = None


class Transformation(BaseModel):
    """`scale` and `translation` are known; others tell us nothing."""

    model_config = ConfigDict(frozen=True)

    type: str
    scale: tuple[float, ...] | None = None


class Dataset(BaseModel):
    """One level: where its array lies, and the size of its pixels."""

    model_config = ConfigDict(frozen=True)

    path: str
    coordinateTransformations: tuple[Transformation, ...] = ()  # noqa: N815 - NGFF's own name


class Multiscales(BaseModel):
    """An image in levels, finest first."""

    model_config = ConfigDict(frozen=True)

    axes: tuple[Axis, ...] = Field(min_length=2, max_length=5)
    datasets: tuple[Dataset, ...] = Field(min_length=1, max_length=64)
    coordinateTransformations: tuple[Transformation, ...] = ()  # noqa: N815 - NGFF's own name


class Group(BaseModel):
    """The attributes of a Zarr group."""

    model_config = ConfigDict(frozen=True)

    path: str
    """Below the folder; "" = the folder itself."""
    zarr_format: int
    attributes: dict[str, Any]

    @property
    def ome(self) -> dict[str, Any]:
        """What OME-NGFF says: all attributes of Zarr v2, those under `ome` of Zarr v3."""
        found = self.attributes if self.zarr_format == 2 else self.attributes.get("ome", {})
        return found if isinstance(found, dict) else {}

    @property
    def version(self) -> str:
        """Of OME-NGFF; where it is not said, the one that the version of Zarr belongs to."""
        listed = self.ome.get("multiscales")
        first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
        return str(self.ome.get("version") or first.get("version") or VERSIONS[self.zarr_format - 2])[:20]


def read_json(file: SourceFile, path: str, limits: Limits) -> dict[str, Any]:
    """A JSON object below a folder.

    Raises:
        SourceError: if it is missing, too long, nested too deep, or no JSON object.
    """
    found = file.child(path)
    if found.num_bytes > limits.max_metadata_bytes:
        raise SourceError(
            f"{found.uri}: {found.num_bytes} bytes of metadata are over the limit "
            f"max_metadata_bytes = {limits.max_metadata_bytes}"
        )
    with found.open() as opened:
        data = opened.read(limits.max_metadata_bytes)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{found.uri}: damaged metadata: no JSON ({str(error)[:100]})") from error
    if not isinstance(document, dict):
        raise SourceError(f"{found.uri}: damaged metadata: expected a JSON object, got a {type(document).__name__}")
    return document


def read_group(file: SourceFile, path: str, limits: Limits) -> Group:
    """The group at a path below a folder.

    Raises:
        SourceError: if there is none.
    """
    below = f"{path}/" if path else ""
    if file.has(f"{below}zarr.json"):
        document = read_json(file, f"{below}zarr.json", limits)
        attributes = document.get("attributes")
        return Group(path=path, zarr_format=3, attributes=attributes if isinstance(attributes, dict) else {})
    if file.has(f"{below}.zattrs"):
        return Group(path=path, zarr_format=2, attributes=read_json(file, f"{below}.zattrs", limits))
    if file.has(f"{below}.zgroup") or file.has(f"{below}.zarray"):
        return Group(path=path, zarr_format=2, attributes={})
    where = f"at {path} in it" if path else "there"
    raise SourceError(f"{file.uri}: no Zarr group {where}; expected one of {', '.join(MARKS)}")


def series_of(file: SourceFile, root: Group, limits: Limits) -> tuple[str, ...]:
    """The images of the layout `bioformats2raw`: as its `OME` group lists them, else 0, 1, 2...; none = another layout.

    Raises:
        SourceError: if the list is damaged or longer than `max_pages`.
    """
    if SERIES_KEY not in root.ome or "plate" in root.ome:
        return ()
    mark = ".zattrs" if root.zarr_format == 2 else "zarr.json"
    listed = read_group(file, "OME", limits).ome.get("series") if file.has(f"OME/{mark}") else None
    if listed is None:
        numbers = (str(number) for number in range(limits.max_pages + 1))
        listed = list(takewhile(lambda name: file.has(f"{name}/{mark}"), numbers))
    if not isinstance(listed, list) or len(listed) > limits.max_pages:
        raise SourceError(f"{file.uri}: expected a list of at most {limits.max_pages} series in its OME group")
    return tuple(checked_path(file.uri, name) for name in listed)


def checked_path(uri: str, path: Any) -> str:
    """A path inside the folder, and nothing else.

    Raises:
        SourceError: if it leads elsewhere.
    """
    parts = path.strip("/").split("/") if isinstance(path, str) else [""]
    if any(part in ("", ".", "..") or "\\" in part or ":" in part for part in parts) or str(path).startswith("/"):
        raise SourceError(f"{uri}: the path {path!r} is not read; expected one of names, inside the folder")
    return "/".join(parts)


def multiscales_of(uri: str, group: Group) -> Multiscales:
    """The first multiscale image of a group.

    Raises:
        SourceError: if it is of another version, or damaged; a plate or a well is refused with what to name instead.
    """
    ome = group.ome
    if "plate" in ome:
        raise SourceError(f"{uri}: it is a plate of many fields; name one of them: {uri}{MEMBER}{_first_field(ome)}")
    if "well" in ome:
        raise SourceError(f"{uri}: it is a well of a plate; name one of its fields: {uri}/0")
    listed = ome.get("multiscales")
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
        raise SourceError(
            f"{uri}: Zarr without an OME-Zarr image (no `multiscales`); "
            f"write it as OME-Zarr, or name a group of it that is one: {uri}{MEMBER}<path>"
        )
    if not group.version.startswith(VERSIONS):
        raise SourceError(f"{uri}: OME-Zarr {group.version} is not read; expected {' or '.join(VERSIONS)}")
    try:
        return Multiscales.model_validate(listed[0])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise SourceError(f"{uri}: damaged metadata: multiscales: {place}: {first['msg']}") from error


def _first_field(ome: dict[str, Any]) -> str:
    """The first field of a plate's first well, or how such paths look."""
    try:
        return f"{ome['plate']['wells'][0]['path']}/0"
    except (KeyError, IndexError, TypeError):
        return "A/1/0"


def spacing_of(scales: Multiscales) -> Spacing | None:
    """Size of the finest level's pixels in the unit of x; None where y or x has no unit or no sensible scale."""
    sizes = [1.0] * len(scales.axes)
    for found in (*scales.datasets[0].coordinateTransformations, *scales.coordinateTransformations):
        if found.scale is not None and len(found.scale) == len(sizes):
            sizes = [size * scale for size, scale in zip(sizes, found.scale, strict=True)]
    units = {axis.name.lower(): UNIT_NAMES.get(axis.unit or "", axis.unit) for axis in scales.axes}
    unit = units.get("x")
    if unit not in METERS:
        return None
    values = {}
    for axis, size in zip(scales.axes, sizes, strict=True):
        name, own = axis.name.lower(), units[axis.name.lower()]
        if name in ("z", "y", "x") and own in METERS and math.isfinite(size) and size > 0:
            values[name] = size * (METERS[own] / METERS[unit])
    return Spacing(values=values, unit=unit, origin="file") if {"y", "x"} <= set(values) else None


def channels_of(ome: dict[str, Any], num_channels: int) -> tuple[str, ...]:
    """The labels of `omero`, where every channel has one of its own; else defaults."""
    try:
        labels = [channel["label"] for channel in ome["omero"]["channels"]]
    except (KeyError, TypeError):
        labels = []
    is_named = len(labels) == num_channels and all(isinstance(label, str) and label.strip() for label in labels)
    return tuple(labels) if is_named and len(set(labels)) == num_channels else default_channels(num_channels)


def georef_of(attributes: dict[str, Any]) -> Georef | None:
    """CRS and transform in the words of GeoZarr; None where one is missing."""
    transform, code = attributes.get("spatial:transform"), attributes.get("proj:code")
    epsg = str(code).partition("EPSG:")[2]
    found = {
        "transform": transform,
        "crs_wkt": attributes.get("proj:wkt2"),
        "epsg": int(epsg) if epsg.isdigit() else None,
    }
    if transform is None or (found["crs_wkt"] is None and found["epsg"] is None):
        return None
    if attributes.get("spatial:registration", "pixel") != "pixel":
        return None
    try:
        return Georef.model_validate(found)
    except ValidationError:
        return None


def own_words(attributes: dict[str, Any]) -> tuple[Spacing | None, float | None]:
    """Spacing and nodata that segcore itself wrote beside NGFF's: it has no degrees, and no nodata."""
    own = attributes.get("segcore")
    if not isinstance(own, dict):
        return None, None
    try:
        spacing = Spacing.model_validate(own["spacing"]).model_copy(update={"origin": "file"})
    except (KeyError, ValidationError):
        spacing = None
    try:
        nodata = float(own["nodata"])
    except (KeyError, TypeError, ValueError):
        nodata = None
    return spacing, nodata
