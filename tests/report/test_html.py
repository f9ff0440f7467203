"""The page: escaped, self-contained, and importable without torch or zarr."""

import subprocess
import sys
from html.parser import HTMLParser

import pytest

from segcore.classes import default_classes
from segcore.report import Chip, Fact, Failure, ImageRow, Panel, PictureRow, ReportContent, render
from segcore.report.html import distance, number, percent, points, span

EVIL = '<script>alert("x")</script>'


class _Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _content() -> ReportContent:
    panel = Panel(EVIL, "data:image/png;base64,AAAA", f"alt {EVIL}")
    return ReportContent(
        title=EVIL,
        subtitle=EVIL,
        created="2026-11-21",
        chips=(Chip(EVIL, "2", "bad"),),
        classes=tuple(info.model_copy(update={"name": f"{info.name} {EVIL}"}) for info in default_classes(2)),
        failures=(Failure(f"/in/{EVIL}.tif", f"broken {EVIL}"),),
        images=(ImageRow(EVIL, EVIL, "failed", EVIL, {}, {}, {}),),
        num_images_left_out=7,
        overlays=(PictureRow(EVIL, EVIL, (panel,)),),
        num_overlays_left_out=3,
        worst=(PictureRow(EVIL, EVIL, (panel, panel)),),
        curves=panel,
        provenance={EVIL: (Fact(EVIL, EVIL),)},
    )


def test_names_from_outside_are_escaped() -> None:
    html = render(_content())
    page = _Page(html)
    assert page.all("script") == []
    assert EVIL not in html
    assert page.text.count(EVIL) >= 12
    assert "The 1 worst of 4 images." in page.text
    assert "The 1 worst of 8;" in page.text


def test_page_loads_nothing_and_forbids_it() -> None:
    page = _Page(render(_content()))
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert page.all("link") == []
    assert all(str(image["src"]).startswith("data:image/") for image in page.all("img"))
    assert all(str(link["href"]).startswith("#") for link in page.all("a"))


def test_page_is_accessible() -> None:
    page = _Page(render(_content()))
    assert all(image["alt"] for image in page.all("img"))
    assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(link["href"])[1:] for link in page.all("a")} <= set(ids)


def test_empty_page_renders() -> None:
    page = _Page(render(ReportContent(title="t", subtitle="s", created="c", chips=(), classes=())))
    assert "Provenance" in page.text
    assert page.all("section") == [{"aria-labelledby": "provenance"}]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234567, "1\u202f234\u202f567"), (0.01234, "0.0123"), (12.345, "12.3"), (2500.4, "2\u202f500")],
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert number(value) == text
    assert percent(None) == "–"
    assert percent(0.8125) == "81.2 %"


def test_distances_and_intervals_for_people() -> None:
    assert distance(1.41421, "um") == "1.41 µm"
    assert distance(0.0, "px", 64.0) == "0 px"
    assert distance(32.0, "m", 32.0) == "≥ 32 m"
    assert distance(32.0, "m", None) == "32 m"
    assert distance(None, "um", 32.0) == "–"
    assert span([0.8123, 0.85]) == "81.2 – 85.0"
    assert span(None) == ""
    assert [points(value) for value in (0.0125, -0.2, None)] == ["+1.2", "-20.0", "–"]


@pytest.mark.parametrize("module", ["segcore.report", "segcore.scoring.counts", "segcore.report.rows"])
def test_import_loads_neither_torch_nor_zarr(module: str) -> None:
    code = f"import {module}, sys; print([m for m in ('torch', 'zarr', 'monai', 'tensorstore') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
