"""HTML: a report's content -> *one self-contained page*. Every string from outside is escaped by the template."""

import math
from pathlib import Path

import jinja2

from segcore.report.content import ReportContent

SCORE_LABELS = {
    "pixel_accuracy": "pixel accuracy",
    "miou": "mean IoU",
    "mean_dice": "mean Dice",
    "mean_precision": "mean precision",
    "mean_recall": "mean recall",
    "foreground_iou": "IoU without background",
    "foreground_dice": "Dice without background",
    "foreground_precision": "precision without background",
    "foreground_recall": "recall without background",
}
"""Overall scores that the page shows, in its order; report.json has them all."""


def percent(score: float | None) -> str:
    """A score for people: `87.3 %`; a dash where there is none."""
    return "–" if score is None else f"{100 * score:.1f} %"


def number(value: float) -> str:
    """A number for people: whole ones with thin spaces between thousands, others with three figures."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


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
    environment.filters["number"] = number
    return environment


_TEMPLATES = templates(Path(__file__).parent)


def render(content: ReportContent) -> str:
    """The page as text; it loads nothing, and a content policy forbids it to."""
    template = _TEMPLATES.get_template("report.html.j2")
    return template.render(content=content, score_labels=SCORE_LABELS)
