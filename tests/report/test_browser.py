"""The page in a real browser: quiet, narrow enough for a phone, and sorted by a click. Skipped without Chromium."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from segcore.config import ReportConfig
from segcore.publish import report
from segcore.store import Workspace
from tests.chromium import Page, chromium
from tests.synthetic import put_image, put_label

LONG = "a-scan-of-which-the-name-does-not-end-before-the-screen-does-0123abcd"
LOADED = "document.readyState === 'complete' && location.protocol === 'file:'"
PHONE = 390
CLICK = """(name) => {
  const table = document.querySelector("table[data-sort]");
  if (name) [...table.querySelectorAll("th button")].find((it) => it.textContent === name).click();
  return [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
}"""
SORTED_BY = "[...document.querySelectorAll('table[data-sort] th[aria-sort]')].map((it) => it.ariaSort)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def folder(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """report.html and compare.html of three images with shares 0.9, 0.1 and 0.5, and one without a target."""
    ws = Workspace.open(str(tmp_path_factory.mktemp("work") / "ws"), create=True)
    for image_id, share in {"x": 0.9, LONG: 0.1, "b": 0.5, "none": 0.7}.items():
        put_image(ws, image_id, np.random.default_rng(0).integers(0, 255, (3, 100, 80), dtype=np.uint8))
        ids = np.zeros((100, 80), np.uint8)
        ids[10:60, 10:60] = 1
        if image_id != "none":
            put_label(ws, image_id, "target", ids)
        put_label(ws, image_id, "other", ids)
        ids[:, 10 + round(50 * share) :] = 0
        put_label(ws, image_id, "m", ids)
    for more in ({"model": "other"}, {"model": "m", "against": "other"}, {"compare": ("m", "other")}):
        report(ReportConfig(workspace=ws.uri, run="r", **more))
    return Path(ws.uri) / "reports/r"


@pytest.mark.parametrize("name", ["report.html", "compare.html"])
def test_pages_are_quiet_and_fit_a_phone(page: Page, folder: Path, name: str) -> None:
    page.show(width=PHONE)
    page.open((folder / name).as_uri(), LOADED)
    assert page.value("[document.documentElement.scrollWidth, innerWidth]") == [PHONE, PHONE]
    assert page.complaints == []


@pytest.mark.parametrize("name", ["report.html", "compare.html"])
def test_captions_fit_a_phone_though_their_tables_do_not(page: Page, folder: Path, name: str) -> None:
    page.show(width=PHONE)
    page.open((folder / name).as_uri(), LOADED)
    ends = page.value("[...document.querySelectorAll('caption')].map((it) => it.getBoundingClientRect().right)")
    assert len(ends) > 1
    assert max(ends) <= PHONE
    page.value("document.querySelectorAll('.scroll').forEach((it) => it.scrollLeft = 9999)")
    starts = page.value("[...document.querySelectorAll('caption')].map((it) => it.getBoundingClientRect().left)")
    assert min(starts) >= 0


def test_a_name_without_a_break_fits_a_phone(page: Page, folder: Path) -> None:
    """The names of real images are digests of 64 digits, and one stands over the plan of its mask."""
    page.show(width=PHONE)
    page.open((folder / "report.html").as_uri(), LOADED)
    found = page.value(
        "[...document.querySelectorAll('h3, summary')].map((it) => it.textContent = '0'.repeat(99)).length"
    )
    assert found > 2
    assert page.value("document.documentElement.scrollWidth") == PHONE


def test_a_click_on_a_heading_sorts(page: Page, folder: Path) -> None:
    page.show(width=PHONE)
    page.open((folder / "report.html").as_uri(), LOADED)
    headings = ["", "IoU without background", "IoU without background", "foreground: size", "image"]
    found = [page.value(f"({CLICK})({name!r})") for name in headings]
    worst = [LONG, "b", "x", "none"]
    assert found == [worst, worst, ["x", "b", LONG, "none"], [LONG, "b", "none", "x"], [LONG, "b", "none", "x"]]
    assert page.value(SORTED_BY) == ["ascending"]
    assert page.complaints == []


def test_the_dark_page_is_dark(page: Page, folder: Path) -> None:
    papers = {}
    for scheme in ("light", "dark"):
        page.show(scheme=scheme)
        page.open((folder / "report.html").as_uri(), LOADED)
        papers[scheme] = page.pixels()[10, 10].max()
    assert papers["light"] == 255
    assert papers["dark"] < 64


def test_what_the_console_says_is_heard(page: Page, folder: Path) -> None:
    """That the pages are quiet is worth something only if a noise would be heard."""
    page.open((folder / "report.html").as_uri(), LOADED)
    page.value("console.error('a noise')")
    assert len(page.complaints) == 1
