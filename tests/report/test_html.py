"""The page: escaped, self-contained, and importable without torch or zarr."""

import base64
import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from segcore.classes import ClassInfo, default_classes
from segcore.report import (
    Chip,
    ComparedImage,
    ComparisonContent,
    Fact,
    Failure,
    ImageRow,
    Panel,
    PictureRow,
    ReportContent,
    render,
    render_comparison,
)
from segcore.report.html import COMPARED_LABELS, day, distance, number, percent, points, span
from segcore.results import StageTold

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


def _moved(value: float, other: float) -> dict[str, Any]:
    return {"value": value, "other": other, "difference": value - other, "interval": [value - other, value - other]}


COMPARED: dict[str, Any] = {
    "mask": EVIL,
    "num_images": 2,
    "num_units": 2,
    "unit": "images",
    "resamples": 10,
    "overall": {name: _moved(0.75, 0.5) for name in COMPARED_LABELS},
    "per_class": {EVIL: {"iou": _moved(0.25, 0.5)}},
}
SINCE = {**COMPARED, "run": EVIL, "created": "2026-11-20T06:07:08+00:00", "num_left_out": 1, "per_split": {}}


def _content() -> ReportContent:
    panel = Panel(EVIL, "data:image/png;base64,AAAA", f"alt {EVIL}")
    return ReportContent(
        title=EVIL,
        subtitle=EVIL,
        created="2026-11-21",
        chips=(Chip(EVIL, "2", "bad"),),
        classes=tuple(info.model_copy(update={"name": f"{info.name} {EVIL}"}) for info in default_classes(2)),
        failures=(Failure(f"/in/{EVIL}.tif", f"broken {EVIL}"),),
        num_failures_left_out=4,
        since=SINCE,
        stages=(StageTold(stage=EVIL, done=3, skipped=2, failed=1, seconds=12.34, peak_mib=900),),
        pace=(Fact(EVIL, EVIL),),
        images=(ImageRow(EVIL, EVIL, "failed", EVIL, {}, {}, {}, change=0.25, skipped=0.5),),
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
    assert len(page.all("script")) == 1
    assert EVIL not in html
    assert page.text.count(EVIL) >= 18
    assert "The 1 worst of 4 images." in page.text
    assert "The 1 worst of 8;" in page.text
    assert "5 failed" in page.text
    assert "And 4 more" in page.text


@pytest.mark.parametrize("name", ["*a* | b `c`", "=1+1", "[x](http://y)", "</td><td>", "{{ 7 * 7 }}", "&amp;"])
def test_names_of_any_kind_are_shown_as_they_are(name: str) -> None:
    page = _Page(render(replace(_content(), title=name, failures=(Failure(name, name),))))
    assert page.text.count(name) == 4
    assert "49" not in page.text


def test_page_loads_nothing_and_forbids_it() -> None:
    html = render(_content())
    page = _Page(html)
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    only = f"script-src 'sha256-{digest}'"
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; {only}"
    assert page.all("link") == []
    assert all(str(image["src"]).startswith("data:image/") for image in page.all("img"))
    assert all(str(link["href"]).startswith("#") for link in page.all("a"))


def test_change_since_the_last_report_is_told() -> None:
    page = _Page(render(_content()))
    assert "the 2 images that both have, without 1 whose pixels or target have changed" in page.text
    assert "+25.0 to +25.0" in page.text
    assert "in points of a hundred, on the 2 images that both have." in page.text
    assert [cell for cell in page.all("td") if cell.get("class") == "num good"] == []
    assert "of fewer than 6 images, even an interval without 0 may come from their choice" in page.text
    many = _Page(render(replace(_content(), classes=default_classes(2), since={**SINCE, "num_units": 6})))
    assert len([cell for cell in many.all("td") if cell.get("class") == "num good"]) == len(COMPARED_LABELS)
    assert "does not come from the choice of images" in many.text
    part = replace(
        _content(), since={**SINCE, "per_split": {"val": {**COMPARED, "num_images": 1}}}, headline_split="val"
    )
    assert "in points of a hundred, on the 1 image that both have." in _Page(render(part)).text
    same = {name: _moved(0.5, 0.5) for name in COMPARED_LABELS}
    unchanged = _Page(render(replace(_content(), since={**SINCE, "overall": same, "per_class": {}})))
    assert "Nothing has changed." in unchanged.text
    assert "+25.0 to +25.0" not in unchanged.text
    of_a_class = _Page(render(replace(_content(), since={**SINCE, "overall": same})))
    assert "Nothing has changed." not in of_a_class.text


def test_comparison_is_escaped_and_says_which_minus_which() -> None:
    panel = Panel(EVIL, "data:image/png;base64,AAAA", EVIL)
    image = ComparedImage(EVIL, EVIL, COMPARED["overall"], {EVIL: _moved(0.25, 0.5)})
    content = ComparisonContent(
        title=EVIL,
        created="2026-11-21",
        sides=((f"one {EVIL}", EVIL), ("two", EVIL)),
        chips=(Chip(EVIL, "2"),),
        classes=(ClassInfo(id=1, name=EVIL, color=(1, 2, 3)),),
        failures=(Failure(EVIL, EVIL),),
        compared=COMPARED,
        images=(image,),
        num_images_left_out=3,
        detailed=(ClassInfo(id=1, name=EVIL, color=(1, 2, 3)),),
        pictures=(PictureRow(EVIL, EVIL, (panel,) * 4),),
        num_pictures_left_out=8,
        notes=(EVIL,),
        provenance={EVIL: (Fact(EVIL, EVIL),)},
    )
    html = render_comparison(content)
    page = _Page(html)
    assert EVIL not in html
    assert f"one {EVIL} minus two, in points of a hundred, on the 2 images" in page.text
    assert "The 1 of 4 that changed most" in page.text
    assert "1 of 9 images." in page.text
    assert all(image["alt"] for image in page.all("img"))


def test_the_table_of_images_has_no_empty_columns() -> None:
    area = {"background": ("1 px", 1.0), "foreground": ("2 px", 2.0)}
    bare = ImageRow("a", "", "skipped", "", {}, {}, area)
    iou = {"miou": 0.5, "foreground_iou": 0.5, "pixel_accuracy": None}
    scored = replace(bare, split="val", note="said", overall=iou, class_iou={"foreground": 0.5})
    classes = default_classes(2)

    def heads(rows: tuple[ImageRow, ...], classes: tuple[ClassInfo, ...]) -> list[str]:
        html = render(replace(_content(), images=rows, classes=classes, detailed=classes[-1:]))
        head = html[html.index("data-sort>") :].split("<tbody>")[0]
        return re.findall(r">([^<]+)</th>", head)

    assert heads((bare,), classes) == ["image", "foreground: size"]
    some = ["image", "split", "IoU without background", "mean IoU", "foreground: IoU", "foreground: size", "note"]
    assert heads((bare, scored), classes) == some
    some.remove("IoU without background")
    assert heads((bare, scored), classes[1:]) == some


def test_scores_without_background_are_shown_where_there_is_one() -> None:
    classes = default_classes(2)
    assert "IoU without background" in render(replace(_content(), classes=classes))
    assert "without background" not in render(replace(_content(), classes=classes[1:]))


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
    assert [points(value) for value in (0.0125, -0.2, None, -1e-6)] == ["+1.2", "-20.0", "–", "±0.0"]
    assert day("2026-11-20T06:07:08+00:00") == "2026-11-20 06:07 UTC"


@pytest.mark.parametrize("module", ["segcore.report", "segcore.scoring.counts", "segcore.report.rows"])
def test_import_loads_neither_torch_nor_zarr(module: str) -> None:
    code = f"import {module}, sys; print([m for m in ('torch', 'zarr', 'monai', 'tensorstore') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
