"""Rows: the document of scores -> *what the page says about it*: headline, table of images, their order."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from segcore.classes import ClassInfo
from segcore.report.content import Chip, Fact, ImageRow
from segcore.report.html import change_of, number, percent, points, span, tone, units
from segcore.results import ItemResult, headline_part
from segcore.scoring.areas import UNIT_LABELS
from segcore.scoring.counts import foreground_rows, has_background
from segcore.scoring.intervals import FEWEST

MAX_ROWS = 500
"""More images than this in one table help nobody; report.json has them all."""
MAX_DETAILED = 6
"""With more classes the table of images has no columns for each: it would not fit a page."""
HEADLINE = "foreground_iou"
"""The score that images are ranked by: IoU without background."""
HEADLINE_LABELS = {
    "overall": {
        HEADLINE: "IoU without background",
        "foreground_dice": "Dice without background",
        "pixel_accuracy": "pixel accuracy",
    },
    "instances": {"pq": "panoptic quality (PQ)"},
}
_LABELS_OF_ALL = {"miou": "mean IoU", "mean_dice": "mean Dice", "pixel_accuracy": "pixel accuracy"}
"""Those where no class is the background."""
_LARGER = {"um2": ("mm2", 1e5), "m2": ("ha", 1e4), "mm3": ("ml", 1e3)}
"""Unit -> the larger one that takes over from this value on."""


def common_units(areas: Iterable[Mapping[str, float]]) -> dict[str, str]:
    """Unit -> the one that all areas of a column are told in: as the largest of them reads well."""
    known = list(areas)
    return {
        unit: larger if max((area.get(unit, 0.0) for area in known), default=0.0) >= limit else unit
        for unit, (larger, limit) in _LARGER.items()
    }


def area_text(area: Mapping[str, float], units: Mapping[str, str] | None = None) -> str:
    """An area for people: `12.5 ha`; in pixels where the size of a pixel is not known.

    Args:
        area: by unit.
        units: of its column, as `common_units` gives them; by default those of this area alone.
    """
    for unit, chosen in (units or common_units([area])).items():
        if unit in area:
            return f"{number(area[chosen])} {UNIT_LABELS[chosen]}"
    return f"{number(area['px'])} px"


def area_size(area: Mapping[str, float]) -> float:
    """The number to sort areas by: physical where that is known."""
    return next((area[unit] for unit in _LARGER if unit in area), area["px"])


def headline_score(entry: Mapping[str, Any]) -> float | None:
    """The score that images are ranked by: IoU without background."""
    score: float | None = entry.get("overall", {}).get(HEADLINE)
    return score


def headline_labels(classes: Sequence[ClassInfo]) -> dict[str, dict[str, str]]:
    """The scores of the headline, by the parts of the document; none "without background" where there is none."""
    return HEADLINE_LABELS if has_background(classes) else {**HEADLINE_LABELS, "overall": _LABELS_OF_ALL}


def detailed(classes: Sequence[ClassInfo]) -> tuple[ClassInfo, ...]:
    """The classes with columns of their own in the table of images: not the background, and none if there are many."""
    rows = foreground_rows(classes)
    return tuple(classes[row] for row in rows) if len(rows) <= MAX_DETAILED else ()


def worst_first(document: Mapping[str, Any]) -> list[str]:
    """Image ids, the lowest score first, those without a score last."""

    def key(image_id: str) -> tuple[bool, float, str]:
        score = headline_score(document["per_image"][image_id])
        return score is None, score or 0.0, image_id

    return sorted(document["per_image"], key=key)


def chips(
    document: Mapping[str, Any], items: Sequence[ItemResult], num_failed: int, since: Mapping[str, Any] | None = None
) -> tuple[Chip, ...]:
    """The numbers of the headline: what became of the images, and the scores that matter most.

    Args:
        document: of scores.
        items: what became of each image.
        num_failed: images and sources.
        since: the scores against those of an earlier report.
    """
    states = [item.state for item in items]
    shown = [Chip("images scored", number(states.count("done")))]
    if states.count("skipped"):
        reasons = {item.details.get("reason") for item in items if item.state == "skipped"}
        why = "without a target" if reasons == {"no target"} else "not scored"
        shown.append(Chip(why, number(states.count("skipped"))))
    shown.append(Chip("failed", number(num_failed), "bad" if num_failed else "plain"))
    split, part = headline_part(document)
    change = change_of(since, split) if since else {}
    where = f", {split}" if split else ""
    classes = [ClassInfo.model_validate(value) for value in document["classes"]]
    for kind, labels in headline_labels(classes).items():
        scores = part.get(kind) or {}
        for key, label in labels.items():
            if scores.get(key) is not None:
                moved = change.get(kind, {}).get(key, {})
                detail = _interval(part, kind, key)
                shown.append(_chip(label + where, scores[key], detail, moved, change.get("num_units", 0)))
    return tuple(shown)


def _chip(label: str, score: float, detail: str, moved: Mapping[str, Any], num_units: int) -> Chip:
    """A score, with its change in points; in colour where that is told from chance."""
    change = points(moved["difference"]) if moved.get("difference") is not None else ""
    return Chip(label, percent(score), detail=detail, change=change, change_tone=tone(moved, num_units))


def _interval(part: Mapping[str, Any], kind: str, key: str) -> str:
    """Of a score, in words; one of few images says of how many."""
    drawn = part["interval"] or {}
    interval = drawn.get(kind, {}).get(key)
    if interval is None:
        return ""
    return span(interval) + (f" ({units(part)})" if drawn["num_units"] < FEWEST else "")


def pace_facts(pace: Mapping[str, Any], num_images: int) -> tuple[Fact, ...]:
    """How fast the masks were made and what was skipped, in words; nothing where nobody knows.

    Args:
        pace: `segcore.pace.summed`.
        num_images: with a mask.
    """
    if not pace:
        return ()
    return (
        Fact("throughput", f"{number(pace['mpx_per_s'])} Mpx/s, over {number(pace['seconds'])} s of prediction"),
        Fact("tiles skipped", f"{percent(pace['skipped_share'])}: without a usable pixel, or outside the foreground"),
        Fact("last mask", pace["ended"]),
        Fact("known of", f"{number(pace['num_images'])} of {number(num_images)} masks"),
    )


def image_rows(
    document: Mapping[str, Any],
    items: Sequence[ItemResult],
    changes: Mapping[str, float] | None = None,
    skipped: Mapping[str, float] | None = None,
    num_objects: Mapping[str, int] | None = None,
    sources: Mapping[str, str] | None = None,
) -> tuple[ImageRow, ...]:
    """The table of images: failed ones on top, then the worst first.

    Args:
        document: of scores.
        items: what became of each image.
        changes: image id -> change of its score since an earlier report, where there is one.
        skipped: image id -> share of its tiles that were not inferred, where it is known.
        num_objects: image id -> how many it has, where they were measured.
        sources: image id -> name of its file, where that is to be shown.
    """
    sources, units = sources or {}, _units_of_classes(document)
    failed = [
        ImageRow(item.image or item.source or "?", "", "failed", item.error or "failed", {}, {}, {})
        for item in items
        if item.state == "failed"
    ]
    changes, skipped, num_objects = changes or {}, skipped or {}, num_objects or {}

    def row(image_id: str) -> ImageRow:
        more = {"change": changes, "skipped": skipped, "num_objects": num_objects}
        known: dict[str, Any] = {name: values.get(image_id) for name, values in more.items()}
        made = _row(image_id, document["per_image"][image_id], units)
        return replace(made, source=sources.get(image_id, ""), **known)

    return (*failed, *map(row, worst_first(document)))


def _units_of_classes(document: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Class name -> the units of its column."""
    columns: dict[str, list[Mapping[str, float]]] = {}
    for entry in document["per_image"].values():
        for name, area in entry["areas"].items():
            columns.setdefault(name, []).append(area)
    return {name: common_units(areas) for name, areas in columns.items()}


def _row(image_id: str, entry: Mapping[str, Any], units: Mapping[str, Mapping[str, str]]) -> ImageRow:
    return ImageRow(
        image=image_id,
        split=entry["split"] or "",
        state="done" if any(map(any, entry.get("confusion", ()))) else "skipped",
        note=_note(entry),
        overall=entry.get("overall", {}),
        class_iou={name: scores["iou"] for name, scores in entry.get("per_class", {}).items()},
        areas={name: (area_text(area, units[name]), area_size(area)) for name, area in entry["areas"].items()},
    )


def _note(entry: Mapping[str, Any]) -> str:
    """Why there is no score, or the share of pixels with a target that the mask left out."""
    if not entry["has_target"]:
        return "no target"
    unpredicted = entry["excluded_px"]["unpredicted"]
    counted = sum(sum(row) for row in entry["confusion"])
    if counted == 0:
        return "no pixel that counts"
    return f"{percent(unpredicted / (unpredicted + counted))} not predicted" if unpredicted else ""
