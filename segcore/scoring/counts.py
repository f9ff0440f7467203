"""Counts: mask + target pixels -> *counts* -> scores. numpy only.

Counts add over tiles, shards and images; ratios do not. So pixels are turned into one histogram as they
stream by, histograms are summed, and every score is a pure function of the sum, taken once at the end.

    confusion[i, j] = pixels whose target is class i and whose mask is class j (rows: target, columns: mask)

A class that occurs neither in the target nor in the mask has no score (None) and enters no mean: see `ratios`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.classes import ClassInfo, is_background
from segcore.errors import StoreError
from segcore.scoring.ratios import METRICS, ClassSums, class_ratios, overall_ratios

__all__ = ["METRICS", "Counter", "Counts", "class_scores", "foreground_rows", "overall_scores"]

Int64s = npt.NDArray[np.int64]
Scores = dict[str, float | None]


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
    def unlabelled_px(self) -> int:
        """Pixels of which nobody said what they are."""
        return self.ignored_px + self.invalid_px

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

    def numbers(
        self, target: npt.NDArray[Any], mask: npt.NDArray[Any], valid: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Class numbers of target and mask, uint8 or uint16; K in both where a pixel does not count.

        Args:
            target: class ids, any shape.
            mask: likewise.
            valid: likewise, True = usable.
        """
        table = self._number_of.astype(np.uint8 if self.num_classes < 254 else np.uint16)
        numbers = table[target], table[mask]
        uncounted = ~valid | (numbers[0] >= self.num_classes) | (numbers[1] >= self.num_classes)
        for part in numbers:
            part[uncounted] = self.num_classes
        return numbers

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
    """The scores of every class, see `METRICS`.

    Args:
        confusion: (K, K) int64, rows target, columns mask.
    """
    sums = ClassSums.of(confusion)
    found = class_ratios(sums, sums.target.sum(keepdims=True))
    return [{name: plain(values[row]) for name, values in found.items()} for row in range(confusion.shape[0])]


def overall_scores(confusion: Int64s, foreground: Sequence[int], empty: float | None = None) -> Scores:
    """Scores over all classes, see `overall_ratios`.

    Args:
        confusion: (K, K) int64, rows target, columns mask.
        foreground: rows that are not background, see `foreground_rows`.
        empty: the score of a class in neither target nor mask; None = not defined.
    """
    found = overall_ratios(ClassSums.of(confusion), foreground, np.nan if empty is None else empty)
    return {name: plain(value) for name, value in found.items()}


def plain(score: Any) -> float | None:
    """A score for JSON: None for nan, which means that it is not defined."""
    return None if np.isnan(score) else float(score)


def foreground_rows(classes: Sequence[ClassInfo]) -> list[int]:
    """Rows of the classes that are not background: all but the one *named* background, in any case.

    Not id 0: in many tables (land cover, street scenes) 0 is a class like the others.
    """
    rows = [row for row, info in enumerate(classes) if not is_background(info.name)]
    return rows or list(range(len(classes)))


def has_background(classes: Sequence[ClassInfo]) -> bool:
    """True if scores without background are others than those of all classes."""
    return len(foreground_rows(classes)) < len(classes)
