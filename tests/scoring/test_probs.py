"""Scores of probabilities against torchmetrics, brute force and closed forms, on the 8-bit values."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_calibration_error,
)

from segcore.classes import default_classes
from segcore.config import ScoreConfig
from segcore.geometry import Window
from segcore.progress import Silent
from segcore.scoring import probs_stream
from segcore.scoring.probs import (
    BIN_STARTS,
    LEVELS,
    NUM_BINS,
    ProbCounts,
    calibration_error,
    count_probs,
    prob_ratios,
    reliability,
)
from segcore.scoring.score import score
from segcore.store import Workspace, verify
from tests.synthetic import put_image, put_label, put_probs

SHAPE, K = (500, 610), 3
Values = npt.NDArray[np.uint8]


def _softmax(seed: int, shape: tuple[int, ...], target: npt.NDArray[Any]) -> Values:
    """8-bit probabilities (K, ...) that know something of the target."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (K, *shape)) + 1.5 * (np.arange(K).reshape(K, *[1] * len(shape)) == target)
    probs = np.exp(logits) / np.exp(logits).sum(axis=0)
    return np.rint(255 * probs).astype(np.uint8)


def _one_class(seed: int) -> tuple[Values, npt.NDArray[np.bool_]]:
    """Many ties: few levels, all of them used somewhere."""
    rng = np.random.default_rng(seed)
    values = rng.choice([*range(0, 256, 17), *range(100, 110)], 4000).astype(np.uint8)
    return values, rng.random(4000) < (values / 255) ** 1.5


