"""Reliability: the scores of probabilities -> *the reliability diagram* of the page.

accuracy     | on the dotted line a probability of 0.8 is right 8 times of 10; below it the model is too sure of
             | itself, above it not sure enough
share of px  | how many pixels have such a probability
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from segcore.classes import ClassInfo
from segcore.report.content import Panel
from segcore.report.figures import ACCENT, FAINT, INK, svg
from segcore.report.html import percent
from segcore.report.pictures import svg_uri
from segcore.scoring.counts import foreground_rows

MAX_LINES = 6
"""Classes with a line of their own; with more there is only that of the mask's class."""
LEAST_SHARE = 1e-5
"""Bins with fewer of the pixels are noise, and not drawn."""
SURE = "the mask's class"

Diagram = Mapping[str, Sequence[Any]]


def reliability_panel(scores: Mapping[str, Any], classes: Sequence[ClassInfo]) -> Panel | None:
    """The diagram of the mask's class and of those in the foreground; None where no probabilities were scored.

    Args:
        scores: the document of scores.
        classes: in its order.
    """
    if "probs" not in scores:
        return None
    lines: dict[str, tuple[Diagram, str]] = {SURE: (scores["probs"]["reliability"], ACCENT)}
    rows = foreground_rows(classes)
    for info in (classes[row] for row in rows if len(rows) <= MAX_LINES):
        diagram = scores["per_class"][info.name]["probs"]["reliability"]
        lines[info.name] = diagram, "#{:02x}{:02x}{:02x}".format(*info.color)
    drawn = {name: line for name, line in lines.items() if sum(line[0]["px"])}
    if not drawn:
        return None
    told = [f"expected calibration error {percent(scores['probs']['ece'])}"] if SURE in drawn else []
    told += [f"{name} {percent(scores['per_class'][name]['probs']['ece'])}" for name in drawn if name != SURE]
    title = "Reliability: of the pixels that were given a probability, the share that is the class"
    return Panel(title, svg_uri(reliability_svg(drawn)), f"Reliability diagram: {', '.join(told)}")


def reliability_svg(lines: Mapping[str, tuple[Diagram, str]]) -> bytes:
    """The diagram.

    Args:
        lines: name -> bins as `scoring.probs.reliability` gives them, and colour; names are never read as markup.
    """
    figure = Figure(figsize=(5.2, 5.0), layout="constrained")
    accuracy, share = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    accuracy.plot((0, 1), (0, 1), color=FAINT, linewidth=1.2, linestyle=":")
    for name, (bins, color) in lines.items():
        total = sum(bins["px"])
        kept = [n for n, px in enumerate(bins["px"]) if px > LEAST_SHARE * total]
        confidence = [bins["confidence"][n] for n in kept]
        style = {"color": color, "linewidth": 1.4, "marker": "o", "markersize": 3, "label": name}
        if name == SURE:  # no class is drawn so, whatever its colour
            style |= {"linewidth": 2.6, "linestyle": (0, (2.5, 1)), "markersize": 5, "zorder": 3}
        accuracy.plot(confidence, [bins["accuracy"][n] for n in kept], **style)
        share.plot(confidence, [bins["px"][n] / total for n in kept], **style)
    accuracy.set_ylabel("accuracy", color=INK)
    accuracy.set_ylim(0, 1)
    share.set(xlim=(0, 1), yscale="log")
    share.set_ylabel("share of px", color=INK)
    share.set_xlabel("probability", color=INK)
    for axes in (accuracy, share):
        _plain(axes)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
            axis.set_minor_formatter(NullFormatter())
    for text in accuracy.legend(frameon=False, fontsize=9).get_texts():
        text.set_parse_math(False)
    return svg(figure)


def _plain(axes: Axes) -> None:
    axes.grid(color=FAINT, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)
