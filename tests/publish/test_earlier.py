"""Which report a new one is held against, and what it says of the change."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import ReportConfig
from segcore.geometry import Window
from segcore.publish import report
from segcore.reports import Head, heads, lineage
from segcore.store import Workspace
from tests.publish.test_compare import put_digest
from tests.synthetic import put_image, put_label, put_objects

SIDES = (64, 80)
OLD, NEW = "cells-0123abcd", "cells-89abcdef"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Two images with a mask of an older model, half right, and of a newer one, all right."""
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    for image_id in ("a", "b"):
        put_image(ws, image_id, np.full((1, *SIDES), 7, np.uint8), split="test" if image_id == "a" else "train")
        target = np.zeros(SIDES, np.uint8)
        target[16:48, 20:60] = 1
        put_label(ws, image_id, "target", target)
        put_label(ws, image_id, NEW, target)
        target[16:48, 40:60] = 0
        put_label(ws, image_id, OLD, target)
    return ws


def _report(ws: Workspace, mask: str, run: str, **more: Any) -> dict[str, Any]:
    result = report(ReportConfig(workspace=ws.uri, model=mask, run=run, **more))
    return dict(json.loads(Path(result.paths[1]).read_text(encoding="utf-8")))


def test_lineage_is_the_name_without_the_digest() -> None:
    assert [lineage(name) for name in (OLD, "cells", "cells-0123", "a-0123abcd-x")] == [
        "cells", "cells", "cells-0123", "a-0123abcd-x"
    ]  # fmt: skip


def test_a_retrained_model_is_held_against_the_one_before(workspace: Workspace) -> None:
    assert _report(workspace, OLD, "first")["since"] is None
    since = _report(workspace, NEW, "second")["since"]
    assert (since["run"], since["mask"], since["num_images"], since["num_left_out"]) == ("first", OLD, 2, 0)
    iou = since["overall"]["foreground_iou"]
    assert iou == {"value": 1.0, "other": 0.5, "difference": 0.5, "interval": [0.5, 0.5]}
    assert since["per_split"]["test"]["overall"]["foreground_iou"]["difference"] == 0.5
    page = (Path(workspace.uri) / "reports/second/report.html").read_text(encoding="utf-8")
    assert "+50.0" in page
    assert "Run first of" in page


def test_a_run_that_is_written_again_is_held_against_itself(workspace: Workspace) -> None:
    _report(workspace, OLD, "nightly")
    put_label(workspace, "a", OLD, workspace.label("a", NEW).read(Window.whole(SIDES)), version=1)
    since = _report(workspace, OLD, "nightly")["since"]
    assert since["run"] == "nightly"
    assert since["per_split"]["test"]["overall"]["foreground_iou"]["difference"] == 0.5
    again = _report(workspace, OLD, "nightly")
    page = (Path(workspace.uri) / "reports/nightly/report.html").read_text(encoding="utf-8")
    assert again["since"]["overall"]["miou"]["difference"] == 0.0
    assert "Nothing has changed." in page


def test_an_image_whose_target_changed_is_left_out(workspace: Workspace) -> None:
    _report(workspace, OLD, "first")
    put_label(workspace, "b", "target", np.zeros(SIDES, np.uint8), version=1)
    since = _report(workspace, OLD, "second")["since"]
    assert (since["num_images"], since["num_left_out"]) == (1, 1)


def test_images_that_were_ingested_again_from_another_place_are_found_by_content(workspace: Workspace) -> None:
    for image_id in ("a", "b"):
        put_digest(workspace, image_id, f"content of {image_id}")
    _report(workspace, OLD, "first", images=("a", "b"))
    for image_id in ("a", "b"):
        put_image(workspace, f"moved-{image_id}", np.full((1, *SIDES), 7, np.uint8))
        put_digest(workspace, f"moved-{image_id}", f"content of {image_id}")
        target = workspace.label(image_id, "target").read(Window.whole(SIDES))
        put_label(workspace, f"moved-{image_id}", "target", target if image_id == "a" else 1 - target)
        put_label(workspace, f"moved-{image_id}", OLD, target)
    since = _report(workspace, OLD, "second", images=("moved-a", "moved-b"))["since"]
    assert (since["num_images"], since["num_left_out"]) == (1, 1)


def test_a_change_of_objects_alone_is_a_change(workspace: Workspace) -> None:
    ids = workspace.label("a", "target").read(Window.whole(SIDES)).astype(np.uint32)
    put_objects(workspace, "a", "target_instances", ids)
    put_objects(workspace, "a", f"{NEW}_instances", ids * 0)
    _report(workspace, NEW, "first")
    put_objects(workspace, "a", f"{NEW}_instances", ids, {"version": 1})
    since = _report(workspace, NEW, "second")["since"]
    assert since["overall"]["miou"]["difference"] == 0.0
    assert since["instances"]["pq"]["difference"] == 1.0
    page = (Path(workspace.uri) / "reports/second/report.html").read_text(encoding="utf-8")
    assert "Nothing has changed." not in page
    assert "+100.0" in page


def test_other_series_other_images_and_damage_are_passed_over(workspace: Workspace) -> None:
    _report(workspace, OLD, "good", images=("a",))
    _report(workspace, OLD, "of-b-alone", images=("b",))
    _report(workspace, NEW, "damaged")
    workspace.objects.put("reports/damaged/images.parquet", b"PAR1")
    workspace.objects.put("reports/explain/x/run.json", b"{")
    put_label(workspace, "a", "other", np.zeros(SIDES, np.uint8))
    _report(workspace, "other", "other")
    workspace.objects.put("reports/broken/run.json", b'{"run": 3')
    assert _report(workspace, NEW, "last", images=("a",))["since"]["run"] == "good"


def test_heads_are_newest_first(workspace: Workspace) -> None:
    head = Head(run="r", created="2026-01-01T00:00:00+00:00", mask="m", title="t", num_images=1, num_failed=0)
    for run, created in (("x", "2026-01-02"), ("y", "2026-01-03"), ("z", "2025-12-31")):
        told = head.model_copy(update={"run": "../elsewhere", "created": created})
        workspace.objects.put(f"reports/{run}/run.json", told.model_dump_json().encode())
    assert [found.run for found in heads(workspace)] == ["y", "x", "z"]
