"""A report of a small workspace, from the store to the page."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest

from segcore.classes import default_classes
from segcore.config import MeasureConfig, ReportConfig
from segcore.errors import StoreError
from segcore.measurements import measure
from segcore.pace import Pace, keep_pace
from segcore.publish import pictured, report, stage
from segcore.report import html as words
from segcore.report import pictures
from segcore.report.schema import report_schema
from segcore.results import ItemResult, StageTold
from segcore.scoring.score import Scored
from segcore.spatial import Spacing
from segcore.store import PyramidSpec, Staging, Workspace
from tests.scoring.test_table import made_score
from tests.synthetic import put_image, put_label, put_objects

SIDES = (600, 570)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    rng = np.random.default_rng(0)
    for number, image_id in enumerate(("a", "b", "c", "d")):
        put_image(ws, image_id, rng.integers(0, 255, (3, *SIDES), dtype=np.uint8), split="val" if number < 3 else None)
        target = np.zeros(SIDES, np.uint8)
        target[100:500, 100:500] = 1
        mask = target.copy()
        mask[:, : 100 * (number + 1)] = 0
        if image_id != "d":
            put_label(ws, image_id, "target", target)
        put_label(ws, image_id, "m", mask)
    return ws


def test_report_scores_and_shows(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictured, "MAX_OVERLAYS", 2)
    workspace.objects.put("runs/r/curve.csv", b"step,loss,lr,miou\n0,2,0.1,\n10,1,0.1,0.5\n")
    workspace.objects.put("models/m/model.json", b'{"name": "m", "training": {"run": "r"}, "seed": 4}')
    failures = (("/in/broken.svs", "cannot be opened"),) * 2
    result = report(ReportConfig(workspace=workspace.uri, model="m", run="night", failures=failures))
    html, data, table = (Path(path) for path in result.paths)
    assert html == Path(workspace.uri, "reports/night/report.html")
    page = html.read_text(encoding="utf-8")
    assert page.count("<img ") == 2 * 4 + 2 * 4 + 2  # overlays, a worst tile of b and of c, confusion, curves
    assert "The 2 worst of 4 images." in page
    assert "/in/broken.svs" in page
    assert "Training of run r" in page
    document = json.loads(data.read_text(encoding="utf-8"))
    assert document["scores"] == result.scores
    assert document["failures"] == [{"source": "/in/broken.svs", "error": "cannot be opened"}]
    assert document["provenance"]["Model"]["training.run"] == "r"
    # a, b and c: 400 x 400 px of target, of which 0, 100 and 200 columns are missing
    iou = (400 + 300 + 200) / 1200
    assert document["scores"]["overall"]["foreground_iou"] == pytest.approx(iou)
    assert f"{100 * iou:.1f} %" in page
    assert [item.state for item in result.items] == ["done", "done", "done", "skipped"]
    jsonschema.validate(document, report_schema())
    rows = pq.read_table(table).to_pylist()
    assert [(row["image"], row["state"]) for row in rows] == [
        ("a", "done"),
        ("b", "done"),
        ("c", "done"),
        ("d", "skipped"),
    ]
    assert rows[2]["foreground_iou"] == pytest.approx(200 / 400)


def test_report_shows_boundaries_objects_intervals_and_the_other_mask(workspace: Workspace) -> None:
    for image_id in ("a", "b"):
        target = np.zeros(SIDES, np.uint32)
        target[100:500, 100:500] = 1
        put_objects(workspace, image_id, "target_instances", target)
        put_objects(workspace, image_id, "m_instances", np.roll(target, 50, 1))
        put_label(workspace, image_id, "other", np.zeros(SIDES, np.uint8))
    result = report(ReportConfig(workspace=workspace.uri, model="m", images=("a", "b"), against="other"))
    page = Path(result.paths[0]).read_text(encoding="utf-8")
    # a is right; of b 100 columns are missing: the target's side of 400 px is 100 px off, and counts as 64.
    assert result.scores is not None
    row = result.scores["per_class"]["foreground"]["boundary"]
    assert (row["hd95"], row["num_images"]) == (32.0, 2)
    assert "32 px" in page
    assert "right within 2 px; distances up to 64 px are measured" in page
    assert "2 images were drawn again 1\u202f000 times" in page
    assert "<caption>Objects" in page
    pq = 350 / 450
    assert result.scores["instances"]["pq"] == pytest.approx(pq)
    assert f"{100 * pq:.1f} %" in page
    assert "<caption>Against other, on the 2 images that both have" in page
    points = 100 * result.scores["overall"]["foreground_iou"]
    assert f"{points:+.1f}" in page


def test_report_tells_of_objects_that_were_measured_of_these_masks(workspace: Workspace) -> None:
    measure(MeasureConfig(workspace=workspace.uri, model="m", images=("a", "b")))
    told = _told(workspace)
    assert told["objects"]["classes"]["foreground"]["objects"] == 2
    assert told["objects"]["images"]["b"]["foreground"]["area_px"] == 300 * 400
    assert '<a href="#objects">' in told["page"]
    assert ", of 2 of 4 images" in told["page"]
    assert f'<td class="num">{words.number(400 * 400 + 300 * 400)} px</td>' in told["page"]
    put_label(workspace, "b", "m", np.ones(SIDES, np.uint8), version=1)  # what was measured is of an earlier mask
    assert list(_told(workspace)["objects"]["images"]) == ["a"]


def test_report_tells_that_there_are_no_objects_where_there_are_none(workspace: Workspace) -> None:
    put_label(workspace, "b", "m", np.zeros(SIDES, np.uint8), version=1)
    measure(MeasureConfig(workspace=workspace.uri, model="m", images=("b",)))
    told = _told(workspace)
    assert told["objects"]["classes"] == {"foreground": {"objects": 0, "area_px": 0}}
    assert '<td class="num">0 px</td><td class="num">–</td>' in told["page"]


def test_report_without_measurements_has_no_objects(workspace: Workspace) -> None:
    told = _told(workspace)
    assert told["objects"] is None
    assert 'id="objects"' not in told["page"]


def _told(workspace: Workspace) -> dict[str, Any]:
    """report.json, and the page."""
    html, data, _ = report(ReportConfig(workspace=workspace.uri, model="m")).paths
    document: dict[str, Any] = json.loads(Path(data).read_text(encoding="utf-8"))
    jsonschema.validate(document, report_schema())
    return {**document, "page": Path(html).read_text(encoding="utf-8")}


def test_report_of_images_of_several_pixel_sizes_shows_their_boundaries(tmp_path: Path) -> None:
    """One unit, but no common cap: a tolerance in px is another length in each."""
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    target = np.zeros((60, 60), np.uint8)
    target[10:50, 10:50] = 1
    for image_id, um in (("a", 0.5), ("b", 0.25)):
        spacing = Spacing(values={"y": um, "x": um}, unit="micrometer", origin="file")
        put_image(ws, image_id, np.ones((1, 60, 60), np.uint8), spacing=spacing)
        put_label(ws, image_id, "target", target)
        put_label(ws, image_id, "m", np.roll(target, 4, 1))
    result = report(ReportConfig(workspace=ws.uri, model="m"))
    page = Path(result.paths[0]).read_text(encoding="utf-8")
    assert result.scores is not None
    assert result.scores["per_class"]["foreground"]["boundary"]["hd95"] == pytest.approx(4 * (0.5 + 0.25) / 2)
    assert "1.50 µm" in page
    assert "≥" not in page


def test_report_without_any_target_shows_areas(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "only", np.full((4, 40, 30), 3, np.uint16))
    put_label(ws, "only", "m", np.ones((40, 30), np.uint8), default_classes(2))
    result = report(ReportConfig(workspace=ws.uri, model="m"))
    page = Path(result.paths[0]).read_text(encoding="utf-8")
    assert "1\u202f200 px" in page
    assert "no target" in page
    assert 'id="scores"' not in page
    assert "Errors are red" not in page
    assert "without a target" in page
    assert result.exit_code == 0


def test_picture_that_cannot_be_read_is_named_and_the_rest_shown(workspace: Workspace) -> None:
    report(ReportConfig(workspace=workspace.uri, model="m", run="before"))
    for key, _ in list(workspace.objects.list("images/c.ome.zarr/0")):
        if not key.endswith("zarr.json"):
            workspace.objects.put(key, b"damaged")
    for key, _ in list(workspace.objects.list("images/c.ome.zarr/1")):
        if not key.endswith("zarr.json"):
            workspace.objects.put(key, b"damaged")
    result = report(ReportConfig(workspace=workspace.uri, model="m", run="after"))
    document = json.loads(Path(result.paths[1]).read_text(encoding="utf-8"))
    assert {failure["source"] for failure in document["failures"]} == {"c"}
    assert [(item.image, item.state) for item in result.items if item.state == "failed"] == [("c", "failed")]
    assert result.exit_code == 3
    assert all("\n" not in failure["error"] for failure in document["failures"])
    assert result.details["num_overlays"] == 3


def test_report_of_a_named_mask_keeps_the_model_and_its_curves(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "only", np.ones((1, 40, 30), np.uint8))
    put_label(ws, "only", "foo", np.ones((40, 30), np.uint8), attributes={"model": {"id": "cells-01234567"}})
    ws.objects.put("models/cells-01234567/model.json", b'{"name": "cells", "training": {"run": "r7"}}')
    ws.objects.put("runs/r7/curve.csv", b"step,loss\n0,2\n10,1\n")
    result = report(ReportConfig(workspace=ws.uri, model="foo"))
    document = json.loads(Path(result.paths[1]).read_text(encoding="utf-8"))
    assert document["provenance"]["Model"] == {"id": "cells-01234567", "name": "cells", "training.run": "r7"}
    assert "Training of run r7" in Path(result.paths[0]).read_text(encoding="utf-8")


def test_provenance_names_a_model_that_lies_elsewhere_and_the_settings_of_the_scores(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "only", np.ones((1, 40, 30), np.uint8))
    put_label(ws, "only", "m", np.ones((40, 30), np.uint8), attributes={"model": {"id": "x-1", "digest": "abc"}})
    provenance = _told(ws)["provenance"]
    assert provenance["Model"] == {"id": "x-1", "digest": "abc"}
    scoring = provenance["Scoring"]
    assert (scoring["both_empty"], scoring["boundary.tolerance"], scoring["resamples"]) == ("undefined", "2px", "1000")


def test_names_of_sources_are_shown_where_the_id_tells_them_too(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {"a-scan-0123abcd": "/in/a scan.ome.tiff", "0123456789abcdef": "/in/hidden.tif", "mine": "/in/other.tif"}
    made = [replace(made_score(0), image_id=id_, source=uri, worst_tiles=()) for id_, uri in ids.items()]
    monkeypatch.setattr(stage, "score_masks", lambda *_: Scored("m", tuple(made), ()))
    monkeypatch.setattr(pictured, "MAX_OVERLAYS", 0)
    page = Path(report(ReportConfig(workspace=workspace.uri, model="a")).paths[0]).read_text(encoding="utf-8")
    assert "/in/" not in page
    assert re.findall(r'<span class="source">([^<]*)<', page) == ["a scan.ome.tiff"]


def test_picture_that_fails_as_nobody_foresaw_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("no\ncolours")

    monkeypatch.setattr(pictures, "overlay", broken)
    result = report(ReportConfig(workspace=workspace.uri, model="m", images=("a",)))
    document = json.loads(Path(result.paths[1]).read_text(encoding="utf-8"))
    assert document["failures"] == [{"source": "a", "error": "no picture of it: image a: ValueError: no colours"}]
    assert [item.state for item in result.items] == ["done", "failed"]


def test_report_of_failures_alone_when_there_is_no_mask(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "only", np.ones((1, 40, 30), np.uint8))
    with pytest.raises(StoreError, match="has the mask m"):
        report(ReportConfig(workspace=ws.uri, model="m"))
    result = report(ReportConfig(workspace=ws.uri, model="m", failures=(("/in/a.tif", "is empty"),)))
    document = json.loads(Path(result.paths[1]).read_text(encoding="utf-8"))
    assert [failure["source"] for failure in document["failures"]] == ["/in/a.tif", "mask m"]
    assert document["scores"]["overall"]["miou"] is None
    assert "2 failed" in Path(result.paths[0]).read_text(encoding="utf-8")


def test_names_of_files_that_are_not_utf8_are_told(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"/in/caf\xe9.tif")
    broken = ItemResult(state="failed", source=name, error=f"{name}: no mask")
    scored = replace(made_score(0), image_id="a", source=name, worst_tiles=())
    monkeypatch.setattr(stage, "score_masks", lambda *_: Scored("m", (scored,), (broken,)))
    monkeypatch.setattr(pictured, "MAX_OVERLAYS", 0)
    result = report(ReportConfig(workspace=workspace.uri, model="a", failures=((f"{name}.gz", "cannot be read"),)))
    page, data, table = (Path(path) for path in result.paths)
    assert page.read_text(encoding="utf-8").count("/in/caf\\udce9.tif") == 5  # at the top, and in the table of images
    told = json.loads(data.read_text(encoding="utf-8"))["failures"]
    assert [failure["source"] for failure in told] == [f"{name}.gz", name]
    assert [row["error"] for row in pq.read_table(table).to_pylist()] == [None, "/in/caf\\udce9.tif: no mask"]


def test_an_image_that_failed_before_is_named_once_with_the_first_reason(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    for image_id in ("done", "half"):
        put_image(ws, image_id, np.ones((1, 40, 30), np.uint8))
    put_label(ws, "done", "m", np.ones((40, 30), np.uint8))
    spec = PyramidSpec(axes=("y", "x"), shape=(40, 30), dtype="uint8", kind="mask", fill=255)
    Staging.begin(ws, "half", "m", {"v": 0}, spec).close()
    before = (("half", "image half: tile 3 has NaN"),)
    result = report(ReportConfig(workspace=ws.uri, model="m", failures=before))
    document = json.loads(Path(result.paths[1]).read_text(encoding="utf-8"))
    assert document["failures"] == [{"source": "half", "error": "image half: tile 3 has NaN"}]


def test_a_mask_that_is_lost_after_it_was_scored_does_not_cost_the_report(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.objects.put("models/m/model.json", b'{"name": "m"}')
    scored = stage.score_masks(workspace, stage.score_config(ReportConfig(workspace=workspace.uri, model="m")))
    monkeypatch.setattr(stage, "score_masks", lambda *_: scored)
    workspace.objects.put("images/a.ome.zarr/labels/m/zarr.json", b"{")
    result = report(ReportConfig(workspace=workspace.uri, model="m"))
    document = json.loads(Path(result.paths[1]).read_text(encoding="utf-8"))
    assert [failure["source"] for failure in document["failures"]] == ["a"]
    assert {"Model", "Plan of the first mask (b)"} <= set(document["provenance"])


def test_page_of_many_images_limits_itself_and_the_table_has_all(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [replace(made_score(number), image_id=f"i{number}", worst_tiles=()) for number in range(700)]
    images[0] = replace(images[0], image_id="a")
    broken = [ItemResult(state="failed", image=f"x{number}", error="no mask") for number in range(300)]
    done = [ItemResult(state="done", image=image.image_id) for image in images]
    found = Scored("m", tuple(images), (*done, *broken))
    monkeypatch.setattr(stage, "score_masks", lambda *_: found)
    monkeypatch.setattr(pictured, "MAX_OVERLAYS", 0)
    result = report(ReportConfig(workspace=workspace.uri, model="m", run="r", resamples=20))
    page, data, table = (Path(path) for path in result.paths)
    text = page.read_text(encoding="utf-8")
    assert text.count('<th scope="row" class="id">') == 500
    assert "The 500 worst of 1\u202f000" in text
    assert "300 failed" in text
    assert "And 100 more" in text
    assert page.stat().st_size < 1_500_000
    assert len(json.loads(data.read_text(encoding="utf-8"))["scores"]["per_image"]) == 700
    assert pq.read_metadata(table).num_rows == 1000


def test_pictures_stop_where_their_bytes_are_spent(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictured, "MAX_BYTES", 1)
    result = report(ReportConfig(workspace=workspace.uri, model="m"))
    page = Path(result.paths[0]).read_text(encoding="utf-8")
    assert page.count("<img ") == 4 + 1  # one worst tile, which spends them, and the confusion matrix
    assert result.details["num_overlays"] == 0


def test_what_ran_and_how_fast_is_told(workspace: Workspace) -> None:
    digest = workspace.label("a", "m").digest
    assert digest is not None
    pace = Pace(digest=digest, ended="2026-11-30", device="cpu", tiles=8, skipped_share=0.25, px=5_000_000, seconds=2.0)
    keep_pace(workspace, "a", "m", pace)
    told = StageTold(stage="ingest", done=4, skipped=0, failed=2, seconds=12.34, peak_mib=321.0)
    result = report(ReportConfig(workspace=workspace.uri, model="m", stages=(told,)))
    page, data, _ = (Path(path).read_bytes() for path in result.paths)
    text = page.decode()
    assert '<td class="num">12.3</td>' in text
    assert "2.50 Mpx/s, over 2 s of prediction" in text
    assert "1 of 4 masks" in text
    document = json.loads(data)
    assert (document["pace"]["mpx_per_s"], document["pace"]["skipped_share"]) == (2.5, 0.25)
    assert document["stages"] == [told.model_dump()]
    jsonschema.validate(document, report_schema())


def test_a_tile_of_a_volume_is_named_with_its_plane(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    volume = np.random.default_rng(0).integers(0, 255, (1, 4, 300, 280), dtype=np.uint8)
    target = np.zeros(volume.shape[1:], np.uint8)
    target[:, 20:200, 20:200] = 1
    mask = target.copy()
    mask[3] = 0
    put_image(ws, "a", volume, axes=("c", "z", "y", "x"))
    put_label(ws, "a", "target", target, axes=("z", "y", "x"))
    put_label(ws, "a", "m", mask, axes=("z", "y", "x"))
    result = report(ReportConfig(workspace=ws.uri, model="m"))
    page = Path(result.paths[0]).read_text(encoding="utf-8")
    assert "z 3, y 0, x 0: " in page
    assert "280 x 300 px · plane 3 of 4 · " in page
