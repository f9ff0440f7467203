"""Summary: what was counted in each image -> *sums* -> the scores of any set of images, or of many draws of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segcore.classes import ClassInfo
from segcore.scoring.boundary import BOUNDARY_METRICS, Ruler
from segcore.scoring.counts import Counts, foreground_rows
from segcore.scoring.instances import InstanceCounts, instance_ratios
from segcore.scoring.intervals import Sums, Tree
from segcore.scoring.probs import ProbCounts, overall_prob_ratios, prob_ratios
from segcore.scoring.ratios import ClassSums, Floats, class_ratios, divided, known_mean, overall_ratios

MEANS = (*BOUNDARY_METRICS, "iou", "dice")
"""Scores of a class that are taken in each image, and then averaged over the images where they are defined."""
DISTANCES = ("hd95", "assd")
"""Of a class that one of the two has alone, filling what is counted, so that it has no boundary, these are the cap;
the other scores are 0."""
PERFECT = dict.fromkeys(DISTANCES, 0.0)
"""What they are of a class that counts as perfect; all other scores are 1."""


@dataclass(frozen=True, slots=True)
class BoundaryScores:
    """Of one image, in its own unit."""

    ruler: Ruler
    classes: tuple[dict[str, Any], ...]
    """As `Boundaries.scores` gives them."""


@dataclass(frozen=True, slots=True)
class ImageScore:
    """What scoring one image gave."""

    image_id: str
    split: str | None
    classes: tuple[ClassInfo, ...]
    has_target: bool
    counts: Counts
    worst_tiles: tuple[dict[str, Any], ...]
    """`{"start": [y, x] or more axes, "shape", "wrong_share", "counted_px"}`, worst first."""
    areas: dict[str, dict[str, float]]
    """Class name -> `{"px": ..., "um2": ...}` of the mask."""
    reused: bool
    level: int = 0
    """Of the image: the finest of its mask, in whose pixels all is counted."""
    group: str | None = None
    boundary: BoundaryScores | None = None
    instances: InstanceCounts | None = None
    source: str = ""
    """The user's own file."""
    image_digest: str | None = None
    """Of the source's content."""
    mask_digest: str | None = None
    """Of the mask's plan."""
    probs: ProbCounts | None = None

    @property
    def is_scored(self) -> bool:
        """Whether any pixel is held against a target."""
        return self.has_target and self.counts.counted_px > 0

    @property
    def drawn_with(self) -> str:
        """What is drawn as one for the intervals: the image's group, or the image itself."""
        return f"image {self.image_id}" if self.group is None else f"group {self.group}"


def empty_score(both_empty: str) -> float:
    """The score of what neither target nor mask has, by the config's word; nan = not defined."""
    return 1.0 if both_empty == "one" else np.nan


def common_unit(results: Sequence[ImageScore]) -> str | None:
    """The unit of distances that all images share; None where they differ, or none was measured."""
    units = {result.boundary.ruler.unit for result in results if result.boundary is not None}
    return units.pop() if len(units) == 1 else None


def alike(one: ImageScore, other: ImageScore) -> tuple[ImageScore, ImageScore]:
    """Two masks of an image without what was measured of only one of them, or by another ruler: else one of the two
    would be scored on more images than the other.
    """
    if None in (one.boundary, other.boundary) or one.boundary.ruler != other.boundary.ruler:  # type: ignore[union-attr]
        one, other = replace(one, boundary=None), replace(other, boundary=None)
    if None in (one.instances, other.instances):
        one, other = replace(one, instances=None), replace(other, instances=None)
    if None in (one.probs, other.probs):
        one, other = replace(one, probs=None), replace(other, probs=None)
    return one, other


