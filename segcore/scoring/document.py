"""Document: what was counted in each image -> *one document of scores* as plain JSON.

Keys: `format`, `mask`, `classes` (id, name, color, in the order of the confusion's rows), `num_images`, `settings`
(the rules that the scores were made by), then those of all scored images together:

    num_scored, overall, per_class, confusion (rows target, columns mask), excluded_px,
    boundary (unit, tolerance, cap), instances and probs where they were measured, interval (None where there is none)

and `per_split` (the same for each split), `per_group` (for each group, where there are any), `per_image` (for each
image; both without an interval), `worst_tiles`, and `against` where two masks were compared. Scores are in 0..1, but
for the distances `hd95` and `assd`; None where they do not exist, and `num_images` says in how many images they do.
Pixels are those of an image's `level`, where one is named, else of level 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segcore.classes import ClassInfo
from segcore.config import ScoreConfig
from segcore.scoring.boundary import BOUNDARY_METRICS, common_lengths
from segcore.scoring.counts import Counts, plain
from segcore.scoring.instances import InstanceCounts, num_objects
from segcore.scoring.intervals import LEVEL, SEED, Sums, Tree, bootstrap, difference, middle, total
from segcore.scoring.probs import NUM_BINS, OF_CLASS, reliability
from segcore.scoring.ratios import Floats
from segcore.scoring.summary import MEANS, ImageScore, alike, empty_score, front, scores_of, sums_of

FORMAT = 2
"""Version of the document."""
NO_SPLIT = "no split"
WORST_TILES = 8
"""Tiles kept for each image, and in total."""
SHOWN_OF_CLASS = {
    "per_class": ("iou", "dice", "precision", "recall"),
    "boundary": BOUNDARY_METRICS,
    "objects": ("pq", "f1"),
    "prob_classes": OF_CLASS,
}
"""Of a class, what has an interval."""


@dataclass(frozen=True, slots=True)
class Against:
    """Another mask of the same images."""

    name: str
    scored: Sequence[ImageScore]


def document(
    name: str, scored: Sequence[ImageScore], config: ScoreConfig, against: Against | None = None
) -> dict[str, Any]:
    """The scores of a run; see above."""
    classes = scored[0].classes if scored else ()
    with_target = [result for result in scored if result.is_scored]
    splits = sorted({result.split or NO_SPLIT for result in with_target})
    worst = [{"image": result.image_id, **_leveled(result), **t} for result in with_target for t in result.worst_tiles]
    found = {
        "format": FORMAT,
        "mask": name,
        "classes": [info.model_dump(mode="json") for info in classes],
        "num_images": len(scored),
        "settings": settings_of(config),
        **_summary(classes, with_target, config),
        "per_split": {}
        if splits == [NO_SPLIT]
        else {
            split: _summary(classes, [result for result in with_target if (result.split or NO_SPLIT) == split], config)
            for split in splits
        },
        "per_group": {
            group: _group_entry(classes, results, config) for group, results in _grouped(with_target).items()
        },
        "per_image": {result.image_id: _image_entry(result, config) for result in scored},
        "worst_tiles": sorted(worst, key=lambda tile: -tile["wrong_share"])[:WORST_TILES],
    }
    return found if against is None else found | {"against": comparison(classes, with_target, against, config)}


def _grouped(results: Sequence[ImageScore]) -> dict[str, list[ImageScore]]:
    groups: dict[str, list[ImageScore]] = {}
    for result in results:
        if result.group is not None:
            groups.setdefault(result.group, []).append(result)
    return dict(sorted(groups.items()))


def _group_entry(classes: Sequence[ClassInfo], results: Sequence[ImageScore], config: ScoreConfig) -> dict[str, Any]:
    entry = _summary(classes, results, config.model_copy(update={"resamples": 0}))
    del entry["interval"]
    return entry


def settings_of(config: ScoreConfig) -> dict[str, Any]:
    """The rules that the scores are made by."""
    boundary = {"tolerance": config.tolerance, "halo_px": config.boundary_halo_px}
    return {
        "both_empty": config.both_empty,
        "boundary": boundary if config.boundary == "on" else None,
        "resamples": config.resamples,
        "seed": SEED,
    }


def _leveled(result: ImageScore) -> dict[str, int]:
    """Whose pixels are meant, where they are not those of level 0."""
    return {"level": result.level} if result.level else {}


def _summary(classes: Sequence[ClassInfo], results: Sequence[ImageScore], config: ScoreConfig) -> dict[str, Any]:
    counts = sum((result.counts for result in results), Counts.zeros(len(classes)))
    empty = empty_score(config.both_empty)
    sums = sums_of(results, len(classes), empty)
    summed = total(sums)
    tree = scores_of(summed, front(classes), empty)
    there = (sums["target"] + sums["mask"] > 0).sum(axis=0)
    summary: dict[str, Any] = {
        "num_scored": len(results),
        "overall": _plain_row(tree["overall"], 0),
        "per_class": {
            info.name: {
                **_plain_row(tree["per_class"], row),
                "target_px": int(counts.target_px[row]),
                "mask_px": int(counts.mask_px[row]),
                "num_images": int(there[row]),
                "image_mean": {
                    **_plain_row(tree["image_mean"], row),
                    "num_images": int(summed["known"][0, row, MEANS.index("iou")]),
                },
            }
            for row, info in enumerate(classes)
        },
        "confusion": counts.confusion.tolist(),
        "excluded_px": {
            "ignored": counts.ignored_px,
            "unpredicted": counts.unpredicted_px,
            "invalid": counts.invalid_px,
        },
        "interval": _interval(classes, results, sums, config),
    }
    _add_boundary(summary, classes, results, tree, summed["known"][0])
    _add_instances(summary, classes, results, tree, summed)
    _add_probs(summary, classes, results, tree, summed)
    return summary


def _plain_row(scores: dict[str, Floats], row: int) -> dict[str, float | None]:
    """Scores `(1,)` or of a class `(1, K)` as JSON."""
    return {name: plain(values.reshape(-1)[row]) for name, values in scores.items()}


def _add_boundary(
    summary: dict[str, Any], classes: Sequence[ClassInfo], results: Sequence[ImageScore], tree: Tree, known: Floats
) -> None:
    """The boundary scores of each class, and by which measure; nothing where none was taken."""
    measured = [result.boundary for result in results if result.boundary is not None]
    if not measured:
        return
    summary["boundary"] = common_lengths([boundary.ruler for boundary in measured])
    for row, info in enumerate(classes):
        pixels = sum(boundary.classes[row][key] for boundary in measured for key in ("target_px", "mask_px"))
        capped = sum(boundary.classes[row]["capped_px"] for boundary in measured)
        summary["per_class"][info.name]["boundary"] = {
            **_plain_row(tree["boundary"], row),
            "capped_share": capped / pixels if pixels else None,
            "num_images": int(known[row, MEANS.index("nsd")]),
        }


def _add_instances(
    summary: dict[str, Any], classes: Sequence[ClassInfo], results: Sequence[ImageScore], tree: Tree, summed: Sums
) -> None:
    """The scores of objects, and those of each class where there are several; nothing where there are no objects."""
    num_images = sum(result.instances is not None for result in results)
    if not num_images:
        return
    counts = [
        InstanceCounts(*(summed[f"instances.{name}"][0, row] for name in InstanceCounts.__slots__))
        for row in range(len(classes) + 1)
    ]
    summary["instances"] = {**_plain_row(tree["instances"], 0), **num_objects(counts[0]), "num_images": num_images}
    for row in front(classes) if "objects" in tree else ():
        found = {**_plain_row(tree["objects"], row), **num_objects(counts[1 + row])}
        summary["per_class"][classes[row].name]["instances"] = found


def _add_probs(
    summary: dict[str, Any], classes: Sequence[ClassInfo], results: Sequence[ImageScore], tree: Tree, summed: Sums
) -> None:
    """The scores of probabilities, with the reliability diagrams; nothing where no image has the layer."""
    counted = [result.probs for result in results if result.probs is not None]
    if not counted:
        return
    summary["probs"] = {
        **_plain_row(tree["probs"], 0),
        "reliability": reliability(summed["probs.top"][0]),
        "num_bins": NUM_BINS,
        "unknown_px": sum(counts.unknown_px for counts in counted),
        "num_images": len(counted),
    }
    for row, info in enumerate(classes):
        summary["per_class"][info.name]["probs"] = {
            **_plain_row(tree["prob_classes"], row),
            "reliability": reliability(summed["probs.levels"][0, row]),
            "num_images": sum(bool(counts.levels[row, 1].any()) for counts in counted),
        }


def _interval(
    classes: Sequence[ClassInfo], results: Sequence[ImageScore], sums: dict[str, Floats], config: ScoreConfig
) -> dict[str, Any] | None:
    rows, empty = front(classes), empty_score(config.both_empty)
    groups = [result.drawn_with for result in results]
    trees = bootstrap(groups, [sums], lambda drawn: scores_of(drawn, rows, empty), config.resamples)
    if trees is None:
        return None
    return {**_drawn(groups, config), **_nested(trees[0], classes, lambda draws, _: middle(draws))}


def _drawn(groups: Sequence[str], config: ScoreConfig) -> dict[str, Any]:
    """How the intervals were made."""
    num = len(set(groups))
    unit = "images" if num == len(groups) else "groups"
    return {"level": LEVEL, "resamples": config.resamples, "seed": SEED, "unit": unit, "num_units": num}


def _nested(tree: Tree, classes: Sequence[ClassInfo], leaf: Any) -> dict[str, Any]:
    """A tree of draws in the shape of the document: `leaf(draws, place)` of every score that is worth one.

    `place` is (part of the tree, name, row of the class).
    """
    found: dict[str, Any] = {
        "overall": {name: leaf(draws, ("overall", name, 0)) for name, draws in tree["overall"].items()},
        "per_class": {
            info.name: {
                name: leaf(tree[part][name][:, row], (part, name, row))
                for part, names in SHOWN_OF_CLASS.items()
                for name in names
                if part in tree
            }
            for row, info in enumerate(classes)
        },
    }
    for part in ("instances", "probs"):
        if part in tree:
            found[part] = {name: leaf(draws, (part, name, 0)) for name, draws in tree[part].items()}
    return found


def comparison(
    classes: Sequence[ClassInfo], results: Sequence[ImageScore], against: Against, config: ScoreConfig
) -> dict[str, Any]:
    """Two masks over the images that both were scored on, like for like: `value`, `other`, `difference`, `interval`."""
    others = {result.image_id: result for result in against.scored if result.is_scored}
    pairs = [alike(result, others[result.image_id]) for result in results if result.image_id in others]
    ours = [one for one, _ in pairs]
    rows, empty = front(classes), empty_score(config.both_empty)
    parts = [sums_of([pair[side] for pair in pairs], len(classes), empty) for side in (0, 1)]
    one, other = (scores_of(total(sums), rows, empty) for sums in parts)
    groups = [result.drawn_with for result in ours]
    trees = bootstrap(groups, parts, lambda drawn: scores_of(drawn, rows, empty), config.resamples)
    gaps = difference(one, other)
    drawn_gaps = difference(*trees) if trees else None

    def compared(gap: Floats, place: tuple[str, str, int]) -> dict[str, Any]:
        part, name, row = place
        value, theirs = (tree[part][name].reshape(-1)[row] for tree in (one, other))
        draws = drawn_gaps[part][name].reshape(config.resamples, -1)[:, row] if drawn_gaps else np.empty(0)
        interval = middle(draws)
        gap_now = plain(gap.reshape(-1)[0])
        return {"value": plain(value), "other": plain(theirs), "difference": gap_now, "interval": interval}

    return {
        "mask": against.name,
        "num_images": len(ours),
        **_drawn(groups, config),
        **_nested(gaps, classes, compared),
    }


def _image_entry(result: ImageScore, config: ScoreConfig) -> dict[str, Any]:
    entry: dict[str, Any] = {"split": result.split, "has_target": result.has_target, "areas": result.areas}
    entry |= _leveled(result)
    if result.has_target:
        entry |= _summary(result.classes, [result], config)
        for name in ("num_scored", "interval"):
            del entry[name]
        for scores in entry["per_class"].values():
            for name in ("num_images", "image_mean"):
                del scores[name]
            for name in ("num_images", "reliability"):
                scores.get("probs", {}).pop(name, None)
        entry["worst_tiles"] = list(result.worst_tiles)
    return entry
