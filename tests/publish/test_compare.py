"""Two masks side by side: masks, reports, and reports of another workspace."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.classes import ClassInfo
from segcore.config import ReportConfig, build_config
from segcore.errors import ConfigError, StoreError
from segcore.publish import report
from segcore.publish.compare import MAX_PICTURES
from segcore.results import StageResult
from segcore.store import Workspace
from tests.synthetic import put_image, put_label

SIDES = (64, 80)
HOSTILE = tuple(
    ClassInfo(id=id_, name=name, color=(id_ * 200, 0, 0)) for id_, name in ((0, "background"), (1, "<b>=cell</b>"))
)


def _filled(
    folder: Path | str, shares: dict[str, tuple[float, float]], prefix: str = "", splits: dict[str, str] | None = None
) -> Workspace:
    """Images of 1000 px of target, of which the masks `one` and `two` find these shares."""
    ws = Workspace.open(str(folder), create=True)
    for image_id, found in shares.items():
        put_image(ws, prefix + image_id, np.full((1, *SIDES), 9, np.uint8), split=(splits or {}).get(image_id))
        ids = np.zeros(SIDES, np.uint8)
        ids[10:30, 10:60] = 1
        put_label(ws, prefix + image_id, "target", ids, HOSTILE)
        for name, share in zip(("one", "two"), found, strict=True):
            mask = ids.copy()
            mask[:, 10 + round(50 * share) :] = 0
            put_label(ws, prefix + image_id, name, mask, HOSTILE)
    return ws


SHARES = {"a": (0.8, 0.6), "b": (0.4, 0.8), "c": (0.5, 0.5)}


def _compare(ws: Workspace, one: str, two: str, **more: Any) -> tuple[StageResult, dict[str, Any], str]:
    result = report(ReportConfig(workspace=ws.uri, compare=(one, two), run="both", **more))
    page, data = (Path(path).read_text(encoding="utf-8") for path in result.paths)
    return result, dict(json.loads(data)), page


def test_first_mask_against_the_second(tmp_path: Path) -> None:
    ws = _filled(tmp_path / "ws", SHARES)
    result, found, page = _compare(ws, "one", "two")
    assert [Path(path).name for path in result.paths] == ["compare.html", "compare.json"]
    iou = found["compared"]["per_class"]["<b>=cell</b>"]["iou"]
    assert (iou["value"], iou["other"]) == pytest.approx(((0.8 + 0.4 + 0.5) / 3, (0.6 + 0.8 + 0.5) / 3))
    low, high = iou["interval"]
    assert -0.4 - 1e-9 <= low < iou["difference"] < high <= 0.2 + 1e-9
    rows = [(row["image"], round(row["overall"]["foreground_iou"]["difference"], 6)) for row in found["images"]]
    assert rows == [("b", -0.4), ("a", 0.2), ("c", 0.0)]
    assert "<b>=cell" not in page
    assert page.count("<img ") == 3 * 4
    assert result.exit_code == 0


def test_it_says_the_same_as_score_against(tmp_path: Path) -> None:
    ws = _filled(tmp_path / "ws", SHARES)
    against = report(ReportConfig(workspace=ws.uri, model="one", against="two", run="r")).scores
    assert against is not None
    assert _compare(ws, "one", "two")[1]["compared"] == {**against["against"], "per_split": {}}


def test_the_split_that_was_not_trained_on_goes_first_as_in_a_report(tmp_path: Path) -> None:
    ws = _filled(tmp_path / "ws", SHARES, splits={"a": "test", "b": "train", "c": "train"})
    result, found, page = _compare(ws, "one", "two")
    for mask in ("two", "one"):
        scores = report(ReportConfig(workspace=ws.uri, model=mask, run=mask)).scores
        assert scores is not None
        side = "value" if mask == "one" else "other"
        for split in ("test", "train"):
            part = found["compared"]["per_split"][split]["overall"]
            assert part["foreground_iou"][side] == scores["per_split"][split]["overall"]["foreground_iou"]
    assert result.details["split"] == "test"
    assert result.details["difference"]["foreground_iou"] == pytest.approx(0.8 - 0.6)
    assert found["compared"]["overall"]["foreground_iou"]["difference"] == pytest.approx(-0.2 / 3)
    assert "IoU without background, test: 80.0 % against 60.0 %" in page
    captions = ["All classes, split test, 1 image<", "All classes, all images of both<"]
    captions += [caption.replace("All classes", "Per class") for caption in captions]
    places = [page.index(caption) for caption in captions]
    assert places == sorted(places)
    _, _, page = _compare(ws, "one", "two", split="test")
    assert "Per class, split test, 1 image<" in page
    assert "all images of both<" not in page


def test_without_splits_all_images_go_first(tmp_path: Path) -> None:
    result, _, page = _compare(_filled(tmp_path / "ws", SHARES), "one", "two")
    assert "split" not in result.details
    assert page.count("all images of both</caption>") == 2
    assert "IoU without background: 56.7 % against 63.3 %" in page


@pytest.mark.parametrize("elsewhere", ["memory://elsewhere", "there"])
def test_reports_of_two_workspaces_pair_by_content(tmp_path: Path, elsewhere: str) -> None:
    here = _filled(tmp_path / "here", SHARES)
    there = _filled(elsewhere if "://" in elsewhere else tmp_path / elsewhere, {"a": (0.2, 0.2)}, prefix="x-")
    for ws, prefix in ((here, ""), (there, "x-")):
        put_digest(ws, f"{prefix}a", "content of a")
    report(ReportConfig(workspace=there.uri, model="one", run="night"))
    for given in (f"{there.uri}/reports/night", f"{there.uri}/reports/night/report.html"):
        _, found, page = _compare(here, "one", given)
        assert found["num_images"] == 1
        assert found["compared"]["overall"]["foreground_iou"]["difference"] == pytest.approx(0.8 - 0.2)
        assert "2 of the 3 images of one are not compared" in page
        assert page.count("<img ") == 4


def put_digest(ws: Workspace, image_id: str, digest: str) -> None:
    """Give an image the digest of its source, as ingest does."""
    key = f"images/{image_id}.ome.zarr/zarr.json"
    document = json.loads(ws.objects.get(key) or b"")
    document["attributes"]["segcore"]["digest"] = digest
    ws.objects.put(key, json.dumps(document).encode())


def test_mask_that_is_another_by_now_is_compared_but_not_shown(tmp_path: Path) -> None:
    ws = _filled(tmp_path / "ws", SHARES)
    report(ReportConfig(workspace=ws.uri, model="two", run="before"))
    put_label(ws, "a", "two", np.zeros(SIDES, np.uint8), HOSTILE, version=1)
    result, found, _ = _compare(ws, "one", "before")
    assert found["num_images"] == 3
    assert found["failures"] == []
    assert found["notes"] == ["1 image cannot be shown: the mask of report before was made again since"]
    assert (result.details["num_pictures"], result.exit_code) == (2, 0)


@pytest.mark.parametrize(
    ("num", "told"), [(2, "2 images cannot"), (MAX_PICTURES + 1, "12 images of the 12 that changed most cannot")]
)
def test_masks_of_a_night_that_were_all_made_again_are_one_note(tmp_path: Path, num: int, told: str) -> None:
    ws = _filled(tmp_path / "ws", {f"i{number}": (0.8, 0.4) for number in range(num)})
    report(ReportConfig(workspace=ws.uri, model="two", run="r1"))
    for number in range(num):
        put_label(ws, f"i{number}", "two", np.ones(SIDES, np.uint8), HOSTILE, version=1)
    for one, two in (("one", "r1"), ("two", "r1")):
        result, found, page = _compare(ws, one, two)
        note = f"{told} be shown: the mask of report r1 was made again since"
        assert (found["notes"], found["failures"], result.exit_code) == ([note], [], 0)
        assert {item.state for item in result.items} == {"done"}
        assert f'<p class="note">{note}</p>' in page
        assert "failures" not in page.split("</style>")[1]
        assert found["compared"]["num_images"] == num


def test_masks_of_two_reports_that_stand_no_more_say_what_became_of_each(tmp_path: Path) -> None:
    ws = _filled(tmp_path / "ws", {"a": (0.8, 0.4), "b": (0.8, 0.4)})
    for mask in ("one", "two"):
        report(ReportConfig(workspace=ws.uri, model=mask, run=f"of-{mask}"))
    shutil.rmtree(Path(ws.uri) / "images/a.ome.zarr/labels/one")
    put_label(ws, "a", "two", np.ones(SIDES, np.uint8), HOSTILE, version=1)
    result, found, _ = _compare(ws, "of-one", "of-two")
    why = "the mask of report of-one is there no more and the mask of report of-two was made again since"
    assert found["notes"] == [f"1 image cannot be shown: {why}"]
    assert (result.details["num_pictures"], result.exit_code) == (1, 0)


def test_a_picture_that_cannot_be_read_has_failed(tmp_path: Path) -> None:
    ws = _filled(tmp_path / "ws", SHARES)
    report(ReportConfig(workspace=ws.uri, model="two", run="before"))
    _compare(ws, "one", "before")
    for chunk in (Path(ws.uri) / "images/a.ome.zarr/0/c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"no shard")
    result, found, _ = _compare(ws, "one", "before")
    assert [failed["source"] for failed in found["failures"]] == ["a"]
    assert (found["notes"], result.exit_code) == ([], 3)


def test_masks_without_a_target_are_shown_by_what_changed(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    for image_id, width in (("a", 10), ("b", 40)):
        put_image(ws, image_id, np.full((1, *SIDES), 9, np.uint8))
        for name, shift in (("one", 0), ("two", width)):
            ids = np.zeros(SIDES, np.uint8)
            ids[:, : 5 + shift] = 1
            put_label(ws, image_id, name, ids)
    _, found, page = _compare(ws, "one", "two")
    assert (found["compared"], found["images"]) == (None, [])
    assert page.index(">b</h3>") < page.index(">a</h3>")
    assert "50.0 % of the pixels shown differ" in page


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    ws = _filled(tmp_path / "ws", SHARES)
    put_image(ws, "d", np.full((1, *SIDES), 9, np.uint8))
    put_label(ws, "d", "three", np.zeros(SIDES, np.uint8))
    put_label(ws, "d", "four", np.zeros(SIDES, np.uint8), HOSTILE)
    with pytest.raises(ConfigError, match=r"compare: one has the classes \(0 background, 1 <b>=cell</b>\), three has"):
        _compare(ws, "one", "three")
    with pytest.raises(StoreError, match="one and four share no image"):
        _compare(ws, "one", "four")
    with pytest.raises(StoreError, match=r"no image in .* has the mask nothing"):
        _compare(ws, "one", "nothing")
    with pytest.raises(ConfigError, match="there is no workspace"):
        _compare(ws, "one", "/nowhere/reports/x")
    with pytest.raises(StoreError, match=r"there is no .*reports/x/images\.parquet"):
        _compare(ws, "one", f"{ws.uri}/reports/x")


def test_config_is_of_one_mask_or_two() -> None:
    for values, message in (
        ({}, "model: expected a mask's name"),
        ({"compare": ["a", "b"], "model": "m"}, "compare: expected it alone"),
        ({"compare": ["a", "b"], "against": "m"}, "compare: expected it alone"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_config(ReportConfig, {"workspace": "w", **values})
    assert build_config(ReportConfig, {"workspace": "w", "compare": ["a", "b"]}).compare == ("a", "b")
