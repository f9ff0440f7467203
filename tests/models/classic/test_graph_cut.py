"""The cut is the best of all masks: held against a trial of each one."""

import itertools

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from segcore.models.classic.graph_cut import UNITS, least_cut
from tests.models.classic.scenes import answered, discs


def energy(mask: np.ndarray, excess: np.ndarray, down: np.ndarray, right: np.ndarray) -> float:
    wrong = np.where(mask, np.maximum(-excess, 0), np.maximum(excess, 0)).sum()
    return float(wrong + down[mask[1:] != mask[:-1]].sum() + right[mask[:, 1:] != mask[:, :-1]].sum())


@pytest.mark.parametrize("scale", [1.0, 50_000.0])
@pytest.mark.parametrize("seed", range(4))
def test_no_other_mask_has_less_energy(seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    shape = (3, 4)
    excess = np.rint(UNITS * random.normal(0, 0.3, shape)) / UNITS * scale
    down, right = (np.rint(UNITS * 0.3 * random.random(side)) / UNITS * scale for side in ((2, 4), (3, 3)))
    masks = [np.reshape(bits, shape) for bits in itertools.product([False, True], repeat=12)]
    best = min(energy(mask, excess, down, right) for mask in masks)
    found = least_cut(excess, down, right)
    assert energy(found, excess, down, right) == pytest.approx(best, rel=1e-9)
    assert 0 < found.mean() < 1


def test_without_smoothness_it_is_the_threshold() -> None:
    values = discs(0, noise=0.2).mean(axis=0)
    ids = answered("graph_cut", discs(0, noise=0.2), sigma=0, smoothness=0)
    assert (ids == (values > threshold_otsu(values))).mean() > 0.999  # less than a unit from it is neither
    dark = answered("graph_cut", discs(0, noise=0.2), sigma=0, smoothness=0, foreground="dark")
    assert (dark == 1 - ids).mean() > 0.999


def test_noise_is_smoothed_away_and_edges_stay() -> None:
    clean = np.zeros((1, 40, 40))
    clean[0, 10:30, 10:30] = 1
    noisy = np.clip(0.3 + 0.4 * clean + np.random.default_rng(0).normal(0, 0.2, clean.shape), 0, 1)
    plain = answered("graph_cut", noisy, sigma=0, smoothness=0, threshold=0.5)
    cut = answered("graph_cut", noisy, sigma=0, smoothness=0.2, contrast=0.4, threshold=0.5)
    assert (plain != clean[0]).sum() > 100
    assert (cut != clean[0]).sum() < 15
