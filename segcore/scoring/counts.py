"""Counts: mask + target pixels -> *counts* -> scores. numpy only.

Counts add over tiles, shards and images; ratios do not. So pixels are turned into one histogram as they
stream by, histograms are summed, and every score is a pure function of the sum, taken once at the end.

    confusion[i, j] = pixels whose target is class i and whose mask is class j (rows: target, columns: mask)

A class that occurs neither in the target nor in the mask has no score (None) and enters no mean. One that
occurs in only one of the two scores 0 throughout, so that all means are over the same classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.classes import ClassInfo
from segcore.errors import StoreError

Int64s = npt.NDArray[np.int64]
Scores = dict[str, float | None]

METRICS = ("iou", "dice", "precision", "recall", "accuracy")
"""Scores that every class has; `accuracy` is (tp + tn) / all, the class against the rest."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the pixels seen so far add up to; `a + b` is the counts of both sets of pixels.

    Only usable pixels (`valid`) enter `confusion`, `target_px` and `mask_px`.
    """

    confusion: Int64s
    """(K, K): target known and mask known; all scores come from here."""
    target_px: Int64s
    """(K,): pixels of each class in the target, whatever the mask says."""
    mask_px: Int64s
    """(K,): pixels of each class in the mask, whatever the target says."""
    ignored_px: int = 0
    """Usable pixels whose target is `ignore`."""
    unpredicted_px: int = 0
    """Usable pixels with a target where the mask holds `ignore` (nodata)."""
    invalid_px: int = 0
    """Pixels that are not usable."""

    @classmethod
    def zeros(cls, num_classes: int) -> "Counts":
        """Counts of no pixel at all."""
        empty = np.zeros(num_classes, np.int64)
        return cls(np.zeros((num_classes, num_classes), np.int64), empty, empty.copy())

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.confusion + other.confusion,
            self.target_px + other.target_px,
            self.mask_px + other.mask_px,
            self.ignored_px + other.ignored_px,
            self.unpredicted_px + other.unpredicted_px,
            self.invalid_px + other.invalid_px,
        )

    @property
    def num_classes(self) -> int:
        return int(self.confusion.shape[0])

    @property
    def counted_px(self) -> int:
        """Pixels that the scores are about."""
        return int(self.confusion.sum())

    @property
    def wrong_px(self) -> int:
        """Counted pixels where mask and target differ."""
        return int(self.confusion.sum() - np.trace(self.confusion))

    def to_json(self) -> dict[str, Any]:
        """Plain integers and lists; `from_json` is the way back."""
        return {
            "confusion": self.confusion.tolist(),
            "target_px": self.target_px.tolist(),
            "mask_px": self.mask_px.tolist(),
            "ignored_px": self.ignored_px,
            "unpredicted_px": self.unpredicted_px,
            "invalid_px": self.invalid_px,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Counts":
        """The counts that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: if `values` are not such counts.
        """
        target_px = np.asarray(values["target_px"], np.int64)
        mask_px = np.asarray(values["mask_px"], np.int64)
        confusion = np.asarray(values["confusion"], np.int64)
        if confusion.shape != (target_px.size, mask_px.size) or target_px.size != mask_px.size:
            raise ValueError(f"confusion {confusion.shape} does not fit {target_px.size} classes")
        rest = {key: int(values[key]) for key in ("ignored_px", "unpredicted_px", "invalid_px")}
        return cls(confusion, target_px, mask_px, **rest)


class Counter:
    """Counts pixels of class ids, given as they are stored: `Counter(ids, ignore).count(target, mask, valid)`."""

    def __init__(self, class_ids: Sequence[int], ignore: int) -> None:
        """Prepare the way from pixel values to class numbers 0..K-1.

        Args:
            class_ids: the pixel value of each class, in the order of the counts' rows.
            ignore: the pixel value that counts as neither right nor wrong (255, or 65535 in uint16).
        """
        assert len(set(class_ids)) == len(class_ids), f"class ids {class_ids} are not distinct"
        self.num_classes = len(class_ids)
        # Two numbers behind the classes: K = ignore, K + 1 = a value that no class has.
        self._number_of = np.full(65536, self.num_classes + 1, np.intp)
        self._number_of[list(class_ids)] = np.arange(self.num_classes)
        self._number_of[ignore] = self.num_classes

    def count(
        self,
        target: npt.NDArray[np.integer[Any]] | None,
        mask: npt.NDArray[np.integer[Any]],
        valid: npt.NDArray[np.bool_] | None = None,
    ) -> Counts:
        """Count one window.

        Args:
            target: class ids, uint8 or uint16, any shape; None where there is no target.
            mask: class ids of the same shape.
            valid: same shape, True = usable; None = all of them.

        Raises:
            StoreError: a pixel holds a value that is neither a class nor `ignore`.
        """
        invalid_px = 0
        if valid is not None and not valid.all():
            mask, target = mask[valid], None if target is None else target[valid]
            invalid_px = int(valid.size - mask.size)
        side = self.num_classes + 2
        mask_number = self._number_of[mask.ravel()]
        target_number: npt.NDArray[np.intp] | int = self.num_classes
        if target is not None:
            target_number = self._number_of[target.ravel()]
        histogram = np.bincount(target_number * side + mask_number, minlength=side * side).reshape(side, side)
        if histogram[-1].any() or histogram[:, -1].any():
            raise StoreError(self._unknown_value(target, mask))
        return self._counts(histogram.astype(np.int64), target is not None, invalid_px)

    def _counts(self, histogram: Int64s, has_target: bool, invalid_px: int) -> Counts:
        k = self.num_classes
        return Counts(
            confusion=histogram[:k, :k],
            target_px=histogram[:k].sum(axis=1),
            mask_px=histogram[:, :k].sum(axis=0),
            ignored_px=int(histogram[k].sum()) if has_target else 0,
            unpredicted_px=int(histogram[:k, k].sum()),
            invalid_px=invalid_px,
        )

    def _unknown_value(self, target: npt.NDArray[np.integer[Any]] | None, mask: npt.NDArray[np.integer[Any]]) -> str:
        for what, pixels in (("target", target), ("mask", mask)):
            if pixels is not None:
                unknown = pixels[self._number_of[pixels] == self.num_classes + 1]
                if unknown.size:
                    return f"the {what} holds the value {int(unknown.flat[0])}, which its class table does not have"
        raise AssertionError("no unknown value")


def class_scores(confusion: Int64s) -> list[Scores]:
    """The scores of every class, see `METRICS`; all None where it occurs in neither target nor mask.

    Args:
        confusion: (K, K) int64, rows target, columns mask.
    """
    tp = np.diagonal(confusion)
    fn = confusion.sum(axis=1) - tp
    fp = confusion.sum(axis=0) - tp
    everything = int(confusion.sum())
    return [_scores_of(int(t), int(p), int(n), everything) for t, p, n in zip(tp, fp, fn, strict=True)]


def _scores_of(tp: int, fp: int, fn: int, everything: int) -> Scores:
    if tp + fp + fn == 0:
        return dict.fromkeys(METRICS)
    return {
        "iou": tp / (tp + fp + fn),
        "dice": 2 * tp / (2 * tp + fp + fn),
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": tp / (tp + fn) if tp + fn else 0.0,
        "accuracy": (everything - fp - fn) / everything,
    }


def overall_scores(confusion: Int64s, foreground: Sequence[int]) -> Scores:
    """Scores over all classes: means over the classes that occur (macro), and over pixels (micro).

    `foreground_*` are the same without the background; with two classes `foreground_iou` is the object's IoU.
    For one class per pixel, micro precision, recall and Dice over all classes are the pixel accuracy.

    Args:
        confusion: (K, K) int64, rows target, columns mask.
        foreground: rows that are not background, see `foreground_rows`.
    """
    per_class = class_scores(confusion)
    right, everything = int(np.trace(confusion)), int(confusion.sum())
    return {
        "pixel_accuracy": right / everything if everything else None,
        "miou": _mean([scores["iou"] for scores in per_class]),
        "mean_dice": _mean([scores["dice"] for scores in per_class]),
        "mean_precision": _mean([scores["precision"] for scores in per_class]),
        "mean_recall": _mean([scores["recall"] for scores in per_class]),
        "mean_accuracy": _mean([scores["accuracy"] for scores in per_class]),
        "micro_iou": _micro(confusion, range(confusion.shape[0]))["iou"],
        "foreground_iou": _mean([per_class[row]["iou"] for row in foreground]),
        "foreground_dice": _mean([per_class[row]["dice"] for row in foreground]),
        "foreground_precision": _mean([per_class[row]["precision"] for row in foreground]),
        "foreground_recall": _mean([per_class[row]["recall"] for row in foreground]),
        "foreground_micro_iou": _micro(confusion, foreground)["iou"],
        "foreground_micro_dice": _micro(confusion, foreground)["dice"],
    }


def foreground_rows(classes: Sequence[ClassInfo]) -> list[int]:
    """Rows of the classes that are not background: all but the one *named* background, in any case.

    Not id 0: in many tables (land cover, street scenes) 0 is a class like the others.
    """
    rows = [row for row, info in enumerate(classes) if info.name.strip().lower() != "background"]
    return rows or list(range(len(classes)))


def _micro(confusion: Int64s, rows: Sequence[int]) -> Scores:
    """tp, fp and fn summed over some classes before the ratio is taken."""
    chosen = list(rows)
    tp = int(np.diagonal(confusion)[chosen].sum())
    in_target, in_mask = int(confusion[chosen].sum()), int(confusion[:, chosen].sum())
    return _scores_of(tp, in_mask - tp, in_target - tp, max(1, int(confusion.sum())))


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None
