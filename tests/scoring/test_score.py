"""Scores of a whole workspace against numpy on the whole arrays."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.classes import ClassInfo, default_classes
from segcore.config import ScoreConfig
from segcore.errors import ConfigError, StoreError
from segcore.geometry import Window
from segcore.scoring import score as module
from segcore.scoring import stream as streaming
from segcore.scoring.score import score
from segcore.scoring.stream import Subject
from segcore.spatial import Georef, Spacing
from segcore.store import Workspace
from tests.synthetic import put_image, put_label

SHAPE = (700, 531)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Three images: a and b with target, c without; a has valid and a spacing."""
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    rng = np.random.default_rng(0)
    for number, image_id in enumerate("abc"):
        put_image(
            ws,
            image_id,
            rng.integers(1, 255, (3, *SHAPE), dtype=np.uint8),
            spacing=Spacing(values={"y": 0.5, "x": 0.5}, unit="micrometer", origin="file") if image_id == "a" else None,
            split={"a": "train", "b": "test"}.get(image_id),
            has_valid=image_id == "a",
        )
        target = (rng.random(SHAPE) < 0.4).astype(np.uint8)
        mask = np.where(rng.random(SHAPE) < 0.8, target, 1 - target).astype(np.uint8)
        target[:20] = 255
        mask[100 * number :, :7] = 255
        if image_id != "c":
            put_label(ws, image_id, "target", target)
        if image_id == "a":
            put_label(ws, image_id, "valid", (rng.random(SHAPE) < 0.9).astype(np.uint8))
        put_label(ws, image_id, "m", mask)
    return ws


def _whole(ws: Workspace, image_id: str, name: str) -> np.ndarray:
    return ws.label(image_id, name).read(Window.whole(SHAPE))


def _confusion(ws: Workspace, image_id: str) -> np.ndarray:
    target, mask = _whole(ws, image_id, "target"), _whole(ws, image_id, "m")
    usable = (target != 255) & (mask != 255)
    if image_id == "a":
        usable &= _whole(ws, "a", "valid") != 0
    return np.array([[(usable & (target == i) & (mask == j)).sum() for j in range(2)] for i in range(2)])


