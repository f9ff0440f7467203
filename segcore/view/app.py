"""App: the addresses of the viewer, read-only; request --> checked names and numbers --> drawing, listing, describe.

    /                                             the list             /api/images?text=&state=&split=&order=&page=
    /image/<id>                                   one image            /api/images/<id>, /api/images/<id>/values
    /static/<file>                                the pages' own files, held in memory
    /thumbnail/<id>                               JPEG
    /tile/<id>/<group>/<name>/<level>/<row>/<column>   PNG or JPEG; group is image, labels or layers

Names become keys of the workspace only if they are plain words. An error is one line of JSON, and ends one request.
"""

import hashlib
import logging
import mimetypes
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from segcore.errors import ConfigError, IncompleteError, SegcoreError, StoreError
from segcore.store import Workspace
from segcore.view import drawing
from segcore.view.describe import described
from segcore.view.drawing import Look
from segcore.view.guard import refusal
from segcore.view.listing import Listing, Query
from segcore.view.paint import Picture
from segcore.view.planes import Place
from segcore.view.shelf import GROUPS, Group, Shelf

STATIC = Path(__file__).parent / "static"
FOR_EVER = "private, max-age=31536000, immutable"
"""Of tiles whose address holds the version of what they show."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")

log = logging.getLogger(__name__)


class NotThereError(StoreError):
    """An image, a mask or a layer that the address names is not in the workspace."""


def view_app(workspace: Workspace) -> Starlette:
    """The application for one workspace, without the guard."""
    pages = _Pages(Shelf(workspace), Listing(workspace))
    routes = [
        ("/", lambda request: pages.file(request, "list.html")),
        ("/image/{image_id}", lambda request: pages.file(request, "image.html")),
        ("/static/{path:path}", lambda request: pages.file(request, request.path_params["path"])),
        ("/api/images", pages.images),
        ("/api/images/{image_id}", pages.image),
        ("/api/images/{image_id}/values", pages.values),
        ("/thumbnail/{image_id}", pages.thumbnail),
        ("/tile/{image_id}/{group}/{name}/{level}/{row}/{column}", pages.tile),
    ]
    return Starlette(routes=[Route(path, _told(answer), methods=["GET"]) for path, answer in routes])


def _told(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Every failure as one line of JSON; starlette runs what is no coroutine in a thread."""

    def endpoint(request: Request) -> Response:
        try:
            return answer(request)
        except SegcoreError as error:
            return refusal(_status(error), str(error))
        except Exception as error:
            log.exception("%s", request.url.path)
            return refusal(500, f"{type(error).__name__}: {error}")

    return endpoint


def _status(error: SegcoreError) -> int:
    statuses = {ConfigError: 400, NotThereError: 404, IncompleteError: 409}
    return next((status for kind, status in statuses.items() if isinstance(error, kind)), 500)


