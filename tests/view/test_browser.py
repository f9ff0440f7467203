"""The pages in Chromium: they draw what the store holds, do as they are told, and complain of nothing."""

from collections.abc import Iterator
from urllib.parse import quote

import numpy as np
import pytest

from segcore.classes import ClassInfo
from segcore.spatial import Spacing
from segcore.store import Workspace
from tests.chromium import Page, chromium
from tests.synthetic import put_image, put_label
from tests.view.test_serve import serving

EVIL = "<img src=x onerror=document.title='evil'>"
PINK, GREY = (255, 0, 255), (170, 170, 170)
ON_AT_FULL = f"x=700&y=550&r=1&{quote('labels/target', safe='')}=on_1_area"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def url(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of an image whose left half is one class with an evil name, of one with a damaged shard, and of a volume."""
    folder = tmp_path_factory.mktemp("browser") / "w"
    workspace = Workspace.open(str(folder), create=True)
    classes = (ClassInfo(id=0, name="background", color=(0, 0, 0)), ClassInfo(id=1, name=EVIL, color=PINK))
    left = np.zeros((1100, 1400), np.uint8)
    left[:, :700] = 1
    spacing = Spacing(values={"y": 0.5, "x": 0.5}, unit="micrometer", origin="file")
    put_image(workspace, "plain-1", np.full((3, 1100, 1400), 170, np.uint8), spacing=spacing, group=EVIL)
    put_label(workspace, "plain-1", "target", left, classes)
    put_image(workspace, "torn-2", np.random.default_rng(0).integers(0, 256, (3, 600, 600)).astype(np.uint8))
    shard = folder / "images/torn-2.ome.zarr/0/c/0/0/0"
    shard.write_bytes(bytes(1000) + shard.read_bytes()[1000:])
    planes = np.repeat(np.array([170, 190, 210], np.uint8), 64 * 64).reshape(1, 3, 64, 64)
    put_image(workspace, "volume-3", planes, axes=("c", "z", "y", "x"))
    with serving(str(folder)) as (_, address):
        page.open(address)  # from now on it has the cookie
        yield address.partition("?")[0]


def colors(page: Page) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels of a row through the map, from x = 100 to 850, are the class's, and which the image's."""
    row = page.pixels()[400, 100:850]
    return np.abs(row - PINK).max(axis=1) <= 2, np.abs(row - GREY).max(axis=1) <= 3


def test_the_list_shows_names_as_text(page: Page, url: str) -> None:
    page.open(url)
    assert page.value("document.querySelectorAll('#cards li').length") == 3
    assert EVIL in page.value("document.body.innerText")
    page.wait("[...document.images].every((picture) => picture.complete && picture.naturalWidth > 0)")
    assert page.value("document.title") == "segcore view"
    assert page.complaints == []


def test_the_list_is_searched(page: Page, url: str) -> None:
    page.open(f"{url}?text=torn")
    assert page.value("document.getElementById('cards').innerText").startswith("torn-2")
    assert page.value("document.getElementById('found').innerText") == "1 of 3 images"


def test_an_image_is_drawn_under_its_mask(page: Page, url: str) -> None:
    """Half of it in the class's colour, half in the image's grey, at full resolution and with its edge where it is."""
    page.open(f"{url}image/plain-1#{ON_AT_FULL}")
    is_class, is_image = colors(page)
    assert (is_class | is_image).mean() > 0.99
    edge = int(is_class.argmin())
    assert is_class[:edge].all()
    assert abs(100 + edge - (1200 - 304) / 2) <= 1, "the middle of the map is x = 700"
    assert page.value("document.querySelector('.legend').innerText").split("\n")[:2] == ["background", EVIL]
    assert page.value("document.getElementById('scale').innerText") == "50 µm"
    assert page.value("document.getElementById('scale').getBoundingClientRect().width") == pytest.approx(100, abs=1)
    assert page.complaints == []


def test_what_is_under_the_cursor_is_told(page: Page, url: str) -> None:
    page.open(f"{url}image/plain-1#{ON_AT_FULL}")
    page.point(400, 400)
    page.wait("document.getElementById('cursor').innerText.includes('target')")
    told = page.value("document.getElementById('cursor').innerText")
    (x,) = [int(word.removesuffix(",")) for word in told.split() if word.endswith(",") and word[:-1].isdigit()][:1]
    assert abs(x - (700 + 400 - (1200 - 304) / 2)) <= 1
    assert "band 0 170 band 1 170 band 2 170" in told
    assert f"target: {EVIL} (1)" in told
    assert page.complaints == []


def test_keys_do_what_the_panel_says(page: Page, url: str) -> None:
    page.open(f"{url}image/plain-1#{ON_AT_FULL}")
    page.press("h")
    page.wait("!location.hash.includes('target=on')")
    is_class, is_image = colors(page)
    assert not is_class.any()
    assert is_image.mean() > 0.99
    page.press("1")
    page.press("o")
    page.wait("location.hash.includes('_line')")
    page.press("0")
    page.wait("!location.hash.includes('r=1&') && !location.hash.endsWith('r=1')")
    page.press("n")
    page.wait("location.pathname === '/image/torn-2'")


def test_slices_are_leafed_through(page: Page, url: str) -> None:
    page.open(f"{url}image/volume-3#z=0&low=0&high=255")
    for value in (170, 190, 210):
        page.wait("document.body.dataset.state === 'ready'")
        assert np.abs(page.pixels()[400, 400] - value).max() <= 2
        page.value("document.body.dataset.state = ''")
        page.press("]")
    assert page.value("document.querySelector('.plane output').value") == "3 of 3"


def test_a_tile_that_cannot_be_read_is_told(page: Page, url: str) -> None:
    page.open(f"{url}image/torn-2")
    page.wait("!document.getElementById('trouble').hidden")
    assert "cannot be decoded" in page.value("document.getElementById('trouble').innerText")
    assert all("500" in complaint for complaint in page.complaints), "the browser's own word for the refused tile"
    page.open(f"{url}image/none")
    assert "no image none in" in page.value("document.getElementById('trouble').innerText")
