"""Ratios: sums of pixels -> *scores*, of one set of images or of a thousand resampled ones at once. numpy only.

The leading axes of all arrays are free; the last is over the classes. nan = not defined.

A class that occurs neither in the target nor in the mask has no score and enters no mean, unless `empty` says what it
counts as. One that occurs in only one of the two scores 0 throughout, so that all means are over the same classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

METRICS = ("iou", "dice", "precision", "recall", "accuracy")
"""Scores that every class has; `accuracy` is (tp + tn) / all, the class against the rest."""


@dataclass(frozen=True, slots=True)
class ClassSums:
    """Counted pixels of every class, all float64 `(..., K)`; they add over images."""

    tp: Floats
    """In target and mask."""
    target: Floats
    mask: Floats

    @classmethod
    def of(cls, confusion: npt.NDArray[Any]) -> "ClassSums":
        """The sums in confusion matrices `(..., K, K)`, rows target, columns mask."""
        tp = np.diagonal(confusion, axis1=-2, axis2=-1)
        sums = (tp, confusion.sum(axis=-1), confusion.sum(axis=-2))
        return cls(*(np.asarray(part, np.float64) for part in sums))

    def over(self, rows: Sequence[int]) -> "ClassSums":
        """Some classes taken together, as if they were one."""
        chosen = list(rows)
        return ClassSums(*(part[..., chosen].sum(-1, keepdims=True) for part in (self.tp, self.target, self.mask)))


def divided(part: Floats, whole: Floats) -> Floats:
    """`part / whole`; nan where the whole is nothing."""
    part, whole = np.broadcast_arrays(part, whole)
    found: Floats = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return found


def known_mean(values: Floats) -> Floats:
    """Mean over the last axis of what is defined; nan where nothing is."""
    known = ~np.isnan(values)
    return divided(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1).astype(np.float64))


def class_ratios(sums: ClassSums, everything: Floats, empty: float = np.nan) -> dict[str, Floats]:
    """The scores of every class, see `METRICS`.

    Args:
        sums: of the classes, (..., K).
        everything: (..., 1): all counted pixels.
        empty: the score of a class in neither target nor mask, where any pixel is counted; nan = not defined.
    """
    tp, target, mask = sums.tp, sums.target, sums.mask
    there = target + mask > 0
    found = {
        "iou": divided(tp, target + mask - tp),
        "dice": divided(2 * tp, target + mask),
        "precision": np.where(mask > 0, divided(tp, mask), 0.0),
        "recall": np.where(target > 0, divided(tp, target), 0.0),
        "accuracy": divided(everything - target - mask + 2 * tp, everything),
    }
    absent = np.where(everything > 0, empty, np.nan)
    return {name: np.where(there, values, absent) for name, values in found.items()}


def overall_ratios(sums: ClassSums, foreground: Sequence[int], empty: float = np.nan) -> dict[str, Floats]:
    """Scores over all classes `(...)`: means over the classes that occur (macro), and over pixels (micro).

    `foreground_*` are the same without the background; with two classes `foreground_iou` is the object's IoU.
    For one class per pixel, micro precision, recall and Dice over all classes are the pixel accuracy.
    `frequency_weighted_iou` weighs each class by its pixels in the target. `kappa` (Cohen, 1960) is the agreement
    beyond that of two masks with the same shares of classes thrown at random; not defined where both are one class.

    Args:
        sums: of the classes, (..., K).
        foreground: classes that are not background.
        empty: as in `class_ratios`.
    """
    everything = sums.target.sum(-1, keepdims=True)
    classes = class_ratios(sums, everything, empty)
    micro, front = (class_ratios(sums.over(rows), everything, empty) for rows in (range(sums.tp.shape[-1]), foreground))
    shares = divided(sums.target, everything)
    right = divided(sums.tp.sum(-1), everything[..., 0])
    by_chance = (shares * divided(sums.mask, everything)).sum(-1)
    rows = list(foreground)
    return {
        "pixel_accuracy": right,
        "miou": known_mean(classes["iou"]),
        "mean_dice": known_mean(classes["dice"]),
        "mean_precision": known_mean(classes["precision"]),
        "mean_recall": known_mean(classes["recall"]),
        "mean_accuracy": known_mean(classes["accuracy"]),
        "micro_iou": micro["iou"][..., 0],
        "frequency_weighted_iou": (shares * np.where(shares > 0, classes["iou"], 0.0)).sum(-1),
        "kappa": divided(right - by_chance, 1 - by_chance),
        "foreground_iou": known_mean(classes["iou"][..., rows]),
        "foreground_dice": known_mean(classes["dice"][..., rows]),
        "foreground_precision": known_mean(classes["precision"][..., rows]),
        "foreground_recall": known_mean(classes["recall"][..., rows]),
        "foreground_micro_iou": front["iou"][..., 0],
        "foreground_micro_dice": front["dice"][..., 0],
    }
