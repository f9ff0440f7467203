"""Instances: object ids of target and mask, window by window -> overlaps -> *PQ, AP, AJI, F1*. numpy only.

Objects are compared through one sparse table, which adds over windows however they cut the objects:

    target id   mask id   pixels in both      0 = no object; target id -1 = the pixel does not count

Memory grows with the pairs of objects that touch, not with pixels. Objects match where their IoU is *above* a
threshold; from 0.5 on an object can have one partner at most, so that nothing has to be assigned. Taken together they
match whatever their class; by class, what counts of an object is its pixels of that class.

    AP      TP / (TP + FP + FN) at one threshold, and its mean over 0.5, 0.55 ... 0.95: that of the Data Science Bowl
            2018 and of StarDist. Masks carry no confidence, so it is not COCO's area under a curve
    F1      2 TP / (2 TP + FP + FN) at 0.5
    PQ      SQ * RQ (Kirillov et al., 2019): SQ is the mean IoU of the matched, RQ is F1
    AJI     Kumar et al., 2017: each target object with its mask object of highest IoU, intersections over unions; what
            no target object took adds to the unions

Pixels that do not count belong to no object. A mask object that lies there by more than half and matches nothing is no
false positive (the void rule of PQ); the rest of a target object is the object.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.scoring.ratios import Floats, divided

Ids = npt.NDArray[np.integer[Any]]
Int64s = npt.NDArray[np.int64]

THRESHOLDS: tuple[float, ...] = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
UNCOUNTED = -1
VOID_SHARE = 0.5
"""A mask object with a larger share of pixels that do not count is dropped where it matches nothing."""
COMPACT_ROWS = 1 << 20
"""Rows of the table that are gathered before equal pairs are added up again."""


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of one label in one window, of any shape."""

    ids: Ids
    """0 = no object."""
    numbers: Ids
    """Class numbers 0..K-1; K = the pixel does not count."""


class Overlaps:
    """Gathers the table of one image: `add` for every window, then `counts`.

    Inside, ids carry the class of the pixel: id * (K + 1) + class number.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._tables: list[Int64s] = []

    def add(self, target: Objects, mask: Objects) -> None:
        """Add one window; every pixel once. The same pixels count in both."""
        parts = [part.reshape(-1) for part in (target.ids, target.numbers, mask.ids, mask.numbers)]
        if not parts[0].size:
            return
        # Runs of one pair: far fewer than pixels, and what is sorted afterwards.
        begins = np.flatnonzero(np.concatenate([[True], np.logical_or.reduce([p[1:] != p[:-1] for p in parts])]))
        ids, numbers, mask_ids, mask_numbers = (part[begins].astype(np.int64) for part in parts)
        coded = np.where(numbers == self._num_classes, UNCOUNTED, self._coded(ids, numbers))
        runs = np.stack([coded, self._coded(mask_ids, mask_numbers), np.diff(begins, append=parts[0].size)], axis=1)
        self._tables.append(_summed(runs))
        if len(self._tables) > 1 and sum(map(len, self._tables[1:])) > max(COMPACT_ROWS, len(self._tables[0])):
            self._tables = [_summed(np.concatenate(self._tables))]

    def _coded(self, ids: Int64s, numbers: Int64s) -> Int64s:
        codes = ids * (self._num_classes + 1) + numbers
        assert codes.min() >= 0, f"object ids up to {ids.max()} are too large for {self._num_classes} classes"
        return np.where(ids == 0, 0, codes)

    def counts(self) -> "InstanceCounts":
        """What the scores are made of: of all objects first, then of each class; all arrays `(1 + K, ...)`."""
        table = np.concatenate(self._tables) if self._tables else np.zeros((0, 3), np.int64)
        target, mask, px = table.T
        step = self._num_classes + 1
        parts = [_counted(_summed(np.column_stack([_ids(target, step), _ids(mask, step), px])))]
        for number in range(self._num_classes):
            own_target = np.where((target == UNCOUNTED) | (target % step == number), _ids(target, step), 0)
            own_mask = np.where((target == UNCOUNTED) | (mask % step == number), _ids(mask, step), 0)
            parts.append(_counted(_summed(np.column_stack([own_target, own_mask, px]))))
        return InstanceCounts(*(np.stack([getattr(part, name) for part in parts]) for name in InstanceCounts.__slots__))


def _ids(codes: Int64s, step: int) -> Int64s:
    return np.where(codes > 0, codes // step, codes)


def _summed(rows: Int64s) -> Int64s:
    """Rows (target id, mask id, pixels) with equal pairs added up and those of no object left out, sorted."""
    rows = rows[(rows[:, 0] > 0) | (rows[:, 1] > 0)]
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    if not len(rows):
        return rows
    begins = np.flatnonzero(np.any(np.diff(rows[:, :2], axis=0, prepend=-2), axis=1))
    return np.column_stack([rows[begins, :2], np.add.reduceat(rows[:, 2], begins)])


@dataclass(frozen=True, slots=True)
class InstanceCounts:
    """What the objects of some images add up to: float64, with the thresholds T on the last axis."""

    tp: Floats
    fp: Floats
    fn: Floats
    matched_iou: Floats
    """(..., 1): sum of the IoU of the pairs above 0.5."""
    intersection: Floats
    """(..., 1): AJI's numerator in px."""
    union: Floats
    """(..., 1)"""

    @classmethod
    def zeros(cls, num_classes: int) -> "InstanceCounts":
        """Counts of no object at all, as `Overlaps.counts` gives them."""
        rows = num_classes + 1
        return cls(*(np.zeros((rows, width)) for width in (len(THRESHOLDS),) * 3 + (1,) * 3))

    def __add__(self, other: "InstanceCounts") -> "InstanceCounts":
        """Of the objects of both."""
        return InstanceCounts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def to_json(self) -> dict[str, Any]:
        """Plain lists; `from_json` is the way back."""
        return {name: getattr(self, name).tolist() for name in self.__slots__}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "InstanceCounts":
        """The counts that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: if `values` are not such counts.
        """
        parts = {name: np.asarray(values[name], np.float64) for name in cls.__slots__}
        sizes = [part.shape for part in parts.values()]
        if sizes != [getattr(cls.zeros(len(parts["tp"]) - 1), name).shape for name in cls.__slots__]:
            raise ValueError(f"counts of instances have the shapes {sizes}")
        return cls(**parts)


