"""Instance scores against loops over objects, MONAI's PQ, and hand-made cases."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.metrics.panoptic_quality import compute_panoptic_quality

from segcore.geometry import Grid
from segcore.scoring import instances as module
from segcore.scoring.instances import THRESHOLDS, InstanceCounts, Objects, Overlaps, instance_ratios, num_objects

SHAPE = (120, 130)
Ids = npt.NDArray[np.uint32]


def _objects(seed: int, shape: tuple[int, int] = SHAPE) -> Ids:
    """Touching and overlapping rectangles with large, unordered ids."""
    rng = np.random.default_rng(seed)
    ids = np.zeros(shape, np.uint32)
    for number in rng.permutation(60):
        y, x = rng.integers(0, shape[0] - 5), rng.integers(0, shape[1] - 5)
        ids[y : y + rng.integers(4, 18), x : x + rng.integers(4, 18)] = 4_000_000_000 - 7 * int(number)
    return ids


def _moved(ids: Ids, seed: int) -> Ids:
    """The same objects, each a little off; a few lost, a few new."""
    rng = np.random.default_rng(seed)
    mask = np.zeros_like(ids)
    for number, value in enumerate(np.unique(ids[ids > 0])[4:]):
        step = rng.integers(-2, 3, 2)
        mask[np.roll(ids == value, step, (0, 1))] = number + 1
    mask[:6, :9] = 9_000
    return mask


def _counts(target: Ids, mask: Ids, counted: npt.NDArray[np.bool_], cell: tuple[int, int] = SHAPE) -> InstanceCounts:
    """Of objects of one class."""
    overlaps, grid = Overlaps(1), Grid(target.shape, cell)
    numbers = np.where(counted, 0, 1).astype(np.uint8)
    for window in map(grid.window, grid.indices()):
        at = window.slices
        overlaps.add(Objects(target[at], numbers[at]), Objects(mask[at], numbers[at]))
    return overlaps.counts()


def _of(counts: InstanceCounts, row: int) -> InstanceCounts:
    return InstanceCounts(*(getattr(counts, name)[row] for name in InstanceCounts.__slots__))


def _scores(counts: InstanceCounts, row: int = 0) -> dict[str, float]:
    """Of all objects (row 0), or of class `row - 1`."""
    return {name: float(values[row]) for name, values in instance_ratios(counts).items()}


def _brute_force(target: Ids, mask: Ids, counted: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Object by object, on the whole arrays."""
    targets = {t: (target == t) & counted for t in np.unique(target[counted]) if t}
    masks = {m: (mask == m) & counted for m in np.unique(mask[counted]) if m}
    void = {m: ((mask == m) & ~counted).sum() / (mask == m).sum() > 0.5 for m in masks}
    iou = {(t, m): (a & b).sum() / (a | b).sum() for t, a in targets.items() for m, b in masks.items()}
    precisions, found = [], {}
    for threshold in THRESHOLDS:
        matches = {pair: value for pair, value in iou.items() if value > threshold}
        tp, fn = len(matches), len(targets) - len(matches)
        fp = sum(m not in {pair[1] for pair in matches} and not void[m] for m in masks)
        precisions.append(tp / (tp + fp + fn))
        if threshold == 0.5:
            found["sq"] = float(np.mean(list(matches.values())))
            found["rq"] = found["f1"] = tp / (tp + fp / 2 + fn / 2)
            found["pq"] = sum(matches.values()) / (tp + fp / 2 + fn / 2)
            found |= {"precision": tp / (tp + fp), "recall": tp / (tp + fn)}
    intersection = union = 0
    used = set()
    for t, a in targets.items():
        m = max(masks, key=lambda m, t=t: iou[t, m])  # type: ignore[misc]
        if iou[t, m] == 0:
            union += int(a.sum())
            continue
        used.add(m)
        intersection, union = intersection + int((a & masks[m]).sum()), union + int((a | masks[m]).sum())
    union += sum(int(b.sum()) for m, b in masks.items() if m not in used and not void[m])
    return {**found, "ap": float(np.mean(precisions)), "ap50": precisions[0], "ap75": precisions[5]} | {
        "aji": intersection / union
    }


