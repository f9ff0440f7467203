"""Probs: 8-bit probabilities + target -> *histograms of the 256 levels* -> AUC, AP, calibration. numpy only.

    levels[k, is_target, v]   pixels whose probability of class k is v / 255, by whether the target is class k
    top[is_right, v]          pixels whose mask's class has that probability, by whether it is the target's

Histograms add over windows and images; every score is a pure function of their sum, and exact for the 8-bit values:
nothing but what the store rounded is lost.

    auc   area under the ROC curve: how often a pixel of the class is given more than another one, a tie being half
    ap    average precision, sum over thresholds of (R_n - R_n-1) P_n; no interpolation
    ece   expected calibration error (Guo et al., 2017): mean over pixels of |confidence - accuracy| of their bin

The leading axes of the histograms are free; nan = not defined: a class that is not in the target has no score.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.scoring.ratios import Floats, divided, known_mean

Int64s = npt.NDArray[np.int64]

LEVELS = 256
NUM_BINS = 15
"""Those of Guo et al., ((b - 1) / 15, b / 15]; 255 / 15 is whole, so that no level lies astride. 0 is in the first."""
BIN_STARTS = np.array([0, *range(LEVELS // NUM_BINS + 1, LEVELS - 1, LEVELS // NUM_BINS)])
"""First level of each bin."""
PROBABILITY = np.arange(LEVELS) / (LEVELS - 1)
OF_CLASS = ("auc", "ap", "ece")


@dataclass(frozen=True, slots=True)
class ProbCounts:
    """What the counted pixels seen so far add up to; `a + b` is that of both sets of pixels."""

    levels: Int64s
    """(K, 2, 256); nothing for a class without a channel."""
    top: Int64s
    """(2, 256): wrong, right; nothing unless every class has a channel."""
    unknown_px: int = 0
    """Counted in the other scores, but the layer has no probabilities there: tiles that predict did not look at."""

    @classmethod
    def zeros(cls, num_classes: int) -> "ProbCounts":
        """Of no pixel at all."""
        return cls(np.zeros((num_classes, 2, LEVELS), np.int64), np.zeros((2, LEVELS), np.int64))

    def __add__(self, other: "ProbCounts") -> "ProbCounts":
        return ProbCounts(self.levels + other.levels, self.top + other.top, self.unknown_px + other.unknown_px)

    def to_json(self) -> dict[str, Any]:
        """Plain integers and lists; `from_json` is the way back."""
        return {"levels": self.levels.tolist(), "top": self.top.tolist(), "unknown_px": self.unknown_px}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ProbCounts":
        """The counts that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: if `values` are not such counts.
        """
        levels, top = (np.asarray(values[key], np.int64) for key in ("levels", "top"))
        if levels.shape[1:] != (2, LEVELS) or top.shape != (2, LEVELS):
            raise ValueError(f"histograms of {levels.shape} and {top.shape} are none of {LEVELS} levels")
        return cls(levels, top, int(values["unknown_px"]))


def count_probs(
    values: npt.NDArray[np.uint8], rows: list[int], target: npt.NDArray[Any], mask: npt.NDArray[Any], num_classes: int
) -> ProbCounts:
    """Count the pixels of one window.

    Args:
        values: (channels, n): 0 to 255.
        rows: the class number of each channel.
        target: (n,) class numbers 0..K-1; K in both where a pixel does not count.
        mask: likewise.
        num_classes: K.
    """
    counts, has_all, unknown_px = ProbCounts.zeros(num_classes), len(rows) == num_classes, 0
    target = target.astype(np.intp)
    if has_all:  # no pixel that was looked at is 0 in all
        unknown = ~values.any(axis=0)
        unknown_px = int(np.count_nonzero(target[unknown] < num_classes))
        target[unknown] = num_classes
    for channel, row in enumerate(rows):
        by_target = _histogram(target, values[channel], num_classes)
        counts.levels[row] = by_target.sum(axis=0) - by_target[row], by_target[row]
    if has_all:
        own = np.zeros(mask.shape, np.uint8)
        for channel, row in enumerate(rows):
            np.copyto(own, values[channel], where=mask == row)
        right = np.where(target == num_classes, 2, target == mask)
        counts.top[:] = _histogram(right, own, 2)
    return ProbCounts(counts.levels, counts.top, unknown_px)


def _histogram(numbers: npt.NDArray[np.intp], values: npt.NDArray[np.uint8], num: int) -> Int64s:
    """(num, 256): how often each value occurs where the number is 0, 1...; larger numbers do not count."""
    found = np.bincount(numbers * LEVELS + values, minlength=(num + 1) * LEVELS)
    return found.reshape(-1, LEVELS)[:num].astype(np.int64)


def prob_ratios(levels: npt.NDArray[Any]) -> dict[str, Floats]:
    """`OF_CLASS` (..., K) of histograms (..., K, 2, 256)."""
    other, own = (np.asarray(levels[..., side, :], np.float64) for side in (0, 1))
    num_own, num_other = own.sum(-1), other.sum(-1)
    below = np.cumsum(other, axis=-1) - other
    true = np.cumsum(own[..., ::-1], axis=-1)
    taken = np.cumsum((own + other)[..., ::-1], axis=-1)
    precision = np.divide(true, taken, out=np.zeros_like(true), where=taken > 0)
    return {
        "auc": divided((own * (below + other / 2)).sum(-1), num_own * num_other),
        "ap": divided((own[..., ::-1] * precision).sum(-1), num_own),
        "ece": np.where(num_own > 0, calibration_error(levels), np.nan),
    }


def overall_prob_ratios(classes: dict[str, Floats], top: npt.NDArray[Any]) -> dict[str, Floats]:
    """Means over the classes `(...)` of their scores (..., K), and the `ece` of the mask's own class (..., 2, 256)."""
    means = {f"mean_{name}": known_mean(values) for name, values in classes.items()}
    return {**means, "ece": calibration_error(top)}


def calibration_error(histogram: npt.NDArray[Any]) -> Floats:
    """ECE `(...)` of a histogram (..., 2, 256)."""
    px, confidence, right = _binned(histogram)
    return divided(np.abs(confidence - right).sum(-1), px.sum(-1))


def reliability(histogram: npt.NDArray[Any]) -> dict[str, list[Any]]:
    """The reliability diagram of a histogram (2, 256): of each bin its pixels, mean confidence and accuracy."""
    px, confidence, right = _binned(histogram)
    shares = [
        [float(a) if n else None for a, n in zip(divided(part, px), px, strict=True)] for part in (confidence, right)
    ]
    return {"px": [int(n) for n in px], "confidence": shares[0], "accuracy": shares[1]}


def _binned(histogram: npt.NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Of each bin (..., 15): pixels, sum of probabilities, pixels where it is the class."""
    own = np.asarray(histogram[..., 1, :], np.float64)
    both = own + histogram[..., 0, :]
    parts = (np.add.reduceat(part, BIN_STARTS, axis=-1) for part in (both, both * PROBABILITY, own))
    px, confidence, right = parts
    return px, confidence, right