def _counted(table: Int64s) -> InstanceCounts:
    target, mask, px = table.T
    target_ids, target_px = _sizes(target[target > 0], px[target > 0])
    mask_ids, mask_px = _sizes(mask[(mask > 0) & (target != UNCOUNTED)], px[(mask > 0) & (target != UNCOUNTED)])
    pairs = (target > 0) & (mask > 0)
    rows, columns = np.searchsorted(target_ids, target[pairs]), np.searchsorted(mask_ids, mask[pairs])
    shared = px[pairs].astype(np.float64)
    iou = shared / (target_px[rows] + mask_px[columns] - shared)
    outside = _void(table, mask_ids) > VOID_SHARE / (1 - VOID_SHARE) * mask_px
    tp, fp = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS))
    for number, threshold in enumerate(THRESHOLDS):
        matched = iou > threshold
        tp[number] = matched.sum()
        dropped = outside.copy()
        dropped[columns[matched]] = False
        fp[number] = len(mask_ids) - tp[number] - dropped.sum()
    best = _best_partner(rows, iou)
    used = np.zeros(len(mask_ids), np.bool_)
    used[columns[best]] = True
    unions = target_px.sum() + (mask_px[columns[best]] - shared[best]).sum() + mask_px[~used & ~outside].sum()
    return InstanceCounts(
        tp=tp,
        fp=fp,
        fn=len(target_ids) - tp,
        matched_iou=iou[iou > THRESHOLDS[0]].sum(keepdims=True),
        intersection=shared[best].sum(keepdims=True),
        union=np.array([unions], np.float64),
    )


def _sizes(ids: Int64s, px: Int64s) -> tuple[Int64s, Floats]:
    """Distinct ids, sorted, and the pixels of each."""
    distinct, place = np.unique(ids, return_inverse=True)
    return distinct, np.bincount(place, weights=px, minlength=len(distinct)).astype(np.float64)


def _void(table: Int64s, mask_ids: Int64s) -> Floats:
    """Pixels of each mask object that do not count; an object without any other is none at all."""
    _, mask, px = table[table[:, 0] == UNCOUNTED].T
    known = np.isin(mask, mask_ids)
    places = np.searchsorted(mask_ids, mask[known])
    return np.bincount(places, weights=px[known], minlength=len(mask_ids)).astype(np.float64)


def _best_partner(rows: npt.NDArray[np.intp], iou: Floats) -> npt.NDArray[np.intp]:
    """The pair of highest IoU of each target object that touches any; where several are level, the lowest id's."""
    order = np.lexsort((-iou, rows))  # stable: pairs come sorted by mask id
    first = np.flatnonzero(np.diff(rows[order], prepend=-1))
    return order[first]


def instance_ratios(sums: InstanceCounts, empty: float | Floats = np.nan) -> dict[str, Floats]:
    """The scores of summed counts, whose leading axes are free; `empty` (nan = not defined) where there is no object.

    `precision` and `recall` are those of matches above 0.5.
    """
    tp, fp, fn = sums.tp, sums.fp, sums.fn
    precision = divided(tp, tp + fp + fn)
    f1 = divided(2 * tp, 2 * tp + fp + fn)[..., 0]
    nothing = (tp + fp + fn)[..., 0] == 0
    matched = divided(sums.matched_iou[..., 0], tp[..., 0])
    found = {
        "pq": np.where(tp[..., 0] > 0, f1 * np.where(tp[..., 0] > 0, matched, 0.0), 0.0),
        "sq": matched,
        "rq": f1,
        "f1": f1,
        "ap": precision.mean(axis=-1),
        "ap50": precision[..., 0],
        "ap75": precision[..., THRESHOLDS.index(0.75)],
        "aji": divided(sums.intersection[..., 0], sums.union[..., 0]),
        "precision": np.where(tp[..., 0] + fp[..., 0] > 0, divided(tp[..., 0], tp[..., 0] + fp[..., 0]), 0.0),
        "recall": np.where(tp[..., 0] + fn[..., 0] > 0, divided(tp[..., 0], tp[..., 0] + fn[..., 0]), 0.0),
    }
    return {name: np.where(nothing, empty, values) for name, values in found.items()}


def num_objects(counts: InstanceCounts) -> dict[str, int]:
    """How many objects target and mask have `(T,)`; of the mask without those that lie where nothing counts."""
    return {"target_objects": int(counts.tp[0] + counts.fn[0]), "mask_objects": int(counts.tp[0] + counts.fp[0])}
