"""Rows: the document of scores -> *what the page says about it*: headline, table of images, their order."""

from collections.abc import Mapping, Sequence
from typing import Any

from segcore.report.content import Chip, ImageRow
from segcore.report.html import number, percent, span
from segcore.results import ItemResult
from segcore.scoring.areas import UNIT_LABELS

MAX_ROWS = 500
"""More images than this in one table help nobody; report.json has them all."""
HEADLINE_SPLITS = ("test", "val")
"""A score of images that were not trained on goes before one of all images."""
_LARGER = {"um2": ("mm2", 1e5), "m2": ("ha", 1e4), "mm3": ("ml", 1e3)}
"""Unit -> the larger one that takes over from this value on."""


def area_text(area: Mapping[str, float]) -> str:
    """An area for people: `12.5 ha`; in pixels where the size of a pixel is not known."""
    for unit, (larger, limit) in _LARGER.items():
        if unit in area:
            chosen = larger if area[unit] >= limit else unit
            return f"{number(area[chosen])} {UNIT_LABELS[chosen]}"
    return f"{number(area['px'])} px"


def headline_score(entry: Mapping[str, Any]) -> float | None:
    """The score that images are ranked by: IoU without background."""
    score: float | None = entry.get("overall", {}).get("foreground_iou")
    return score


def worst_first(document: Mapping[str, Any]) -> list[str]:
    """Image ids, the lowest score first, those without a score last."""

    def key(image_id: str) -> tuple[bool, float, str]:
        score = headline_score(document["per_image"][image_id])
        return score is None, score or 0.0, image_id

    return sorted(document["per_image"], key=key)


def chips(document: Mapping[str, Any], items: Sequence[ItemResult], num_failed: int) -> tuple[Chip, ...]:
    """The numbers of the headline: what became of the images, and the scores that matter most."""
    states = [item.state for item in items]
    shown = [Chip("images scored", number(states.count("done")))]
    if states.count("skipped"):
        shown.append(Chip("without a target", number(states.count("skipped"))))
    shown.append(Chip("failed", number(num_failed), "bad" if num_failed else "plain"))
    splits = document["per_split"]
    split = next((name for name in HEADLINE_SPLITS if name in splits), None)
    part = splits[split] if split else document
    overall, interval = part["overall"], (part.get("interval") or {}).get("overall", {})
    where = f", {split}" if split else ""
    for key, label in (
        ("foreground_iou", "IoU without background"),
        ("foreground_dice", "Dice without background"),
        ("pixel_accuracy", "pixel accuracy"),
    ):
        if overall[key] is not None:
            shown.append(Chip(label + where, percent(overall[key]), detail=span(interval.get(key))))
    instances = part.get("instances")
    if instances and instances["pq"] is not None:
        drawn = (part.get("interval") or {}).get("instances", {})
        shown.append(Chip("panoptic quality (PQ)" + where, percent(instances["pq"]), detail=span(drawn.get("pq"))))
    return tuple(shown)


def image_rows(document: Mapping[str, Any], items: Sequence[ItemResult]) -> tuple[ImageRow, ...]:
    """The table of images: failed ones on top, then the worst first."""
    failed = [
        ImageRow(item.image or item.source or "?", "", "failed", item.error or "failed", {}, {}, {})
        for item in items
        if item.state == "failed"
    ]
    return (*failed, *(_row(image_id, document["per_image"][image_id]) for image_id in worst_first(document)))


def _row(image_id: str, entry: Mapping[str, Any]) -> ImageRow:
    return ImageRow(
        image=image_id,
        split=entry["split"] or "",
        state="done" if entry["has_target"] else "skipped",
        note=_note(entry),
        overall=entry.get("overall", {}),
        class_iou={name: scores["iou"] for name, scores in entry.get("per_class", {}).items()},
        areas={name: area_text(area) for name, area in entry["areas"].items()},
    )


def _note(entry: Mapping[str, Any]) -> str:
    """Why there is no score, or the share of pixels with a target that the mask left out."""
    if not entry["has_target"]:
        return "no target"
    unpredicted = entry["excluded_px"]["unpredicted"]
    counted = sum(sum(row) for row in entry["confusion"])
    if counted == 0:
        return "no pixel with a target is usable"
    return f"{percent(unpredicted / (unpredicted + counted))} not predicted" if unpredicted else ""