@pytest.mark.parametrize("cell", [SHAPE, (16, 16), (120, 7)])
@pytest.mark.parametrize("ignored", [0.0, 0.25])
def test_scores_equal_loops_over_objects(
    cell: tuple[int, int], ignored: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMPACT_ROWS", 50)
    target = _objects(1)
    mask = _moved(target, 2)
    counted = np.ones(SHAPE, bool)
    counted[:, : int(ignored * SHAPE[1])] = False
    counts = _counts(target, mask, counted, cell)
    expected = _brute_force(target, mask, counted)
    found = _scores(counts)
    assert found == pytest.approx(expected, rel=1e-12)
    assert _scores(counts, 1) == found  # there is one class
    assert 0 < found["ap"] < found["ap50"] < 1
    assert num_objects(_of(counts, 0))["target_objects"] == len(np.unique(target[counted & (target > 0)]))


def test_panoptic_quality_equals_monai() -> None:
    target = _objects(3)
    mask = _moved(target, 4)
    _, small_target = np.unique(target, return_inverse=True)
    _, small_mask = np.unique(mask, return_inverse=True)
    found = _scores(_counts(target, mask, np.ones(SHAPE, bool)))
    pictures = [torch.from_numpy(part.reshape(SHAPE)) for part in (small_mask, small_target)]
    for name in ("pq", "sq", "rq"):
        theirs = compute_panoptic_quality(*pictures, metric_name=name)  # type: ignore[arg-type]
        assert found[name] == pytest.approx(float(theirs), rel=1e-5)


def _row(*parts: tuple[int, int]) -> Ids:
    """One row of runs: (id, length)."""
    return np.concatenate([np.full(length, value, np.uint32) for value, length in parts])[None]


@pytest.mark.parametrize(
    ("target", "mask", "expected"),
    [
        # IoU of exactly one half is no match
        (_row((1, 10)), _row((1, 5), (0, 5)), {"pq": 0.0, "sq": None, "f1": 0.0, "ap50": 0.0, "aji": 0.5}),
        (_row((1, 10)), _row((5, 6), (0, 4)), {"pq": 0.6, "sq": 0.6, "f1": 1.0, "ap": 0.2, "aji": 0.6}),
        # 0.7 and 0.3 of one object: the smaller part is a false positive, and adds to AJI's union
        (_row((1, 10)), _row((1, 7), (2, 3)), {"sq": 0.7, "f1": 2 / 3, "pq": 1.4 / 3, "ap50": 0.5, "aji": 7 / 13}),
        # one mask object over two: AJI counts it for both (Kumar's rule), F1 for one
        (_row((1, 6), (2, 4)), _row((3, 10)), {"f1": 2 / 3, "sq": 0.6, "aji": 10 / 20, "ap50": 0.5}),
        (_row((0, 4)), _row((7, 4)), {"pq": 0.0, "f1": 0.0, "ap": 0.0, "aji": 0.0, "recall": 0.0}),
        (_row((7, 4)), _row((0, 4)), {"pq": 0.0, "f1": 0.0, "ap": 0.0, "aji": 0.0, "precision": 0.0}),
    ],
)
def test_scores_of_hand_made_rows(target: Ids, mask: Ids, expected: dict[str, float | None]) -> None:
    found = _scores(_counts(target, mask, np.ones(target.shape, bool), target.shape))
    for name, value in expected.items():
        assert found[name] == pytest.approx(np.nan if value is None else value, nan_ok=True), name


def test_object_where_nothing_counts_is_no_false_positive() -> None:
    target, mask = _row((1, 10), (0, 20)), _row((1, 10), (0, 4), (2, 6), (0, 10))
    counted = np.ones(target.shape, bool)
    assert _scores(_counts(target, mask, counted, target.shape))["f1"] == pytest.approx(2 / 3)
    counted[0, 14:17] = False  # half of it: still one
    assert _scores(_counts(target, mask, counted, target.shape))["f1"] == pytest.approx(2 / 3)
    counted[0, 17] = False
    assert _scores(_counts(target, mask, counted, target.shape))["f1"] == 1.0
    counted[:] = False
    assert set(num_objects(_of(_counts(target, mask, counted, target.shape), 0)).values()) == {0}


def test_no_object_at_all_is_not_defined() -> None:
    empty = np.zeros((4, 4), np.uint32)
    counts = _counts(empty, empty, np.ones((4, 4), bool), (4, 4))
    assert all(np.isnan(values).all() for values in instance_ratios(counts).values())
    assert all((values == 1.0).all() for values in instance_ratios(counts, empty=1.0).values())
    assert Overlaps(1).counts().to_json() == counts.to_json() == InstanceCounts.zeros(1).to_json()


def test_counts_come_back_from_json_and_refuse_others() -> None:
    target = _objects(5)
    counts = _counts(target, _moved(target, 6), np.ones(SHAPE, bool))
    back = InstanceCounts.from_json(counts.to_json())
    assert back.to_json() == counts.to_json()
    broken: dict[str, Any] = {**counts.to_json(), "tp": [1.0]}
    with pytest.raises(ValueError, match="shapes"):
        InstanceCounts.from_json(broken)


def test_memory_is_that_of_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_ROWS", 100)
    overlaps = Overlaps(1)
    ids = np.repeat(np.arange(1, 51, dtype=np.uint32), 40).reshape(50, 40)
    for _ in range(200):
        overlaps.add(Objects(ids, np.zeros(ids.shape, np.uint8)), Objects(ids, np.zeros(ids.shape, np.uint8)))
        assert sum(map(len, overlaps._tables)) <= 50 + 100 + 50
    assert overlaps.counts().tp[0, 0] == 50


@pytest.mark.parametrize("cell", [SHAPE, (16, 16)])
def test_scores_by_class_equal_those_of_the_class_alone(cell: tuple[int, int]) -> None:
    target = _objects(7)
    mask = _moved(target, 8)
    counted = np.ones(SHAPE, bool)
    counted[:, :30] = False
    # Every object has one class; that of the mask's is its partner's, but for every fifth.
    own = [target % 3, np.zeros_like(mask)]
    for number, value in enumerate(np.unique(target[target > 0])[4:]):
        own[1][mask == number + 1] = (value + (number % 5 == 0)) % 3
    classes = [np.where(counted, part, 3).astype(np.uint8) for part in own]
    overlaps, grid = Overlaps(3), Grid(SHAPE, cell)
    for window in map(grid.window, grid.indices()):
        at = window.slices
        overlaps.add(Objects(target[at], classes[0][at]), Objects(mask[at], classes[1][at]))
    counts = overlaps.counts()
    assert _scores(counts) == pytest.approx(_brute_force(target, mask, counted), rel=1e-12)
    for number in range(3):
        own_target, own_mask = (np.where(part == number, ids, 0) for ids, part in zip((target, mask), own, strict=True))
        expected = _brute_force(own_target, own_mask, counted)
        assert _scores(counts, 1 + number) == pytest.approx(expected, rel=1e-12), number
