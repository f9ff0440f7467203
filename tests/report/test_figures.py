"""Figures are well-formed drawings, and the curve file is read as it was written."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from segcore.report import figures
from segcore.report.figures import confusion_svg, curve_picture, curves_svg, read_curve


def test_read_curve_skips_cells_that_are_no_numbers() -> None:
    curve = read_curve("step,loss,lr,miou\n0,1.5,0.1,\n10,nan,0.1,0.25\nx,1,1,1\n20,0.5,0.05,0.75,9\n")
    assert curve == {
        "loss": [(0, 1.5), (20, 0.5)],
        "lr": [(0, 0.1), (10, 0.1), (20, 0.05)],
        "miou": [(10, 0.25), (20, 0.75)],
    }


def test_curves_need_a_loss_or_a_score() -> None:
    assert curves_svg({"lr": [(0.0, 0.1)]}) is None
    svg = curves_svg({"loss": [(0.0, 2.0), (1.0, 1.0)], "a$b_iou": [(1.0, 0.5)], "$\\frac{": [(1.0, 0.4)]})
    assert svg is not None
    assert ElementTree.fromstring(svg).tag.endswith("svg")


def test_curve_picture_is_a_png_of_what_has_values(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, list[tuple[float, float]]]] = []
    draw = figures._curves
    monkeypatch.setattr(figures, "_curves", lambda curve: drawn.append(dict(curve)) or draw(curve))
    rows: list[dict[str, float]] = [{"step": step, "loss": float(step % 2)} for step in range(1, 601)]
    rows[-1]["miou"] = 0.5
    png = curve_picture(rows)
    assert png is not None
    assert png[:4] == b"\x89PNG"
    assert drawn == [{"loss": [(2.0 * n, 0.5) for n in range(1, 301)], "miou": [(600.0, 0.5)]}]
    assert curve_picture([{"step": 1, "learning_rate": 0.1, "skipped": 1}]) is None
    assert curve_picture([]) is None


def test_confusion_is_drawn_with_names_as_they_are_and_repeats_exactly() -> None:
    confusion = np.array([[5, 1, 0], [0, 7, 2], [0, 0, 0]], np.int64)
    names = ["<script>", "$\\frac{a", "x" * 40]
    svg = confusion_svg(confusion, names)
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert b"<script>" not in svg
    assert svg == confusion_svg(confusion, names)


def test_confusion_of_many_classes_carries_no_numbers() -> None:
    few, many = (confusion_svg(np.eye(k, dtype=np.int64), [str(i) for i in range(k)]) for k in (3, 40))
    assert b"100.0%" in few
    assert b"100.0%" not in many
