"""The pages in Chromium: they draw what the store holds, and complain of nothing."""

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image as Pillow

from segcore.classes import ClassInfo
from segcore.spatial import Spacing
from segcore.store import Workspace
from tests.synthetic import put_image, put_label
from tests.view.conftest import chromium
from tests.view.test_serve import serving

EVIL = "<img src=x onerror=document.title='evil'>"
OPTIONS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking",
           "--disable-component-update --disable-sync --hide-scrollbars --force-device-scale-factor=1",
           "--window-size=1200,800 --enable-logging=stderr --virtual-time-budget=20000")  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of an image whose left half is one class with an evil name, and of one with a damaged shard."""
    chromium()
    folder = tmp_path_factory.mktemp("browser") / "w"
    workspace = Workspace.open(str(folder), create=True)
    classes = (ClassInfo(id=0, name="background", color=(0, 0, 0)), ClassInfo(id=1, name=EVIL, color=(255, 0, 255)))
    left = np.zeros((1100, 1400), np.uint8)
    left[:, :700] = 1
    spacing = Spacing(values={"y": 0.5, "x": 0.5}, unit="micrometer", origin="file")
    put_image(workspace, "plain-1", np.full((3, 1100, 1400), 170, np.uint8), spacing=spacing, group=EVIL)
    put_label(workspace, "plain-1", "target", left, classes)
    put_image(workspace, "torn-2", np.random.default_rng(0).integers(0, 256, (3, 300, 300)).astype(np.uint8))
    shard = folder / "images/torn-2.ome.zarr/0/c/0/0/0"
    shard.write_bytes(bytes(1000) + shard.read_bytes()[1000:])
    with serving(str(folder)) as (_, address):
        yield address


def seen(url: str, path: str, tmp_path: Path, *more: str) -> tuple[bytes, list[str]]:
    """What Chromium prints on stdout, and what the page complained of."""
    place, _, token = url.partition("?")
    page, _, fragment = path.partition("#")
    address = f"{place}{page.lstrip('/')}?{token}#{fragment}"
    command = [chromium(), *" ".join(OPTIONS).split(), f"--user-data-dir={tmp_path / 'profile'}", *more, address]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]


def test_the_list_shows_names_as_text(url: str, tmp_path: Path) -> None:
    page, complaints = seen(url, "/", tmp_path, "--dump-dom")
    assert complaints == []
    assert b'data-state="ready"' in page
    assert b"plain-1" in page
    assert b"torn-2" in page
    assert b"&lt;img src=x onerror" in page
    assert b"<img src=x" not in page
    assert b"<title>segcore view</title>" in page


def test_an_image_is_drawn_under_its_mask(url: str, tmp_path: Path) -> None:
    """Half of it in the class's colour, half in the image's grey, at full resolution and with its edge where it is."""
    shot = tmp_path / "shot.png"
    look = f"x=700&y=550&r=1&{quote('labels/target', safe='')}=on~1~area"
    _, complaints = seen(url, f"/image/plain-1#{look}", tmp_path, f"--screenshot={shot}")
    assert complaints == []
    with Pillow.open(io.BytesIO(shot.read_bytes())) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    row = pixels[400, 100:850]  # the map's, without buttons and scale
    is_class = np.abs(row - (255, 0, 255)).max(axis=1) <= 2
    is_image = np.abs(row - (170, 170, 170)).max(axis=1) <= 3
    assert (is_class | is_image).mean() > 0.99
    edge = int(is_class.argmin())
    assert is_class[:edge].all()
    assert abs(100 + edge - (1200 - 304) / 2) <= 1, "the middle of the map is x = 700"


def test_a_tile_that_cannot_be_read_is_told(url: str, tmp_path: Path) -> None:
    page, complaints = seen(url, "/image/torn-2", tmp_path, "--dump-dom")
    assert b"cannot be decoded" in page
    assert all("500" in line for line in complaints), "the browser's own word for the refused tile"
    page, _ = seen(url, "/image/none", tmp_path, "--dump-dom")
    assert b"no image none in" in page
