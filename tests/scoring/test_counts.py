"""Counts and scores against torchmetrics, a brute force, and hand-made cases."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchmetrics.functional import classification as oracle

from segcore.classes import ClassInfo
from segcore.errors import StoreError
from segcore.scoring.counts import (
    METRICS,
    Counter,
    Counts,
    class_scores,
    foreground_rows,
    overall_scores,
)

K = 4


def _pixels(seed: int, num_classes: int = K) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, num_classes, (37, 53), dtype=np.uint8)
    mask = np.where(rng.random(target.shape) < 0.7, target, rng.integers(0, num_classes, target.shape, dtype=np.uint8))
    return target, mask.astype(np.uint8)


def test_count_equals_brute_force() -> None:
    target, mask = _pixels(0)
    target[rng_hits(1, target.shape)] = 255
    mask[rng_hits(2, mask.shape)] = 255
    valid = ~rng_hits(3, mask.shape)
    confusion, ignored, unpredicted = np.zeros((K, K), int), 0, 0
    for t, m, v in zip(target.flat, mask.flat, valid.flat, strict=True):
        if not v:
            continue
        if t == 255:
            ignored += 1
        elif m == 255:
            unpredicted += 1
        else:
            confusion[t, m] += 1
    counts = Counter(range(K), 255).count(target, mask, valid)
    assert counts.confusion.dtype == np.int64
    np.testing.assert_array_equal(counts.confusion, confusion)
    assert (counts.ignored_px, counts.unpredicted_px) == (ignored, unpredicted)
    assert counts.invalid_px == int((~valid).sum())
    np.testing.assert_array_equal(counts.mask_px, [int((valid & (mask == k)).sum()) for k in range(K)])
    np.testing.assert_array_equal(counts.target_px, [int((valid & (target == k)).sum()) for k in range(K)])


def rng_hits(seed: int, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    return np.random.default_rng(seed).random(shape) < 0.1


def test_counts_over_tiles_equal_counts_over_the_whole() -> None:
    target, mask = _pixels(4)
    target[3:9, 40:] = 255
    counter = Counter(range(K), 255)
    total = Counts.zeros(K)
    for y in range(0, 37, 8):
        for x in range(0, 53, 11):
            total += counter.count(target[y : y + 8, x : x + 11], mask[y : y + 8, x : x + 11])
    whole = counter.count(target, mask)
    assert total.to_json() == whole.to_json()
    assert Counts.from_json(whole.to_json()).to_json() == whole.to_json()


def test_scores_equal_torchmetrics() -> None:
    target, mask = _pixels(5)
    confusion = Counter(range(K), 255).count(target, mask).confusion
    t, m = torch.from_numpy(target.astype(np.int64)), torch.from_numpy(mask.astype(np.int64))
    np.testing.assert_array_equal(confusion, oracle.multiclass_confusion_matrix(m, t, K).numpy())
    ours = class_scores(confusion)
    expected = {
        "iou": oracle.multiclass_jaccard_index(m, t, K, average="none"),
        "dice": oracle.multiclass_f1_score(m, t, K, average="none"),
        "precision": oracle.multiclass_precision(m, t, K, average="none"),
        "recall": oracle.multiclass_recall(m, t, K, average="none"),
    }
    for name, values in expected.items():
        np.testing.assert_allclose([scores[name] for scores in ours], values.numpy(), rtol=1e-6, err_msg=name)
    overall = overall_scores(confusion, range(1, K))
    assert overall["miou"] == pytest.approx(float(oracle.multiclass_jaccard_index(m, t, K, average="macro")), rel=1e-6)
    assert overall["micro_iou"] == pytest.approx(
        float(oracle.multiclass_jaccard_index(m, t, K, average="micro")), rel=1e-6
    )
    assert overall["pixel_accuracy"] == pytest.approx(
        float(oracle.multiclass_accuracy(m, t, K, average="micro")), rel=1e-6
    )
    assert overall["kappa"] == pytest.approx(float(oracle.multiclass_cohen_kappa(m, t, K)), rel=1e-5)
    assert overall["frequency_weighted_iou"] == pytest.approx(
        float(oracle.multiclass_jaccard_index(m, t, K, average="weighted")), rel=1e-6
    )
    one_against_rest = [float(oracle.binary_accuracy((m == k).long(), (t == k).long())) for k in range(K)]
    np.testing.assert_allclose([scores["accuracy"] for scores in ours], one_against_rest, rtol=1e-6)


def test_binary_foreground_scores_equal_torchmetrics() -> None:
    target, mask = _pixels(6, 2)
    confusion = Counter((0, 1), 255).count(target, mask).confusion
    t, m = torch.from_numpy(target.astype(np.int64)), torch.from_numpy(mask.astype(np.int64))
    overall = overall_scores(confusion, [1])
    assert overall["foreground_iou"] == pytest.approx(float(oracle.binary_jaccard_index(m, t)), rel=1e-6)
    assert overall["foreground_dice"] == pytest.approx(float(oracle.binary_f1_score(m, t)), rel=1e-6)
    assert overall["foreground_precision"] == pytest.approx(float(oracle.binary_precision(m, t)), rel=1e-6)
    assert overall["foreground_recall"] == pytest.approx(float(oracle.binary_recall(m, t)), rel=1e-6)
    assert overall["foreground_micro_iou"] == pytest.approx(overall["foreground_iou"])


def test_scores_of_a_hand_made_case() -> None:
    confusion = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]], np.int64)
    scores = class_scores(confusion)
    assert scores[0] == {"iou": 6 / 9, "dice": 12 / 15, "precision": 6 / 7, "recall": 6 / 8, "accuracy": 9 / 12}
    assert scores[1] == {"iou": 3 / 6, "dice": 6 / 9, "precision": 3 / 5, "recall": 3 / 4, "accuracy": 9 / 12}
    assert scores[2] == dict.fromkeys(METRICS)
    overall = overall_scores(confusion, [1, 2])
    assert overall["miou"] == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert overall["pixel_accuracy"] == 9 / 12
    assert overall["micro_iou"] == 9 / 15
    assert overall["foreground_micro_dice"] == 6 / 9


def test_class_in_only_one_of_the_two_scores_zero() -> None:
    only_mask = class_scores(np.array([[5, 2], [0, 0]], np.int64))
    only_target = class_scores(np.array([[5, 0], [2, 0]], np.int64))
    for scores in (only_mask[1], only_target[1]):
        assert [scores[name] for name in ("iou", "dice", "precision", "recall")] == [0.0] * 4
        assert scores["accuracy"] == 5 / 7


def test_where_all_is_one_class_there_is_no_chance_to_beat() -> None:
    assert overall_scores(np.array([[5, 0], [0, 0]], np.int64), [1])["kappa"] is None


def test_no_pixel_has_no_score() -> None:
    overall = overall_scores(Counts.zeros(3).confusion, [1, 2])
    assert set(overall.values()) == {None}


def test_count_takes_ids_with_gaps_and_uint16() -> None:
    target = np.array([[7, 300], [65535, 7]], np.uint16)
    mask = np.array([[7, 7], [300, 65535]], np.uint16)
    counts = Counter((7, 300), 65535).count(target, mask)
    np.testing.assert_array_equal(counts.confusion, [[1, 0], [1, 0]])
    assert (counts.ignored_px, counts.unpredicted_px) == (1, 1)
    assert (counts.counted_px, counts.wrong_px) == (2, 1)


def test_count_without_target_gives_areas_only() -> None:
    mask = np.array([[0, 1, 1], [255, 1, 0]], np.uint8)
    counts = Counter((0, 1), 255).count(None, mask)
    np.testing.assert_array_equal(counts.mask_px, [2, 3])
    assert (counts.counted_px, counts.ignored_px, int(counts.target_px.sum())) == (0, 0, 0)


def test_count_refuses_a_value_without_class() -> None:
    with pytest.raises(StoreError, match="the target holds the value 9"):
        Counter((0, 1), 255).count(np.full((2, 2), 9, np.uint8), np.zeros((2, 2), np.uint8))
    with pytest.raises(StoreError, match="the mask holds the value 5"):
        Counter((0, 1), 255).count(np.zeros((2, 2), np.uint8), np.full((2, 2), 5, np.uint8))


def test_foreground_rows_leave_out_only_what_is_named_background() -> None:
    def table(*names: str) -> list[ClassInfo]:
        return [ClassInfo(id=i, name=name, color=(0, 0, 0)) for i, name in enumerate(names)]

    assert foreground_rows(table("Background", "nucleus")) == [1]
    assert foreground_rows(table("water", "land")) == [0, 1]
    assert foreground_rows(table("background")) == [0]


@pytest.mark.parametrize("broken", [{}, {"confusion": [[1]], "target_px": [1, 2], "mask_px": [1]}])
def test_from_json_refuses_what_are_no_counts(broken: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Counts.from_json(broken)
