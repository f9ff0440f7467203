"""Chromium without a window, led by its DevTools protocol: a page, its keys and mouse, what it complains of."""

import base64
import io
import itertools
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as Pillow
from websockets.sync.client import ClientConnection, connect

OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-port=0"
)
WAIT_S = 60.0


class Page:
    """One tab, at first of 1200 x 800 px."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        """Of the page's scripts, its policy and its requests, since it was opened."""
        for domain in ("Page", "Runtime", "Log"):
            self.do(f"{domain}.enable")
        self.show()

    def do(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=WAIT_S))
            if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                self.complaints.append(json.dumps(message["params"]))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def show(self, width: int = 1200, height: int = 800, scheme: str = "light") -> None:
        """On a screen of this size in px, to someone who prefers this color scheme."""
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url: str, ready: str = "document.body?.dataset.state === 'ready'") -> None:
        """Load a page, and wait until it is as this expression says: all tiles of a view, for example, are there."""
        self.do("Page.navigate", url="about:blank")
        self.complaints.clear()
        self.do("Page.navigate", url=url)
        self.wait(ready)

    def value(self, script: str) -> Any:
        """What an expression is in the page."""
        answer = self.do("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"].get("value")

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + WAIT_S
        while not self.value(script):
            assert time.monotonic() < end, (script, self.complaints, self.value("document.body.innerText"))
            time.sleep(0.1)

    def press(self, key: str) -> None:
        self.do("Input.dispatchKeyEvent", type="keyDown", key=key)
        self.do("Input.dispatchKeyEvent", type="keyUp", key=key)

    def point(self, x: int, y: int) -> None:
        self.do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def pixels(self) -> npt.NDArray[np.int64]:
        """What is seen: (height, width, 3), or (800, 1200, 3) as a page begins."""
        png = base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"])
        with Pillow.open(io.BytesIO(png)) as picture:
            return np.asarray(picture.convert("RGB")).astype(np.int64)


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A page of a browser of its own.

    Skips the test where there is none.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium")
    command = [found, *OPTIONS.split(), f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            port = next(
                at[1] for line in process.stderr if (at := re.search(r"listening on ws://127.0.0.1:(\d+)/", line))
            )
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                tabs = json.loads(answer.read())
            address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            with connect(address, max_size=None) as socket:
                yield Page(socket)
        finally:
            process.kill()
