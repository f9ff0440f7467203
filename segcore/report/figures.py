"""Figures: numbers -> *SVG drawings* by matplotlib, without pyplot and its global state."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segcore.classes import PALETTE

INK, FAINT, ACCENT = "#22303c", "#d5dde3", "#1f6f8b"
MOST_LABELLED = 14
"""With more classes the cells of the confusion matrix carry no numbers: they would not be readable."""
PNG_DPI = 90
MOST_POINTS = 300
"""Of a line in a PNG."""

Curve = Mapping[str, Sequence[tuple[float, float]]]
"""Column of the curve file -> (step, value) points."""


def confusion_svg(confusion: npt.NDArray[np.int64], names: Sequence[str]) -> bytes:
    """Confusion matrix: every row (a target class) sums to 100 %.

    Args:
        confusion: (K, K) counts, rows target, columns mask.
        names: of the classes; drawn as they are, never read as markup.
    """
    rows = confusion.sum(axis=1, keepdims=True)
    share = confusion / np.maximum(rows, 1)
    side = 2.2 + 0.75 * min(len(names), MOST_LABELLED)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    short = [name if len(name) <= 18 else name[:17] + "…" for name in names]
    axes.set_xticks(range(len(names)), short, rotation=40, ha="right", parse_math=False)
    axes.set_yticks(range(len(names)), short, parse_math=False)
    axes.set_xlabel("mask", color=INK)
    axes.set_ylabel("target", color=INK)
    axes.tick_params(length=0, labelcolor=INK, labelsize=min(10.0, 50 * side / len(names)))  # a line each
    axes.spines[:].set_visible(False)
    if len(names) <= MOST_LABELLED:
        for row, column in np.ndindex(*share.shape):
            text = f"{share[row, column]:.1%}" if rows[row, 0] else "–"
            color = "white" if share[row, column] > 0.55 else INK
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    return svg(figure)


def read_curve(text: str) -> dict[str, list[tuple[float, float]]]:
    """The columns of a curve file (CSV with `step` and numbers); cells that are empty or no number are left out."""
    curve: dict[str, list[tuple[float, float]]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        step = _number(row.pop("step", None))
        for name, cell in row.items():
            value = _number(cell)
            if name and step is not None and value is not None:
                curve.setdefault(name, []).append((step, value))
    return curve


def _number(cell: Any) -> float | None:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def curves_svg(curve: Curve) -> bytes | None:
    """Training curves: losses on the left, validation scores on the right; None where there is neither."""
    figure = _curves(curve)
    return None if figure is None else svg(figure)


def curve_picture(rows: Sequence[Mapping[str, float]]) -> bytes | None:
    """A PNG of the training curves of rows with a `step`, for places that show no SVG; None where there is nothing.

    Long lines are drawn by the means of their pieces.
    """
    curve: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step":
                curve.setdefault(name, []).append((row["step"], value))
    figure = _curves({name: _in_pieces(points) for name, points in curve.items()})
    if figure is None:
        return None
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PNG_DPI)
    return buffer.getvalue()


def _in_pieces(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    num_pieces = min(len(points), MOST_POINTS)
    pieces = np.array_split(np.asarray(points, np.float64), num_pieces)
    return [(float(piece[-1, 0]), float(piece[:, 1].mean())) for piece in pieces]


def _curves(curve: Curve) -> Figure | None:
    losses = {name: points for name, points in curve.items() if "loss" in name.lower()}
    scores = {name: points for name, points in curve.items() if name not in losses and not is_setting(name)}
    panels = [(title, lines) for title, lines in (("loss", losses), ("validation", scores)) if lines]
    if not panels:
        return None
    figure = Figure(figsize=(5.2 * len(panels), 3.1), layout="constrained")
    for axes, (title, lines) in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
        _draw_lines(axes, lines)
        axes.set_title(title, loc="left", color=INK, fontsize=11)
        axes.set_xlabel("step", color=INK)
        if title == "validation" and all(0 <= value <= 1 for points in lines.values() for _, value in points):
            axes.set_ylim(0, 1)
    return figure


def is_setting(name: str) -> bool:
    """True for a column of a curve file that is neither a loss nor a score."""
    return name.lower() in {"lr", "learning_rate", "skipped", "seconds", "time", "epoch", "wall_s"}


def _draw_lines(axes: Axes, lines: Curve) -> None:
    colors = [ACCENT, *("#{:02x}{:02x}{:02x}".format(*color) for color in (PALETTE[6], PALETTE[3], *PALETTE[1:3]))]
    for number, (name, points) in enumerate(lines.items()):
        steps, values = zip(*points, strict=True)
        color = colors[number % len(colors)]
        marker = "o" if len(points) <= 40 else None
        axes.plot(steps, values, color=color, linewidth=1.4, marker=marker, markersize=3, label=name)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    if len(lines) > 1:
        for text in axes.legend(frameon=False, fontsize=9).get_texts():
            text.set_parse_math(False)


def svg(figure: Figure) -> bytes:
    """A figure as SVG, the same bytes each time."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "segcore", "font.family": "DejaVu Sans"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
