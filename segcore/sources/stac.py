"""STAC: an Item, whose data assets become the channels of one image (https://github.com/radiantearth/stac-spec).

item.json --> its data assets, or those behind `::` --> a stack
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urljoin

from segcore.errors import SourceError
from segcore.sources import open_source
from segcore.sources.base import Companions, Format, Limits, Opening, Reader, Source
from segcore.sources.files import SourceFile, check_scheme, split_member
from segcore.sources.joined import Joined
from segcore.sources.stack import StackSource

MAX_BYTES = 2**24
"""Size of an Item that is looked at; real ones have some kilobytes."""

MARK = b'"stac_version"'
"""What other JSON has not: it is not parsed."""

IMAGE_TYPES = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff")
"""Media types of data where no asset says that it has the role."""
OTHER_ROLES = {"thumbnail", "overview", "visual", "metadata"}
"""Roles of pictures to look at."""


def _is_stac(file: SourceFile) -> bool:
    """True for JSON with a `stac_version` at its top: a GeoJSON feature has none."""
    if file.is_folder or not file.head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return False
    if file.num_bytes > MAX_BYTES:
        return MARK in file.head
    return isinstance(_document(file).get("stac_version"), str)


def _document(file: SourceFile) -> dict[str, Any]:
    """What the file says; empty where it is no JSON object, or none of STAC."""
    with file.open() as opened:
        data = opened.read(MAX_BYTES + 1)
    if MARK not in data:
        return {}
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _open(file: SourceFile, opening: Opening) -> Source:
    assets = _assets(file, opening.limits)
    joined = Joined(uri=file.uri, how="stack", parts=_addresses(file, assets))
    source = StackSource(joined, opening, _open_asset, [_band_names(name, asset) for name, asset in assets.items()])
    details = source.info.details | {"kind": "STAC Item", "assets": list(assets)}
    source.info = source.info.model_copy(
        update={"reader": "stac", "details": details, "num_bytes": source.info.num_bytes + file.num_bytes}
    )
    return source


def _assets(file: SourceFile, limits: Limits) -> dict[str, Mapping[str, Any]]:
    """The assets of an Item that are wanted.

    Raises:
        SourceError: if it is none, has none of them, or more than the limits allow.
    """
    limit = min(MAX_BYTES, limits.max_metadata_bytes)
    if file.num_bytes > limit:
        raise SourceError(f"{file.uri}: an Item of {file.num_bytes} bytes is over the limit of {limit}")
    item = _document(file)
    if item.get("type") != "Feature":
        raise SourceError(f"{file.uri}: expected a STAC Item, got a {str(item.get('type'))[:40]}; give its Items")
    assets = _chosen(file, item)
    if len(assets) > limits.max_channels:
        raise SourceError(f"{file.uri}: {len(assets)} assets are over the limit max_channels = {limits.max_channels}")
    return assets


def _addresses(file: SourceFile, assets: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Where assets lie."""
    place = split_member(file.uri)[0].removeprefix("file://")
    return tuple(address(file.uri, place, f"asset {name}", asset) for name, asset in assets.items())


def _open_asset(uri: str, opening: Opening) -> Source:
    """One asset; an Item in an Item could go on for ever."""
    if _is_stac(SourceFile(uri)):
        raise SourceError(f"{uri}: expected an image as asset, got STAC again")
    return open_source(uri, opening)


def _chosen(file: SourceFile, item: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The assets that are wanted, in their order: those that the user names, else all data."""
    found = item.get("assets")
    known: dict[str, Mapping[str, Any]]
    known = {name: asset for name, asset in found.items() if isinstance(asset, dict)} if isinstance(found, dict) else {}
    listed = ", ".join(known)[:300] or "none"
    if file.member is not None:
        names = [name.strip() for name in file.member.split(",")]
        missing = [name for name in names if name not in known]
        if missing or len(set(names)) < len(names):
            wrong = f"no asset {missing[0]!r}" if missing else "an asset twice"
            raise SourceError(f"{file.uri}: expected assets of the Item, each once, got {wrong}; it has {listed}")
        return {name: known[name] for name in names}
    data = {name: asset for name, asset in known.items() if "data" in _roles(asset) and _is_image(asset, ("image/",))}
    data = data or {
        name: asset
        for name, asset in known.items()
        if _is_image(asset, IMAGE_TYPES) and not _roles(asset) & OTHER_ROLES
    }
    if not data:
        raise SourceError(f"{file.uri}: no asset with the role data; name those that you mean behind ::, of {listed}")
    return data


def _roles(asset: Mapping[str, Any]) -> set[str]:
    roles = asset.get("roles")
    return {role for role in roles if isinstance(role, str)} if isinstance(roles, list) else set()


def _is_image(asset: Mapping[str, Any], types: tuple[str, ...]) -> bool:
    """True for an asset of one of these media types; one that tells none may be an image where all are asked for."""
    said = asset.get("type")
    return said.lower().startswith(types) if isinstance(said, str) else types == ("image/",)


def address(uri: str, place: str, name: str, link: Mapping[str, Any]) -> str:
    """Where an asset or a link leads: absolute, or relative to its document.

    Args:
        uri: of the document, to name it.
        place: where it lies.
        name: of the asset or link, to name it.
        link: has a `href`.

    Raises:
        SourceError: if that is no place that may be opened: an Item from elsewhere must not point at local files.
    """
    href = link.get("href")
    if not isinstance(href, str) or not href:
        raise SourceError(f"{uri}: its {name} has no href")
    if "://" in href and not href.startswith("file://"):
        check_scheme(href)
        return href
    if "://" not in place:
        path = href.removeprefix("file://")
        return path if path.startswith("/") or "/" not in place else f"{place.rsplit('/', 1)[0]}/{path}"
    if href.startswith("file:") or (href.startswith("/") and not place.startswith(("http://", "https://"))):
        raise SourceError(f"{uri}: its {name} points at the local file {href[:200]}, which an address must not do")
    if place.startswith(("http://", "https://")):
        resolved = urljoin(place, href)
        check_scheme(resolved)
        return resolved
    return _beside(uri, place, name, href)


def _beside(uri: str, place: str, name: str, href: str) -> str:
    """A relative address below an object store's bucket."""
    scheme, _, path = place.partition("://")
    parts = path.split("/")[:-1]
    for step in href.split("/"):
        if step == ".." and len(parts) < 2:
            raise SourceError(f"{uri}: its {name} lies outside the bucket: {href[:200]}")
        parts = parts[:-1] if step == ".." else parts if step == "." else [*parts, step]
    return f"{scheme}://{'/'.join(parts)}"


def _band_names(name: str, asset: Mapping[str, Any]) -> Sequence[str]:
    """Names of an asset's channels: of its bands, where each has one, else its own."""
    for field in ("eo:bands", "bands", "raster:bands"):
        bands = asset.get(field)
        if isinstance(bands, list) and bands and all(isinstance(band, dict) for band in bands):
            names = [band.get("name") or band.get("common_name") for band in bands]
            if all(isinstance(found, str) for found in names):
                return [str(found)[:200] for found in names]
    return [name[:200]]


READER = Reader(
    name="STAC Item",
    rank=5,
    matches=_is_stac,
    open=_open,
    companions=Companions((".json", ".geojson", ""), lambda file: _addresses(file, _assets(file, Limits()))),
    # No suffix: most JSON beside images is none of ours.
    formats=(Format("STAC Item", (), "its data assets as channels, by name behind `::` (`item.json::B02,B03`)"),),
)
