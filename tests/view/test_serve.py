"""Serve: the command from its first address to Ctrl-C, and what it refuses."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path

import numpy as np
import pytest

from segcore.config import ViewConfig, build_config
from segcore.errors import ConfigError, StoreError
from segcore.progress import Silent
from segcore.store import Workspace
from segcore.view import serve, view
from segcore.view.serve import bound, first_address
from tests.synthetic import put_image


@contextmanager
def serving(uri: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and its first address."""
    command = [sys.executable, "-m", "flows", "view", "--workspace", uri, "--no-browser", "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()
        told = json.loads(line)
        assert {"stage", "state", "url", "paths", "seconds", "peak_mib"} == set(told)
        yield process, told["url"]
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def test_from_the_first_address_to_ctrl_c(workspace: Workspace) -> None:
    put_image(workspace, "i0", np.zeros((3, 20, 20), np.uint8))
    with serving(workspace.uri, "--image", "i0") as (process, url):
        assert url.startswith("http://127.0.0.1:")
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        place, _, token = url.partition("?")
        assert place.endswith("/image/i0")
        with browser.open(url) as page:
            assert page.status == 200
            assert "token" not in page.url, "it does not stay in the address"
        with browser.open(place.replace("/image/", "/api/images/")) as answer:
            assert json.loads(answer.read())["id"] == "i0"
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(place)
        refused.value.close()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", ""), token


def test_what_cannot_be_served_is_one_line(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no image none in"):
        view(build_config(ViewConfig, {"workspace": workspace.uri, "image": "none"}), print)
    with pytest.raises(StoreError, match="no such folder"):
        view(build_config(ViewConfig, {"workspace": str(tmp_path / "none")}), print)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: cannot listen there"):
            bound("127.0.0.1", port)
    with pytest.raises(ConfigError, match="port"):
        build_config(ViewConfig, {"workspace": "w", "port": 70000})


def test_the_first_address_names_the_machine_where_it_listens_everywhere() -> None:
    config = build_config(ViewConfig, {"workspace": "w", "host": "0.0.0.0"})
    assert first_address(config, 8000, "abc") == f"http://{socket.gethostname()}:8000/?token=abc"
    six = build_config(ViewConfig, {"workspace": "w", "host": "::1", "image": "a/b"})
    assert first_address(six, 8000, "abc") == "http://[::1]:8000/image/a%2Fb?token=abc"


def test_whoever_lets_others_in_is_warned(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []

    class Listener(Silent):
        def note(self, message: str) -> None:
            notes.append(message)

    monkeypatch.setattr(serve, "run", lambda app, listening: None)
    told: list[str] = []
    for host in ("127.0.0.1", "0.0.0.0"):
        config = build_config(ViewConfig, {"workspace": workspace.uri, "host": host, "browser": False})
        view(config, told.append, Listener())
    assert len(told) == 2
    assert notes == ["view: other machines can reach it, unencrypted: whoever reads the token sees the workspace"]


def test_the_browser_is_opened_where_there_is_a_screen(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    told: list[str] = []
    monkeypatch.setattr(serve, "run", lambda app, listening: None)
    monkeypatch.setattr(serve.webbrowser, "open", opened.append)
    monkeypatch.setattr(serve.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    view(build_config(ViewConfig, {"workspace": workspace.uri}), told.append)
    assert opened == []
    monkeypatch.setitem(os.environ, "DISPLAY", ":0")
    view(build_config(ViewConfig, {"workspace": workspace.uri}), told.append)
    assert opened == told[1:]
    view(build_config(ViewConfig, {"workspace": workspace.uri, "browser": False}), told.append)
    assert len(opened) == 1