def sums_of(results: Sequence[ImageScore], num_classes: int, empty: float) -> dict[str, Floats]:
    """Everything that the scores are ratios of, image by image: arrays `(images, ...)`; see `scores_of`."""
    confusions = [result.counts.confusion for result in results]
    classes = ClassSums.of(np.array(confusions).reshape(len(results), num_classes, num_classes))
    each = np.stack([_each(result, classes, row, empty) for row, result in enumerate(results)]) if results else None
    means = np.zeros((0, num_classes, len(MEANS))) if each is None else each
    if common_unit(results) is None:
        means[..., : MEANS.index("nsd")] = np.nan  # lengths in different units have no mean
    sums = {
        "tp": classes.tp,
        "target": classes.target,
        "mask": classes.mask,
        "mean": np.nan_to_num(means),
        "known": (~np.isnan(means)).astype(np.float64),
    }
    if any(result.instances is not None for result in results):
        objects = [result.instances or InstanceCounts.zeros(num_classes) for result in results]
        for name in InstanceCounts.__slots__:
            sums[f"instances.{name}"] = np.stack([getattr(counts, name) for counts in objects])
    if any(result.probs is not None for result in results):
        probs = [result.probs or ProbCounts.zeros(num_classes) for result in results]
        sums["probs.levels"] = np.stack([counts.levels for counts in probs]).astype(np.float64)
        sums["probs.top"] = np.stack([counts.top for counts in probs]).astype(np.float64)
    return sums


def _each(result: ImageScore, classes: ClassSums, row: int, empty: float) -> Floats:
    """(K, MEANS): the scores of one image's classes; nan = not defined."""
    one = ClassSums(classes.tp[row], classes.target[row], classes.mask[row])
    ratios = class_ratios(one, one.target.sum(keepdims=True), empty)
    found = np.full((len(one.tp), len(MEANS)), np.nan)
    for column, name in enumerate(MEANS):
        if name in ratios:
            found[:, column] = ratios[name]
        elif result.boundary is not None:
            worst = result.boundary.ruler.cap if name in DISTANCES else 0.0
            of_class = zip(one.target > 0, one.mask > 0, result.boundary.classes, strict=True)
            for class_row, (in_target, in_mask, scores) in enumerate(of_class):
                if in_target and not scores["target_px"] and result.counts.unlabelled_px:
                    continue  # sparse labels: nobody knows where the class ends
                if scores[name] is not None:
                    found[class_row, column] = scores[name]
                elif in_target != in_mask:
                    found[class_row, column] = worst
            if not np.isnan(empty) and one.target.any():
                found[one.target + one.mask == 0, column] = PERFECT.get(name, 1.0)
    return found


def scores_of(sums: Sums, foreground: Sequence[int], empty: float) -> Tree:
    """Scores of sums `(draws, ...)`: `overall`, `instances` and `probs` `(draws,)`, `per_class`, `boundary`,
    `image_mean`, `prob_classes` and (of more than one class in the foreground) `objects` `(draws, K)`; nan = not
    defined.

    Args:
        sums: of each draw, or of all images (`intervals.total`).
        foreground: rows of the classes that are not background.
        empty: as in `class_ratios`.
    """
    classes = ClassSums(sums["tp"], sums["target"], sums["mask"])
    everything = classes.target.sum(-1, keepdims=True)
    means = divided(sums["mean"], sums["known"])
    by_name = {name: means[..., column] for column, name in enumerate(MEANS)}
    tree: Tree = {
        "overall": overall_ratios(classes, foreground, empty),
        "per_class": class_ratios(classes, everything, empty),
        "boundary": {name: by_name[name] for name in BOUNDARY_METRICS},
        "image_mean": {name: by_name[name] for name in ("iou", "dice")},
    }
    if "instances.tp" in sums:
        counts = InstanceCounts(*(sums[f"instances.{name}"] for name in InstanceCounts.__slots__))
        found = instance_ratios(counts, np.where(everything > 0, empty, np.nan))
        tree["instances"] = {name: values[..., 0] for name, values in found.items()}
        if len(foreground) > 1:
            tree["objects"] = {name: values[..., 1:] for name, values in found.items()}
            tree["instances"]["mean_pq"] = known_mean(tree["objects"]["pq"][..., list(foreground)])
    if "probs.levels" in sums:
        tree["prob_classes"] = prob_ratios(sums["probs.levels"])
        tree["probs"] = overall_prob_ratios(tree["prob_classes"], sums["probs.top"])
    return tree


def front(classes: Sequence[ClassInfo]) -> list[int]:
    """The rows of foreground; none where there is no class table."""
    return foreground_rows(classes) if classes else []
