"""HTML: a report's content -> *one self-contained page*. Every string from outside is escaped by the template."""

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jinja2
import markupsafe

from segcore.classes import ClassInfo
from segcore.report.content import ComparisonContent, ReportContent
from segcore.scoring.areas import LENGTH_LABELS
from segcore.scoring.counts import has_background
from segcore.scoring.intervals import FEWEST

SCORE_LABELS = {
    "pixel_accuracy": "pixel accuracy",
    "miou": "mean IoU",
    "mean_dice": "mean Dice",
    "mean_precision": "mean precision",
    "mean_recall": "mean recall",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "kappa": "Cohen's kappa",
    "foreground_iou": "IoU without background",
    "foreground_dice": "Dice without background",
    "foreground_precision": "precision without background",
    "foreground_recall": "recall without background",
}
"""Overall scores that the page shows, in its order; report.json has them all."""


INSTANCE_LABELS = {
    "pq": "PQ",
    "sq": "SQ",
    "f1": "F1",
    "ap50": "AP 0.5",
    "ap75": "AP 0.75",
    "ap": "AP 0.5 to 0.95",
    "aji": "AJI",
}
"""Scores of objects, likewise."""

COMPARED_LABELS = ("pixel_accuracy", "miou", "mean_dice", "foreground_iou", "foreground_dice", "kappa")
"""Overall scores of which the difference between two masks is shown."""

IMAGE_LABELS = ("foreground_iou", "miou", "pixel_accuracy")
"""Overall scores with a column in the table of images; the change is that of the first one."""

OF_WHOLE = ("instances", "probs")
"""Parts of a comparison that there are only where they were measured."""

CLASS_LABELS = {
    "iou": "IoU",
    "dice": "Dice",
    "precision": "precision",
    "recall": "recall",
    "nsd": "boundary right (NSD)",
    "boundary_iou": "boundary IoU",
    "pq": "PQ",
}
"""Scores of a class of which it is shown in a comparison; distances are in the JSON."""


def percent(score: float | None) -> str:
    """A score for people: `87.3 %`; a dash where there is none."""
    return "–" if score is None else f"{100 * score:.1f} %"


