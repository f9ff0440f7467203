"""Pairs: two sets of scored images -> those that can be *held against each other*, like for like."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from segcore.classes import ClassInfo
from segcore.config import ScoreConfig
from segcore.scoring.counts import plain
from segcore.scoring.document import Against, comparison
from segcore.scoring.summary import ImageScore, alike, empty_score, front, scores_of, sums_of

SHOWN = ("foreground_iou", "miou", "mean_dice", "pixel_accuracy")
"""Scores over all classes of which each image's difference is told; of each class it is the IoU's."""


def pairs(ours: Sequence[ImageScore], theirs: Sequence[ImageScore]) -> list[tuple[ImageScore, ImageScore]]:
    """The images that can be held against each other, in our order; with a target in both, or in neither.

    Those of `matched` whose content, target and level are the same: else the scores would tell of them. What was
    measured in only one of the two, or by another ruler, is left out of both.
    """
    return [alike(one, other) for one, other in matched(ours, theirs) if _is_one_image(one, other)]


def matched(ours: Sequence[ImageScore], theirs: Sequence[ImageScore]) -> list[tuple[ImageScore, ImageScore]]:
    """The images that both have, in our order, whatever became of them: those with one id; or, where no id is shared
    (workspaces of the same files in other places), those with one content.
    """
    by_id = {other.image_id: other for other in theirs}
    if not any(one.image_id in by_id for one in ours):
        by_content = {other.image_digest: other for other in theirs if other.image_digest}
        by_id = {one.image_id: by_content[one.image_digest] for one in ours if one.image_digest in by_content}
    return [(one, by_id[one.image_id]) for one in ours if one.image_id in by_id]


def _is_one_image(one: ImageScore, other: ImageScore) -> bool:
    is_other_content = None not in (one.image_digest, other.image_digest) and one.image_digest != other.image_digest
    # The pixels of each class in the target: two targets that agree in all of them are as good as one.
    has_same_target = one.counts.target_px.tolist() == other.counts.target_px.tolist()
    return not is_other_content and one.has_target == other.has_target and has_same_target and one.level == other.level


def has_same_rows(ours: Sequence[ClassInfo], theirs: Sequence[ClassInfo]) -> bool:
    """True if a class has the same row in the counts of both."""
    one, other = ([(info.id, info.name) for info in classes] for classes in (ours, theirs))
    return one == other


def both_scored(paired: Iterable[tuple[ImageScore, ImageScore]]) -> list[tuple[ImageScore, ImageScore]]:
    """The pairs of which pixels of both masks are held against a target."""
    return [(one, other) for one, other in paired if one.is_scored and other.is_scored]


def compared(paired: Sequence[tuple[ImageScore, ImageScore]], name: str, config: ScoreConfig) -> dict[str, Any]:
    """The scores of all pairs with a target, with the interval of their difference, as `--against` gives them.

    Args:
        paired: at least one with a target.
        name: of the other mask.
        config: the rules.
    """
    scored = both_scored(paired)
    ours, theirs = [one for one, _ in scored], [replace(other, image_id=one.image_id) for one, other in scored]
    return comparison(ours[0].classes, ours, Against(name, theirs), config)


def compared_by_split(
    paired: Sequence[tuple[ImageScore, ImageScore]], name: str, config: ScoreConfig
) -> dict[str, Any]:
    """As `compared`, with `per_split`: the same of the images of each split, as our image names it; {} without splits.

    A split of which no pixel is held against a target is not named, as in the document of scores.
    """
    scored = both_scored(paired)
    splits = sorted({pair[0].split for pair in scored if pair[0].split})
    of_split = {split: [pair for pair in scored if pair[0].split == split] for split in splits}
    per_split = {split: compared(part, name, config) for split, part in of_split.items()}
    return {**compared(paired, name, config), "per_split": per_split}


def differences(paired: Sequence[tuple[ImageScore, ImageScore]], config: ScoreConfig) -> list[dict[str, Any]]:
    """Of every pair with a target: `image`, `split`, and under `overall` and `per_class` the `value` of the first, the
    `other`'s, and their `difference`; None where one is not defined. An image by itself has no interval.
    """
    scored = both_scored(paired)
    if not scored:
        return []
    classes, empty = scored[0][0].classes, empty_score(config.both_empty)
    # Sums that are not added up: the scores are those of each image.
    one, other = (
        scores_of(sums_of([pair[side] for pair in scored], len(classes), empty), front(classes), empty)
        for side in (0, 1)
    )
    return [
        {
            "image": pair[0].image_id,
            "split": pair[0].split,
            "overall": {name: _difference(one["overall"][name][row], other["overall"][name][row]) for name in SHOWN},
            "per_class": {
                info.name: {"iou": _difference(*(tree["per_class"]["iou"][row, column] for tree in (one, other)))}
                for column, info in enumerate(classes)
            },
        }
        for row, pair in enumerate(scored)
    ]


def _difference(value: Any, other: Any) -> dict[str, float | None]:
    return {"value": plain(value), "other": plain(other), "difference": plain(value - other)}