class _Pages:
    """Each method answers one address."""

    def __init__(self, shelf: Shelf, listing: Listing) -> None:
        self._shelf, self._listing = shelf, listing
        paths = [path for path in STATIC.rglob("*") if path.is_file()]
        self._files = {path.relative_to(STATIC).as_posix(): path.read_bytes() for path in paths}

    def file(self, request: Request, name: str) -> Response:
        """One of our own files: from memory, so that no address leads to the file system."""
        data = self._files.get(name)
        if data is None:
            return refusal(404, "no such page")
        kind = mimetypes.guess_type(name)[0] or "text/plain"
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        headers = {"cache-control": "no-cache", "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=kind, headers=headers)

    def images(self, request: Request) -> Response:
        asked = request.query_params
        query = Query(
            text=asked.get("text", "")[:200],
            state=asked.get("state", ""),
            split=asked.get("split", ""),
            order=asked.get("order", "name"),
            page=_number(asked, "page", 0),
        )
        return JSONResponse(self._listing.page(query))

    def image(self, request: Request) -> Response:
        image_id = _name(request, "image_id")
        self._opened(image_id, "image", "image")
        score = self._listing.score(image_id)
        found = described(self._shelf, image_id) | self._listing.neighbours(image_id)
        return JSONResponse(found | {"score": score[0] if score else None, "scored_mask": score[1] if score else ""})

    def values(self, request: Request) -> Response:
        image_id, asked = _name(request, "image_id"), request.query_params
        names = asked.getlist("of")
        for name in names:
            _checked_name(name.partition("/")[2])
        self._opened(image_id, "image", "image")
        place = _number(asked, "y"), _number(asked, "x")
        return JSONResponse(drawing.values_at(self._shelf, image_id, *place, _plane(asked), names))

    def thumbnail(self, request: Request) -> Response:
        image_id = _name(request, "image_id")
        self._opened(image_id, "image", "image")
        image, version = self._shelf.image(image_id)
        return _cached(request, drawing.thumbnail(self._shelf, image), version)

    def tile(self, request: Request) -> Response:
        group = request.path_params["group"]
        if group not in GROUPS:
            raise ConfigError(f"tile: expected one of {', '.join(GROUPS)}, got {group}")
        image_id, name, asked = _name(request, "image_id"), _name(request, "name"), request.query_params
        pyramid, version = self._opened(image_id, cast(Group, group), name)
        level, row, column = (_number(request.path_params, key) for key in ("level", "row", "column"))
        picture = drawing.tile(self._shelf, image_id, pyramid, Place(level, row, column, _plane(asked)), _look(asked))
        return _cached(request, picture, version)

    def _opened(self, image_id: str, group: Group, name: str) -> tuple[Any, str]:
        try:
            opened = self._shelf.opened(image_id, group, name)
        except IncompleteError:
            raise
        except StoreError as error:
            raise NotThereError(str(error)) from error
        return opened.pyramid, opened.version


def _cached(request: Request, picture: Picture, version: str) -> Response:
    """For ever if the address says which version it is of, and it is that; else it is asked for again each time."""
    is_it = request.query_params.get("v") == version
    headers = {"cache-control": FOR_EVER if is_it else "no-store"}
    return Response(picture.data, media_type=picture.media_type, headers=headers)


def _name(request: Request, key: str) -> str:
    return _checked_name(request.path_params[key])


def _checked_name(name: str) -> str:
    """A name out of an address that may become part of a key of the workspace.

    Raises:
        NotThereError: if nothing can bear it: no image, mask or layer has a name of other characters.
    """
    if not _NAME.fullmatch(name):
        raise NotThereError(f"no such name: {name[:100]!r}")
    return name


def _plane(asked: Mapping[str, str]) -> dict[str, int]:
    return {axis: _number(asked, axis) for axis in "zt" if axis in asked}


def _look(asked: Mapping[str, str]) -> Look:
    low, high = asked.get("low"), asked.get("high")
    return Look(
        bands=_numbers(asked, "bands"),
        limits=None if low is None or high is None else (_real(low), _real(high)),
        lossless="lossless" in asked,
        outline="outline" in asked,
        hidden=frozenset(_numbers(asked, "hidden")),
        channel=_number(asked, "channel", 0),
    )


def _number(asked: Mapping[str, str], key: str, default: int | None = None) -> int:
    text = asked.get(key)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"[0-9]{1,9}", text):
        raise ConfigError(f"{key}: expected a number, got {str(text)[:40]!r}")
    return int(text)


def _numbers(asked: Mapping[str, str], key: str) -> tuple[int, ...]:
    text = asked.get(key, "")
    if not re.fullmatch(r"([0-9]{1,5}(,[0-9]{1,5}){0,999})?", text):
        raise ConfigError(f"{key}: expected numbers with commas, got {text[:40]!r}")
    numbers = tuple(int(part) for part in text.split(",") if part)
    if any(number > 65535 for number in numbers):
        raise ConfigError(f"{key}: expected numbers up to 65535, got {text[:40]!r}")
    return numbers


def _real(text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise ConfigError(f"low, high: expected numbers, got {text[:40]!r}") from error
    if not abs(number) < 1e30:
        raise ConfigError(f"low, high: expected finite numbers, got {text[:40]!r}")
    return number
