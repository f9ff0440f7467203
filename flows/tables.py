"""Tables: scores, and other numbers under their names, as aligned lines for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segcore.results import headline_part
from segcore.scoring.areas import LENGTH_LABELS

SHOWN_SCORES = (
    *("iou", "miou", "dice", "mean_dice", "precision", "recall", "pixel_accuracy"),
    *("hd95", "assd", "nsd", "boundary_iou"),
    *("pq", "sq", "rq", "ap", "ap50", "aji", "target_objects", "mask_objects"),
    *("mean_auc", "mean_ap", "ece"),
)
"""Of a class, of its boundary, of objects, or of all; the report has the rest."""


def score_lines(scores: Mapping[str, Any]) -> Iterator[str]:
    """Scores of all images and of each split, then those of the split that was not trained on, where there is one: a
    table of its classes, its objects, its intervals; the rest is in the JSON and the report.
    """
    splits = {"all (split)" if name == "all" else name: part for name, part in scores.get("per_split", {}).items()}
    parts = {"all": scores, **splits}
    overall = {name: chosen(part.get("overall", part)) | {"of": number_of_images(part)} for name, part in parts.items()}
    yield from table_lines("images", overall)
    split, first = headline_part(scores)
    of_which = split or "all"
    classes = first.get("per_class", first.get("classes"))
    if isinstance(classes, Mapping):
        rows = {name: class_row(row) for name, row in classes.items()}
        yield from table_lines(f"class ({split})" if split else "class", rows)
    for title, key in (("objects", "instances"), ("probabilities", "probs")):
        if first.get(key):
            yield from table_lines(title, {of_which: chosen(first[key])})
    if first.get("boundary"):
        yield boundary_line(first["boundary"])
    if scores.get("settings", {}).get("both_empty") == "one":
        yield "a class that is in neither target nor mask counts as perfect (--both-empty one)"
    if (interval := first.get("interval")) and (line := interval_line(interval)):
        yield line
    if against := scores.get("against"):
        yield from against_lines(against)


def class_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of a class and of its boundary, and how many images have it."""
    of = {"of": row["num_images"]} if "num_images" in row else {}
    return chosen(row) | rounded(row.get("boundary", {})) | of


def boundary_line(measure: Mapping[str, Any]) -> str:
    """By which measure boundaries were scored."""
    if None in (measure["unit"], measure["cap"], measure["tolerance"]):
        return "boundaries: images of several pixel sizes, each measured in its own (see per_image in the JSON)"
    unit = LENGTH_LABELS[measure["unit"]]
    return (
        f"boundaries: hd95 and assd in {unit}, capped at {measure['cap']:.4g} {unit}; "
        f"right within {measure['tolerance']:.4g} {unit}"
    )


def interval_line(interval: Mapping[str, Any]) -> str:
    """The 95 % intervals of the scores that one looks at first; empty where none of them has one."""
    shown_of = {"miou": "miou", "mean_dice": "mean_dice", "foreground_iou": "iou without background"}
    parts = [
        f"{label} {between(interval['overall'][name])}" for name, label in shown_of.items() if interval["overall"][name]
    ]
    drawn = f"{interval['num_units']} {interval['unit']} drawn {interval['resamples']} times"
    return f"95 % intervals ({drawn}): {', '.join(parts)}" if parts else ""


def against_lines(against: Mapping[str, Any]) -> Iterator[str]:
    """Two masks side by side, with the interval of their difference."""
    picked = {name: against["overall"][name] for name in ("miou", "mean_dice", "foreground_iou", "pixel_accuracy")}
    picked |= {name: row for name, row in against.get("instances", {}).items() if name in ("pq", "ap50")}
    rows = {name: {**row, "interval": between(row["interval"])} for name, row in picked.items()}
    yield f"against {against['mask']}, on {against['num_images']} images (the 95 % interval is of the difference):"
    yield from table_lines("score", rows)


def between(interval: Sequence[float] | None) -> str:
    """`0.7123 to 0.7456`; a dash where there is none."""
    return "-" if interval is None else f"{shown(interval[0])} to {shown(interval[1])}"


def number_of_images(scores: Mapping[str, Any]) -> Any:
    """How many images a set of scores comes from."""
    return scores.get("num_scored", scores.get("images"))


def chosen(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores that fit a line."""
    return {name: scores[name] for name in SHOWN_SCORES if name in scores}


def rounded(boundary: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a boundary; lengths may be of any size, and nobody reads their tenth figure."""
    return {name: to_four_figures(value) for name, value in chosen(boundary).items()}


def to_four_figures(value: Any) -> Any:
    """A number as short as a person wants it in a table; all else as it is."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def shown(value: Any) -> str:
    """A value as a person reads it."""
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            return f"{value:.2g}"  # a rare class is not none at all
        return f"{value:.4f}" if -1 <= value <= 1 else f"{value:.10g}"
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(shown(part) for part in value)
    return str(value)


def printable(text: str) -> str:
    """Text from outside, such as a class's name, without what would move a terminal's cursor or end the line."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def table_lines(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Rows of numbers under their names, columns aligned; nothing where there is no row."""
    if not rows:
        return
    names = list(next(iter(rows.values())))
    table = [[title, *names], *([key, *(shown(row.get(name, "")) for name in names)] for key, row in rows.items())]
    cells = [[printable(cell) for cell in line] for line in table]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names) + 1)]
    for line in cells:
        first, *rest = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        yield "  ".join([first, *rest]).rstrip()
