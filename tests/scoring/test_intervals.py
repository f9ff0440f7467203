"""Intervals against a loop of draws, a closed form, and the rules of groups."""

import numpy as np
import pytest

from segcore.scoring.intervals import LEVEL, SEED, Sums, Tree, bootstrap, difference, middle, total
from segcore.scoring.ratios import divided


def _ratio(sums: Sums) -> Tree:
    return {"overall": {"iou": divided(sums["part"], sums["whole"])}, "per_class": {"iou": sums["many"]}}


def _sums(num: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    whole = rng.integers(50, 100, num).astype(float)
    return {"part": np.round(whole * rng.random(num)), "whole": whole, "many": rng.random((num, 3))}


def test_draws_equal_a_loop_over_images() -> None:
    sums, groups = _sums(7), list("aabccde")
    trees = bootstrap(groups, [sums], _ratio, 50)
    assert trees is not None
    names = sorted(set(groups))
    drawn = np.random.default_rng(SEED).multinomial(5, [0.2] * 5, size=50)
    for row, counts in enumerate(drawn):
        images: list[int] = []
        for name, times in zip(names, counts, strict=True):
            images += [i for i, group in enumerate(groups) if group == name] * int(times)
        expected = sums["part"][images].sum() / sums["whole"][images].sum()
        assert trees[0]["overall"]["iou"][row] == pytest.approx(expected)
        np.testing.assert_allclose(trees[0]["per_class"]["iou"][row], sums["many"][images].sum(axis=0))


def test_draws_do_not_depend_on_how_many_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sums, groups = _sums(20), [str(i) for i in range(20)]
    once = bootstrap(groups, [sums], _ratio, 100)
    monkeypatch.setattr("segcore.scoring.intervals.DRAWN_AT_ONCE", 60)
    again = bootstrap(groups, [sums], _ratio, 100)
    assert once is not None
    assert again is not None
    np.testing.assert_array_equal(once[0]["overall"]["iou"], again[0]["overall"]["iou"])


def test_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(0.7, 0.1, 400)
    sums = {"part": values, "whole": np.ones(400), "many": np.zeros((400, 1))}
    trees = bootstrap([str(i) for i in range(400)], [sums], _ratio, 4000)
    assert trees is not None
    interval = middle(trees[0]["overall"]["iou"])
    half = 1.96 * values.std() / np.sqrt(400)
    assert LEVEL == 0.95
    assert interval == pytest.approx([values.mean() - half, values.mean() + half], abs=0.05 * half)


def test_images_of_one_group_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(2).random(10), 10)
    sums = {"part": values, "whole": np.ones(100), "many": np.zeros((100, 1))}
    widths = []
    for groups in ([str(i) for i in range(100)], [str(i // 10) for i in range(100)]):
        trees = bootstrap(groups, [sums], _ratio, 2000)
        assert trees is not None
        low, high = middle(trees[0]["overall"]["iou"]) or (0, 0)
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0] * np.sqrt(10), rel=0.15)


def test_paired_difference_cancels_what_both_share() -> None:
    one = _sums(30)
    other = {**one, "part": one["part"] - 0.01 * one["whole"]}
    trees = bootstrap([str(i) for i in range(30)], [one, other], _ratio, 500)
    assert trees is not None
    gaps = difference(*trees)
    assert middle(gaps["overall"]["iou"]) == pytest.approx([0.01, 0.01])
    own = middle(trees[0]["overall"]["iou"])
    assert own is not None
    assert own[1] - own[0] > 0.05


def test_one_group_or_no_draws_has_no_interval() -> None:
    assert bootstrap(["a", "a"], [_sums(2)], _ratio, 100) is None
    assert bootstrap(["a", "b"], [_sums(2)], _ratio, 0) is None
    assert bootstrap([], [_sums(0)], _ratio, 10) is None
    assert middle(np.full(3, np.nan)) is None
    assert middle(np.array([np.nan, 0.25])) == [0.25, 0.25]
    np.testing.assert_array_equal(total(_sums(3))["whole"], [_sums(3)["whole"].sum()])
