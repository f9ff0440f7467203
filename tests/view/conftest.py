"""A browser's place: requests to an application, byte for byte as given, and tiles as arrays."""

import asyncio
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as Pillow
from starlette.types import ASGIApp, Message

from segcore.store import Workspace
from segcore.view.app import view_app

Tile = Callable[..., npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Client:
    """Asks an ASGI application without a network in between."""

    app: ASGIApp

    def get(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, **query: object) -> Answer:
        raw, _, given = path.partition("?")
        sent: list[Message] = []
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "root_path": "",
            "path": unquote(raw), "raw_path": raw.encode(), "query_string": (given or urlencode(query)).encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
            "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
        }  # fmt: skip

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        asyncio.run(self.app(scope, receive, send))
        content = b"".join(message.get("body", b"") for message in sent[1:])
        return Answer(sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}, content)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "w"), create=True)


@pytest.fixture
def client(workspace: Workspace) -> Client:
    return Client(view_app(workspace))


@pytest.fixture
def tile(client: Client) -> Tile:
    """`tile("i0/image/image/0/0/0", bands=1)` -> RGBA (512, 512, 4)."""

    def get(place: str, **look: object) -> npt.NDArray[np.uint8]:
        answer = client.get(f"/tile/{place}", **look)
        assert answer.status == 200, answer.content
        with Pillow.open(io.BytesIO(answer.content)) as picture:
            assert picture.size == (512, 512)
            return np.asarray(picture.convert("RGBA"))

    return get
