"""Listing: what lies below a prefix of an object store, and the Items of a STAC catalogue; URI -> *sources*.

s3://bucket/incoming/          every object below it that is called as an image is; an OME-Zarr as one
catalog.json, collection.json  the Items behind its links `item`, and those of its children
https://.../items              the Items of a collection that a server answers with, page by page
"""

import json
import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import fsspec

from segcore.errors import SourceError
from segcore.roots import check_source
from segcore.sources import suffixes
from segcore.sources.files import SourceFile, is_known_scheme, is_remote
from segcore.sources.stac import MAX_BYTES, address

ZARR_MARKS = {"zarr.json", ".zgroup", ".zattrs"}
"""A folder with one of these is one OME-Zarr image."""
MAX_DOCUMENTS = 10_000
"""Catalogues and pages that one catalogue may lead to."""


def is_prefix(uri: str) -> bool:
    """True for a folder of an object store; a web server lists none."""
    return is_remote(uri) and uri.endswith("/") and is_known_scheme(uri) and not uri.startswith("http")


def images_below(prefix: str) -> list[str]:
    """URIs of the images below a prefix, sorted; empty where it is one image itself, or has none."""
    check_source(prefix)
    system, path = fsspec.core.url_to_fs(prefix)
    system.invalidate_cache()  # a listing that is kept would hide what is new
    root = PurePosixPath(path.rstrip("/"))
    names = [PurePosixPath(name) for name in system.find(path.rstrip("/"))]
    marked = {name.parent for name in names if name.name in ZARR_MARKS}
    tops = {folder for folder in marked if marked.isdisjoint(folder.parents)}
    if root in tops:
        return []
    files = [name for name in names if tops.isdisjoint(name.parents) and name.name.lower().endswith(tuple(suffixes()))]
    return sorted(system.unstrip_protocol(str(found)) for found in [*files, *tops])


def may_be_catalogue(uri: str) -> bool:
    """True for a name that catalogues have; what it is, its content says."""
    place = uri.partition("?")[0]
    return place.endswith(".json") or (is_remote(uri) and place.endswith("/items"))


def items_of(uri: str) -> list[str]:
    """URIs of the Items of a catalogue, in its order; empty where it is none.

    Raises:
        SourceError: if a part of it cannot be read, points where it must not, or leads on and on.
    """
    items: dict[str, None] = {}
    seen, ahead = {uri}, [uri]
    while ahead:
        place = ahead.pop(0)
        document = _document(place)
        for kind, found in _links(place, document):
            if kind == "item":
                items[found] = None
            elif found not in seen:
                seen.add(found)
                ahead.append(found)
        if len(seen) > MAX_DOCUMENTS:
            raise SourceError(f"{uri}: leads to more than {MAX_DOCUMENTS} catalogues; give parts of it")
    return list(items)


def _document(uri: str) -> dict[str, Any]:
    """A catalogue, collection, or answer with Items; empty where it is none of these."""
    file = SourceFile(uri)
    if file.is_folder or file.num_bytes > MAX_BYTES:
        return {}
    with file.open() as opened:
        data = opened.read(MAX_BYTES + 1)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    is_catalogue = isinstance(found, dict) and found.get("type") in ("Catalog", "Collection", "FeatureCollection")
    return found if is_catalogue else {}


def _links(uri: str, document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Links to Items (`item`) and to what has more of them (`child`); of an answer, its own Items and next page."""
    wanted = {"item": "item", "child": "child"}
    if document.get("type") == "FeatureCollection":
        wanted = {"next": "child"}
        for feature in _dicts(document.get("features")):
            for link in _dicts(feature.get("links")):
                if link.get("rel") == "self":
                    yield "item", _target(uri, link)
    for link in _dicts(document.get("links")):
        if link.get("rel") in wanted and str(link.get("method", "GET")).upper() == "GET":
            yield wanted[link["rel"]], _target(uri, link)


def _target(uri: str, link: dict[str, Any]) -> str:
    """Where a link leads, in one spelling."""
    found = address(uri, uri.removeprefix("file://"), "link", link)
    return found if is_remote(found) else os.path.normpath(found)


def _dicts(found: Any) -> list[dict[str, Any]]:
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
