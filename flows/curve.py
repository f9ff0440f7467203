"""Curve: the numbers of a training so far -> *a markdown page* that Prefect shows while it goes on."""

import re
from collections.abc import Mapping, Sequence

from segcore.report.figures import curve_picture, is_setting
from segcore.report.pictures import png_uri

Rows = Sequence[Mapping[str, float]]

RECENT_STEPS = 20
"""Losses of single steps leap about: the table shows the mean of so many."""


def curve_key(name: str) -> str:
    """The artifact's key for a run: Prefect takes lower-case letters, digits and dashes."""
    return "curve-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def curve_markdown(name: str, rows: Rows) -> str:
    """A picture of loss and scores, and a table of the newest numbers and the best ones.

    Args:
        name: of the run, as it stands in ids: it needs no escaping.
        rows: with a `step` each.
    """
    lines = [f"# Training {name}"]
    if picture := curve_picture(rows):
        lines += ["", f"![loss and scores by step]({png_uri(picture)})"]
    if not rows:
        return "\n".join([*lines, "", "no step yet"])
    lines += ["", f"Step {rows[-1]['step']:.0f}", "", "| | now | best |", "| --- | --- | --- |"]
    for column in dict.fromkeys(column for row in rows for column in row):
        values = [row[column] for row in rows if column in row]
        if column == "loss":
            lines.append(f"| loss, mean of {RECENT_STEPS} steps | {_mean(values[-RECENT_STEPS:]):.4f} | |")
        elif column != "step" and not is_setting(column):
            lines.append(f"| {column.replace('_', ' ')} | {values[-1]:.4f} | {max(values):.4f} |")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
