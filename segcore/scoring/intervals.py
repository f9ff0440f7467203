"""Intervals: sums per image -> scores of all images -> their *95 % intervals*, by drawing the images again.

Images, not pixels, are what is drawn: neighbouring pixels are alike, and say little about the next image. Images of one
group (a patient, a site) are drawn together. The percentile bootstrap (Efron, 1979): of 1000 draws with replacement,
as many as there are groups, the middle 95 % of the scores. Every score is a ratio of sums (or a mean of such), so that
all draws are one product of matrices. Two masks are compared on the same draws: what an image adds to both cancels out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.scoring.ratios import Floats

Sums = Mapping[str, Floats]
"""Arrays `(images, ...)` that add over images; of one draw each: `(draws, ...)`."""
Tree = dict[str, Any]
"""Scores by name, nested; the leaves are arrays `(draws, ...)`."""

LEVEL = 0.95
FEWEST = 6
"""Images (or groups) from which on an interval without 0 tells a difference from chance: of n differences that mean
nothing, all lie on one side of 0, and then all draws do, with a chance of 2^(1 - n): 6 % of five, 3 % of six.
"""
SEED = 0
DRAWN_AT_ONCE = 1 << 22
"""Draws times images, or times what is summed of each, as float64."""


def total(sums: Sums) -> dict[str, Floats]:
    """All images taken together: `(1, ...)`."""
    return {name: part.sum(axis=0, keepdims=True) for name, part in sums.items()}


def bootstrap(
    groups: Sequence[str], parts: Sequence[Sums], scores: Callable[[Sums], Tree], resamples: int
) -> list[Tree] | None:
    """The scores of images that are drawn again and again; None where there are fewer than two groups to draw from.

    Args:
        groups: of each image; images of one group are drawn together.
        parts: sums over the same images; all get the same draws.
        scores: of sums over a draw's images.
        resamples: number of draws; 0 = None.
    """
    names, group_of = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    if len(names) < 2 or resamples == 0:
        return None
    generator = np.random.default_rng(SEED)
    widest = max(part[0].size for sums in parts for part in sums.values())
    step = max(1, DRAWN_AT_ONCE // max(len(groups), widest))
    found: list[list[Tree]] = [[] for _ in parts]
    for begin in range(0, resamples, step):
        num = min(step, resamples - begin)
        drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=num)
        weights = drawn[:, group_of].astype(np.float64)
        for sums, trees in zip(parts, found, strict=True):
            trees.append(scores({name: _weighted(weights, part) for name, part in sums.items()}))
    return [_joined(trees) for trees in found]


def _weighted(weights: Floats, part: Floats) -> Floats:
    summed: Floats = (weights @ part.reshape(len(part), -1)).reshape(len(weights), *part.shape[1:])
    return summed


def _joined(trees: Sequence[Tree]) -> Tree:
    return {
        name: _joined([tree[name] for tree in trees])
        if isinstance(value, dict)
        else np.concatenate([tree[name] for tree in trees])
        for name, value in trees[0].items()
    }


def difference(one: Tree, other: Tree) -> Tree:
    """`one - other`, leaf by leaf, of what both have."""
    return {
        name: difference(value, other[name]) if isinstance(value, dict) else value - other[name]
        for name, value in one.items()
        if name in other
    }


def middle(draws: npt.NDArray[np.float64]) -> list[float] | None:
    """The interval `[low, high]` of draws `(draws,)`; None if the score is defined in none of them."""
    known = draws[~np.isnan(draws)]
    if not known.size:
        return None
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(known, (tail, 100 - tail))
    return [float(low), float(high)]
