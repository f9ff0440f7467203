"""Distances against plain loops and closed forms; the share of false alarms."""

import numpy as np
import pytest

from segcore.drift.distance import Spread, beyond, shrinkage, usual


def _rows(n: int, p: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)) @ rng.normal(size=(p, p)) + 10


def test_shrinkage_is_that_of_ledoit_and_wolf() -> None:
    rows = _rows(12, 5)
    x = rows - rows.mean(axis=0)
    n, p = x.shape
    sample = x.T @ x / n
    mean = np.trace(sample) / p
    apart = ((sample - mean * np.eye(p)) ** 2).sum() / p
    noise = sum(((np.outer(row, row) - sample) ** 2).sum() / p for row in x) / n**2
    assert shrinkage(x) == pytest.approx(min(noise, apart) / apart)
    assert shrinkage(np.zeros((4, 3))) == 1.0


def test_without_shrinkage_it_is_the_distance_of_mahalanobis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segcore.drift.distance.shrinkage", lambda _: 0.0)
    rows, image = _rows(40, 4), _rows(1, 4, seed=5)[0]
    gap = image - rows.mean(axis=0)
    wanted = np.sqrt(gap @ np.linalg.inv(np.cov(rows.T)) @ gap)
    assert Spread(rows, np.full(4, 1e-9)).distance(image) == pytest.approx(wanted)


@pytest.mark.parametrize(("n", "p"), [(4, 2), (9, 4), (30, 6), (6, 20)])
def test_an_image_left_out_is_held_against_the_others_alone(n: int, p: int) -> None:
    rows, least = _rows(n, p), np.full(p, 1e-9)
    least[0] = 50  # a statistic that is all noise
    for number, distance in enumerate(Spread(rows, least).left_out()):
        others = np.delete(rows, number, axis=0)
        scale = np.maximum(others.std(axis=0, ddof=1), least)
        z = (others - others.mean(axis=0)) / scale
        kept = 1 - shrinkage(z)
        noise = np.diag(1 - z.var(axis=0, ddof=1)).clip(0)
        gap = (rows[number] - others.mean(axis=0)) / scale
        covariance = kept * (np.cov(z.T) + noise) + (1 - kept) * np.eye(p)
        assert distance == pytest.approx(np.sqrt(gap @ np.linalg.inv(covariance) @ gap))


def test_of_two_images_that_are_left_only_the_deviations_are_known() -> None:
    rows, least = _rows(3, 4), np.full(4, 1e-9)
    gap = rows[2] - rows[:2].mean(axis=0)
    assert Spread(rows, least).left_out()[2] == pytest.approx(np.linalg.norm(gap / rows[:2].std(axis=0, ddof=1)))


def test_a_deviation_below_the_least_is_not_believed() -> None:
    rows = np.array([[100.0], [100.001], [99.999], [100.0]])
    assert Spread(rows, np.array([2.0])).distance(np.array([102.0])) == pytest.approx(1.0, rel=0.01)


def test_one_image_in_a_hundred_is_a_false_alarm() -> None:
    alarms = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = rng.exponential(size=(150, 3))  # nothing like a normal distribution
        spread = Spread(rows, np.full(3, 1e-9))
        limit = beyond(spread.left_out())
        alarms += [spread.distance(row) > limit for row in rng.exponential(size=(200, 3))]
    assert 0.004 < np.mean(alarms) < 0.018


@pytest.mark.parametrize("p", [5, 30])
@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_of_few_images_false_alarms_are_no_more_than_one_in_their_number_and_one(n: int, p: int) -> None:
    alarms = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        spread = Spread(rng.normal(size=(n, p)), np.full(p, 1e-9))
        limit = beyond(spread.left_out())
        alarms += [spread.distance(row) > limit for row in rng.normal(size=(10, p))]
    assert np.mean(alarms) < 1.2 / (n + 1)


def test_few_images_have_their_largest_score_for_a_limit() -> None:
    assert beyond(np.array([3.0, 1.0, 2.0])) == 3.0
    assert beyond(np.arange(1.0, 200.0)) == 198.0  # 0.99 * 200


def test_the_usual_distance_is_never_nothing() -> None:
    assert usual(np.zeros(5), 9) == pytest.approx(0.3)
    assert usual(np.array([1.0, 4.0, 2.0]), 9) == 2.0