def test_score_equals_numpy_on_the_whole_images(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "WINDOW_PX", 512)
    result = score(ScoreConfig(workspace=workspace.uri, model="m"))
    assert result.scores is not None
    a, b = _confusion(workspace, "a"), _confusion(workspace, "b")
    assert result.scores["confusion"] == (a + b).tolist()
    assert result.scores["per_image"]["a"]["confusion"] == a.tolist()
    assert result.scores["per_split"]["test"]["confusion"] == b.tolist()
    tp, fp, fn = (a + b)[1, 1], (a + b)[0, 1], (a + b)[1, 0]
    assert result.scores["overall"]["foreground_iou"] == pytest.approx(tp / (tp + fp + fn))
    assert result.scores["per_class"]["foreground"]["dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert result.scores["excluded_px"]["invalid"] == int((_whole(workspace, "a", "valid") == 0).sum())
    assert [(item.image, item.state) for item in result.items] == [("a", "done"), ("b", "done"), ("c", "skipped")]
    assert result.exit_code == 0
    json.dumps(result.model_dump(mode="json"))


def test_score_does_not_depend_on_the_window(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    once = score(ScoreConfig(workspace=workspace.uri, model="m")).scores
    for image_id in "abc":
        workspace.objects.delete(f"state/{image_id}/m/score.json")
    monkeypatch.setattr(streaming, "WINDOW_PX", 512)
    assert score(ScoreConfig(workspace=workspace.uri, model="m")).scores == once


def test_areas_are_those_of_the_usable_mask(workspace: Workspace) -> None:
    scores = score(ScoreConfig(workspace=workspace.uri, model="m")).scores
    assert scores is not None
    usable = _whole(workspace, "a", "valid") != 0
    px = int((usable & (_whole(workspace, "a", "m") == 1)).sum())
    assert scores["per_image"]["a"]["areas"]["foreground"] == pytest.approx(
        {"px": px, "um2": px * 0.25, "mm2": px * 0.25e-6}
    )
    assert scores["per_image"]["c"]["areas"]["foreground"] == {"px": int((_whole(workspace, "c", "m") == 1).sum())}


def test_area_of_a_georeferenced_image_is_in_hectares(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    georef = Georef(crs_wkt=None, epsg=32633, transform=(10, 0, 500000, 0, -10, 5000000))
    put_image(ws, "scene", np.ones((1, 64, 64), np.uint8), georef=georef)
    put_label(ws, "scene", "m", np.ones((64, 64), np.uint8))
    scores = score(ScoreConfig(workspace=ws.uri, model="m")).scores
    assert scores is not None
    assert scores["per_image"]["scene"]["areas"]["foreground"]["ha"] == pytest.approx(64 * 64 / 100)
    assert scores["overall"]["miou"] is None


def test_nodata_never_changes_the_score(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    pixels = np.full((2, 80, 80), 9, np.uint8)
    pixels[:, :, :30] = 0
    target = np.zeros((80, 80), np.uint8)
    target[:, 40:] = 1
    mask = target.copy()
    mask[:, :30] = 1
    put_image(ws, "i", pixels, nodata=0)
    put_label(ws, "i", "target", target)
    put_label(ws, "i", "m", mask)
    scores = score(ScoreConfig(workspace=ws.uri, model="m")).scores
    assert scores is not None
    assert scores["confusion"] == [[800, 0], [0, 3200]]
    assert scores["excluded_px"] == {"ignored": 0, "unpredicted": 0, "invalid": 2400}


def test_finished_counts_are_reused_and_stale_ones_are_not(workspace: Workspace) -> None:
    config = ScoreConfig(workspace=workspace.uri, model="m")
    first = score(config)
    second = score(config)
    assert (first.details["num_reused"], second.details["num_reused"]) == (0, 3)
    assert second.scores == first.scores
    changed = 1 - np.minimum(_whole(workspace, "b", "target"), 1)
    put_label(workspace, "b", "target", changed, version=1)
    third = score(config)
    assert third.details["num_reused"] == 2
    assert third.scores is not None
    assert third.scores["per_image"]["b"]["confusion"] == _confusion(workspace, "b").tolist()
    kept = json.loads(workspace.objects.get("state/a/m/score.json") or b"")
    kept["counts"]["mask_px"][0] += 1
    for damaged in (b"{damaged", json.dumps(kept).encode()):
        workspace.objects.put("state/a/m/score.json", damaged)
        assert score(config).scores == third.scores


def test_worst_tile_is_the_one_with_the_errors(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "i", np.ones((1, 1100, 1100), np.uint8))
    target = np.zeros((1100, 1100), np.uint8)
    mask = target.copy()
    mask[512:1024, 0:256] = 1
    mask[0:512, 512:640] = 1
    mask[1024:, 1024:] = 1
    put_label(ws, "i", "target", target)
    put_label(ws, "i", "m", mask)
    scores = score(ScoreConfig(workspace=ws.uri, model="m")).scores
    assert scores is not None
    worst = scores["worst_tiles"]
    assert [(tile["start"], tile["wrong_share"]) for tile in worst] == [([512, 0], 0.5), ([0, 512], 0.25)]
    assert worst[0] == {
        "image": "i", "start": [512, 0], "shape": [512, 512], "wrong_share": 0.5, "counted_px": 512 * 512
    }  # fmt: skip


def test_other_class_table_fails_that_image_only(workspace: Workspace) -> None:
    other = (ClassInfo(id=0, name="background", color=(0, 0, 0)), ClassInfo(id=1, name="cell", color=(9, 9, 9)))
    put_label(workspace, "b", "target", _whole(workspace, "b", "target"), other, version=1)
    result = score(ScoreConfig(workspace=workspace.uri, model="m"))
    assert [item.state for item in result.items] == ["done", "failed", "skipped"]
    error = result.items[1].error
    assert error is not None
    assert "(0 background, 1 cell)" in error
    assert "(0 background, 1 foreground)" in error
    assert "\n" not in error
    assert result.exit_code == 3


def test_unknown_value_fails_with_the_image_named(workspace: Workspace) -> None:
    put_label(workspace, "b", "target", np.full(SHAPE, 9, np.uint8), version=1)
    item = score(ScoreConfig(workspace=workspace.uri, model="m")).items[1]
    assert item.state == "failed"
    assert item.error == "image b: the target holds the value 9, which its class table does not have"


def test_error_that_nobody_foresaw_fails_its_image_only(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = module.stream

    def broken(subject: Subject, *others: Any) -> Any:
        if subject.image.image_id == "a":
            raise ZeroDivisionError("division\nby zero")
        return stream(subject, *others)

    monkeypatch.setattr(module, "stream", broken)
    result = score(ScoreConfig(workspace=workspace.uri, model="m"))
    assert [item.state for item in result.items] == ["failed", "done", "skipped"]
    assert result.items[0].error == "image a: ZeroDivisionError: division by zero"
    assert result.scores is not None
    assert result.scores["confusion"] == _confusion(workspace, "b").tolist()


def test_uint16_target_scores_like_uint8(workspace: Workspace) -> None:
    config = ScoreConfig(workspace=workspace.uri, model="m")
    before = score(config).scores
    wide = _whole(workspace, "b", "target").astype(np.uint16)
    wide[wide == 255] = 65535
    put_label(workspace, "b", "target", wide, default_classes(2), version=1)
    assert score(config).scores == before


def test_images_and_split_choose(workspace: Workspace) -> None:
    assert [i.image for i in score(ScoreConfig(workspace=workspace.uri, model="m", split="test")).items] == ["b"]
    with pytest.raises(StoreError, match=r"is of split val: there are none, test, train$"):
        score(ScoreConfig(workspace=workspace.uri, model="m", split="val"))
    result = score(ScoreConfig(workspace=workspace.uri, model="m", images=("a", "nobody")))
    assert [(i.image, i.state) for i in result.items] == [("a", "done"), ("nobody", "failed")]


def test_missing_mask_names_those_there_are(workspace: Workspace) -> None:
    with pytest.raises(StoreError, match=r"has the mask other: there are m$"):
        score(ScoreConfig(workspace=workspace.uri, model="other"))
    with pytest.raises(ConfigError, match="expected the name of a mask or a model package's folder"):
        score(ScoreConfig(workspace=workspace.uri, model="./nowhere/at all"))