def number(value: float) -> str:
    """A number for people: whole ones with thin spaces between thousands, others with three figures."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def span(interval: Sequence[float] | None) -> str:
    """An interval in per cent, for people: `81.2 – 85.0`; empty where there is none."""
    return "" if interval is None else f"{100 * interval[0]:.1f} – {100 * interval[1]:.1f}"


def points(difference: float | None) -> str:
    """A difference of two scores for people, in points of a hundred: `+1.3`."""
    if difference is None:
        return "–"
    text = f"{100 * difference:+.1f}"
    return "±0.0" if text in ("+0.0", "-0.0") else text


def distance(value: float | None, unit: str, cap: float | None = None) -> str:
    """A distance for people: `1.41 µm`; `≥ 32 µm` where it reached the cap, the longest that is measured (None: images
    of several pixel sizes have no common one).
    """
    if value is None:
        return "–"
    text = f"{figures(value)} {LENGTH_LABELS[unit]}"
    return text if cap is None or value < cap else f"≥ {text}"


def figures(value: float) -> str:
    """A length for people: three figures."""
    return number(float(f"{value:.3g}"))


def units(part: Mapping[str, Any]) -> str:
    """Of what so many scores are: `3 groups`; of one image there is no interval, and nothing is drawn."""
    interval = part["interval"] or {"num_units": part["num_scored"], "unit": "images"}
    num, unit = interval["num_units"], interval["unit"]
    return f"{number(num)} {unit if num != 1 else unit.removesuffix('s')}"


def few_units(scores: Mapping[str, Any]) -> list[str]:
    """Which intervals are made of too few images, and of how many: `test: 3 groups`."""
    parts = [("all", scores), *scores["per_split"].items()]
    few = ((name, part) for name, part in parts if part["interval"] and part["interval"]["num_units"] < FEWEST)
    return [f"{name}: {units(part)}" for name, part in few]


def boundary_words(part: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """By which measure the boundaries of some images were scored.

    Args:
        part: the document of scores, or that of a split; with boundaries.
        settings: of the document.
    """
    found = part["boundary"]
    unit, tolerance, cap = found["unit"], found["tolerance"], found["cap"]
    within = settings["boundary"]["tolerance"] if tolerance is None else distance(tolerance, unit)
    text = f"Of boundaries, means over the images where the class has one: right within {within}; "
    if cap is not None:
        return f"{text}distances up to {distance(cap, unit)} are measured, longer ones count as that."
    text += (
        "images of several pixel sizes, distances are measured up to as many pixels of each, longer ones count as that"
    )
    return f"{text}." if unit else f"{text}. Images of several units have no mean distance."


def day(moment: str) -> str:
    """An ISO 8601 moment for people: `2026-11-30 07:12 UTC`."""
    return f"{moment[:16].replace('T', ' ')} UTC"


def tone(row: Mapping[str, Any], num_units: int) -> Literal["plain", "good", "bad"]:
    """`good` or `bad` for a difference that is told from chance: its interval has no 0, and is of enough images.

    Args:
        row: of a comparison.
        num_units: images, or groups of them, that were drawn.
    """
    low, high = row.get("interval") or (0.0, 0.0)
    return "plain" if num_units < FEWEST else "good" if low > 0 else "bad" if high < 0 else "plain"


def change_of(since: Mapping[str, Any], split: str | None) -> Mapping[str, Any]:
    """The change of the scores that go first: of their split; {} where no image of both is in it."""
    found: Mapping[str, Any] = since["per_split"].get(split, {}) if split else since
    return found


def is_unchanged(compared: Mapping[str, Any]) -> bool:
    """True if no score of a comparison moved: over all classes, of any class, of objects, of probabilities."""
    rows = [compared["overall"], *compared["per_class"].values(), *(compared.get(key, {}) for key in OF_WHOLE)]
    return all(row["value"] == row["other"] for scores in rows for row in scores.values())


def columns_with_values(rows: Iterable[Any], part: str, names: Iterable[str]) -> list[str]:
    """Of the names of columns, those with a value in some row.

    Args:
        rows: of a table.
        part: the attribute of a row that holds the values, by name.
        names: of columns.
    """
    found = [getattr(row, part) for row in rows]
    return [name for name in names if any(values.get(name) is not None for values in found)]


def without_classes(compared: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison without its rows of classes, which have a table of their own."""
    return {**compared, "per_class": {}}


def templates(folder: Path) -> jinja2.Environment:
    """The templates of a folder, which may use the report's style and parts; they escape what they are given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader((folder, Path(__file__).parent)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    for shown in (
        number,
        figures,
        span,
        points,
        distance,
        units,
        few_units,
        boundary_words,
        day,
        tone,
        change_of,
        is_unchanged,
        without_classes,
        columns_with_values,
    ):
        environment.filters[shown.__name__] = shown
    return environment


_TEMPLATES = templates(Path(__file__).parent)
_SCRIPT = Path(__file__).with_name("sort.js").read_text(encoding="utf-8")
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode('ascii')}'"
)
"""What a page may do: show its own pictures, and run this one script."""


def labels_of(classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """What the page shows, and what it calls it: nothing twice where no class is the background."""
    kept = [key for key in SCORE_LABELS if has_background(classes) or not key.startswith("foreground_")]
    return {
        "score": {key: SCORE_LABELS[key] for key in kept},
        "instance": INSTANCE_LABELS,
        "compared": tuple(key for key in COMPARED_LABELS if key in kept),
        "of_class": CLASS_LABELS,
        "of_image": {key: SCORE_LABELS[key] for key in IMAGE_LABELS if key in kept},
        "fewest": FEWEST,
    }


def render(content: ReportContent) -> str:
    """The page of a report as text; it loads nothing, and a content policy forbids it to."""
    return _rendered("report.html.j2", content)


def render_comparison(content: ComparisonContent) -> str:
    """The page of a comparison, likewise."""
    return _rendered("comparison.html.j2", content)


def _rendered(template: str, content: ReportContent | ComparisonContent) -> str:
    # The script is ours, and must stay as its digest in the policy says.
    script = markupsafe.Markup(_SCRIPT)  # noqa: S704
    labels = labels_of(content.classes)
    return _TEMPLATES.get_template(template).render(content=content, labels=labels, policy=_POLICY, script=script)