def _histogram(values: Values, is_it: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    return count_probs(values[None], [1], is_it.astype(int), is_it.astype(int), 2).levels[1]


@pytest.mark.parametrize("seed", range(4))
def test_auc_and_ap_are_those_of_torchmetrics(seed: int) -> None:
    values, is_it = _one_class(seed)
    preds, target = torch.from_numpy(values.astype(np.float64) / 255), torch.from_numpy(is_it).long()
    found = prob_ratios(_histogram(values, is_it))
    assert found["auc"] == pytest.approx(float(binary_auroc(preds, target)), abs=1e-6)
    assert found["ap"] == pytest.approx(float(binary_average_precision(preds, target)), abs=1e-6)


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    values, is_it = _one_class(7)
    own, other = values[is_it].astype(int), values[~is_it].astype(int)
    right = (own[:, None] > other[None]).sum() + (own[:, None] == other[None]).sum() / 2
    assert prob_ratios(_histogram(values, is_it))["auc"] == pytest.approx(right / (own.size * other.size), abs=1e-12)


def test_ap_is_the_sum_over_thresholds() -> None:
    values, is_it = _one_class(8)
    steps, before = 0.0, 0.0
    for threshold in sorted(set(values.tolist()), reverse=True):
        taken = values >= threshold
        recall = (is_it & taken).sum() / is_it.sum()
        steps += (recall - before) * (is_it & taken).sum() / taken.sum()
        before = recall
    assert prob_ratios(_histogram(values, is_it))["ap"] == pytest.approx(steps, abs=1e-12)


def test_calibration_error_is_that_of_torchmetrics() -> None:
    values, is_it = _one_class(9)
    # Theirs are the bins [b, b + 1) / 15: a hair less puts what lies on an edge below it, as in Guo et al.
    preds, target = torch.from_numpy(values / 255 - 1e-6).clamp(0), torch.from_numpy(is_it).long()
    wanted = float(binary_calibration_error(preds, target, n_bins=NUM_BINS, norm="l1"))
    assert calibration_error(_histogram(values, is_it)) == pytest.approx(wanted, abs=1e-5)


def test_bins_of_the_reliability_diagram_are_fifteenths() -> None:
    assert len(BIN_STARTS) == NUM_BINS
    wanted = np.clip(np.ceil(np.arange(LEVELS) / 17).astype(int) - 1, 0, None)  # ((b - 1) / 15, b / 15], and 0
    assert (np.searchsorted(BIN_STARTS, np.arange(LEVELS), side="right") - 1 == wanted).all()
    values, is_it = _one_class(3)
    found = reliability(_histogram(values, is_it))
    for number in range(NUM_BINS):
        inside = wanted[values] == number
        assert found["px"][number] == inside.sum()
        if inside.any():
            assert found["confidence"][number] == pytest.approx(values[inside].mean() / 255)
            assert found["accuracy"][number] == pytest.approx(is_it[inside].mean())
        else:
            assert (found["confidence"][number], found["accuracy"][number]) == (None, None)


def test_an_absent_class_has_no_score_and_enters_no_mean() -> None:
    target = np.zeros(100, int)
    target[:50] = 1
    values = _softmax(0, (100,), target)
    found = prob_ratios(count_probs(values, [0, 1, 2], target, values.argmax(axis=0), K).levels)
    for scores in found.values():
        assert np.isnan(scores[2])
        assert not np.isnan(scores[:2]).any()


def test_histograms_add() -> None:
    target = np.random.default_rng(0).integers(0, K, 300)
    values = _softmax(1, (300,), target)
    mask = values.argmax(axis=0)
    whole = count_probs(values, [0, 1, 2], target, mask, K)
    parts = [count_probs(values[:, at], [0, 1, 2], target[at], mask[at], K) for at in (slice(0, 77), slice(77, None))]
    assert (parts[0] + parts[1]).to_json() == whole.to_json()
    assert ProbCounts.from_json(json.loads(json.dumps(whole.to_json()))).to_json() == whole.to_json()


# Of a workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Three images with a target, some of it to be ignored, some nodata; c has no layer. `a` was skipped in part."""
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    for number, image_id in enumerate("abc"):
        rng = np.random.default_rng(number)
        put_image(ws, image_id, np.ones((1, *SHAPE), np.uint8), has_valid=True, split="test" if number else "train")
        put_label(ws, image_id, "valid", (rng.random(SHAPE) < 0.9).astype(np.uint8))
        target = rng.integers(0, 2 if image_id == "b" else K, SHAPE).astype(np.uint8)
        values = _softmax(number, SHAPE, target)
        mask = values.argmax(axis=0).astype(np.uint8)
        mask[:, :9] = 255
        target[:30] = 255
        if image_id == "a":
            values[:, 100:140], mask[100:140] = 0, 0
        put_label(ws, image_id, "target", target, default_classes(K))
        put_label(ws, image_id, "m", mask, default_classes(K))
        if image_id != "c":
            put_probs(ws, image_id, "m", values, tuple(info.name for info in default_classes(K)))
    return ws


def _scores(ws: Workspace, **settings: Any) -> dict[str, Any]:
    result = score(ScoreConfig(workspace=ws.uri, boundary="off", **{"model": "m", **settings}))
    assert result.scores is not None
    assert [item.error for item in result.items] == [None] * len(result.items)
    json.dumps(result.scores, allow_nan=False)
    return result.scores


def _counted(ws: Workspace, image_id: str) -> tuple[Values, npt.NDArray[Any], npt.NDArray[Any]]:
    """Probabilities (K, n), target and mask of the pixels that count and were looked at."""
    target, mask, valid = (ws.label(image_id, name).read(Window.whole(SHAPE)) for name in ("target", "m", "valid"))
    values = ws.layer(image_id, "m", "probs").read(Window.whole((K, *SHAPE)))
    counted = (target != 255) & (mask != 255) & (valid != 0) & values.any(axis=0)
    return values[:, counted], target[counted].astype(int), mask[counted].astype(int)


def test_scores_of_a_workspace_are_those_of_torchmetrics_on_the_whole_images(workspace: Workspace) -> None:
    scores = _scores(workspace)
    whole = [_counted(workspace, image_id) for image_id in "ab"]
    values, target, mask = (np.concatenate(parts, axis=-1) for parts in zip(*whole, strict=True))
    aucs = []
    for row, info in enumerate(default_classes(K)):
        preds, is_it = torch.from_numpy(values[row] / 255), torch.from_numpy(target == row).long()
        found = scores["per_class"][info.name]["probs"]
        aucs.append(float(binary_auroc(preds, is_it)))
        assert found["auc"] == pytest.approx(aucs[-1], abs=1e-6)
        assert found["ap"] == pytest.approx(float(binary_average_precision(preds, is_it)), abs=1e-5)
        wanted = float(binary_calibration_error((preds - 1e-6).clamp(0), is_it, n_bins=NUM_BINS))
        assert found["ece"] == pytest.approx(wanted, abs=1e-5)
        assert sum(found["reliability"]["px"]) == target.size
    overall = scores["probs"]
    assert overall["mean_auc"] == pytest.approx(np.mean(aucs), abs=1e-6)
    assert overall["num_images"] == 2
    assert (values[mask, np.arange(mask.size)] == values.max(axis=0)).all()
    preds = torch.from_numpy(values.max(axis=0) / 255 - 1e-6)
    wanted = float(binary_calibration_error(preds, torch.from_numpy(target == mask).long(), n_bins=NUM_BINS))
    assert overall["ece"] == pytest.approx(wanted, abs=1e-5)
    b = scores["per_image"]["b"]
    assert b["per_class"][default_classes(K)[2].name]["probs"]["auc"] is None
    assert scores["per_split"]["test"]["probs"]["mean_auc"] == b["probs"]["mean_auc"]
    assert "probs" not in scores["per_image"]["c"]
    assert scores["per_class"][default_classes(K)[2].name]["probs"]["num_images"] == 1


def test_tiles_that_were_not_looked_at_do_not_count(workspace: Workspace) -> None:
    target, valid = (workspace.label("a", name).read(Window.whole(SHAPE)) for name in ("target", "valid"))
    skipped = (target[100:140] != 255) & (valid[100:140] != 0)
    assert _scores(workspace)["probs"]["unknown_px"] == skipped.sum()


def test_scores_do_not_depend_on_the_window_and_are_kept(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    once = _scores(workspace)
    monkeypatch.setattr(probs_stream, "stream_probs", lambda *_: pytest.fail("counted again"))
    assert _scores(workspace) == once
    monkeypatch.undo()
    for image_id in "ab":
        workspace.objects.put(f"state/{image_id}/m/probs.json", b'{"format": 1')
    damaged = [problem.key for problem in verify(workspace) if problem.part == "derived"]
    assert damaged == ["state/a/m/probs.json", "state/b/m/probs.json"]
    monkeypatch.setattr(probs_stream, "WINDOW_PX", 256)
    assert _scores(workspace) == once


def test_intervals_are_those_of_the_drawn_images(workspace: Workspace) -> None:
    interval = _scores(workspace, resamples=50)["interval"]
    each = [_scores(workspace)["per_image"][image_id]["probs"]["mean_auc"] for image_id in "ab"]
    low, high = interval["probs"]["mean_auc"]
    assert min(each) - 1e-9 <= low < high <= max(each) + 1e-9
    assert set(interval["per_class"][default_classes(K)[0].name]) >= {"auc", "ap", "ece"}


def test_a_coarser_layer_is_scored_at_its_level(workspace: Workspace) -> None:
    names = tuple(info.name for info in default_classes(K))
    coarse = workspace.layer("b", "m", "probs").read(Window.whole((K, *SHAPE)))[:, ::2, ::2]
    put_probs(workspace, "b", "m", np.ascontiguousarray(coarse), names, level=1)
    found = _scores(workspace, images=("b",))["probs"]
    image, window = workspace.image("b"), Window.whole(coarse.shape[1:])
    target, mask = (workspace.label("b", name).read(window, 1) for name in ("target", "m"))
    counted = (target != 255) & (mask != 255) & image.read_valid(window, 1)
    wanted = count_probs(coarse[:, counted], [0, 1, 2], target[counted].astype(int), mask[counted].astype(int), K)
    assert found["ece"] == pytest.approx(float(calibration_error(wanted.top)))
    assert sum(found["reliability"]["px"]) == counted.sum() - wanted.unknown_px


def test_a_layer_of_some_classes_scores_these(workspace: Workspace) -> None:
    names = [info.name for info in default_classes(K)]
    values, target, _ = _counted(workspace, "b")
    whole = workspace.layer("b", "m", "probs").read(Window.whole((K, *SHAPE)))
    put_probs(workspace, "b", "m", (whole[1:2] / 255).astype(np.float16), (names[1],))
    found = _scores(workspace, images=("b",))
    auc = float(binary_auroc(torch.from_numpy(values[1] / 255), torch.from_numpy(target == 1).long()))
    assert found["per_class"][names[1]]["probs"]["auc"] == pytest.approx(auc, abs=1e-6)
    assert found["per_class"][names[0]]["probs"]["auc"] is None
    assert found["probs"]["ece"] is None
    assert found["probs"]["mean_auc"] == found["per_class"][names[1]]["probs"]["auc"]


def test_a_layer_of_an_earlier_mask_is_left_out(workspace: Workspace) -> None:
    class Told(Silent):
        def note(self, message: str) -> None:
            notes.append(message)

    notes: list[str] = []
    names, told = tuple(info.name for info in default_classes(K)), Told()
    values = workspace.layer("b", "m", "probs").read(Window.whole((K, *SHAPE)))
    mask = workspace.label("b", "m").read(Window.whole(SHAPE))
    put_label(workspace, "b", "m", mask, default_classes(K), version=1, attributes={"predict": {"model": "new"}})
    for model, is_scored in (("new", True), ("old", False)):
        put_probs(workspace, "b", "m", values, names, predict={"model": model, "layer": "probs"})
        result = score(ScoreConfig(workspace=workspace.uri, model="m", images=("b",), boundary="off"), told)
        assert result.scores is not None
        assert ("probs" in result.scores) == is_scored
    assert notes == ["image b: its layer probs is of an earlier mask m; it is not scored"]


def test_two_masks_are_compared_on_the_images_whose_probabilities_both_have(workspace: Workspace) -> None:
    names = tuple(info.name for info in default_classes(K))
    for image_id in "ab":
        mask = workspace.label(image_id, "m").read(Window.whole(SHAPE))
        put_label(workspace, image_id, "n", mask, default_classes(K))
    layer = workspace.layer("b", "m", "probs").read(Window.whole((K, *SHAPE)))
    put_probs(workspace, "b", "n", layer, names)  # n has none of a
    found = _scores(workspace, against="n", resamples=20)["against"]
    assert found["num_images"] == 2
    alone = _scores(workspace, images=("b",))["probs"]["mean_auc"]
    assert found["probs"]["mean_auc"]["value"] == found["probs"]["mean_auc"]["other"] == alone
    assert found["probs"]["mean_auc"]["difference"] == 0


def test_it_can_be_left_out(workspace: Workspace) -> None:
    assert "probs" not in _scores(workspace, probs="off")
