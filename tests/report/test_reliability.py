"""The reliability diagram and the table of probabilities, from the store to the page."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from segcore.classes import ClassInfo
from segcore.config import ReportConfig
from segcore.publish import report
from segcore.report.reliability import SURE, reliability_panel, reliability_svg
from segcore.store import Workspace
from tests.synthetic import put_image, put_label, put_probs

CLASSES = (
    ClassInfo(id=0, name="background", color=(0, 0, 0)),
    ClassInfo(id=1, name="<b>$x^{", color=(255, 0, 0)),
)


def test_the_page_shows_scores_of_probabilities(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    target = np.zeros((40, 60), np.uint8)
    target[:, 30:] = 1
    ones = np.where(target == 1, 204, 51).astype(np.uint8)
    ones[:, 24:36] = 102  # of 40 x 6 px of each class
    values = np.stack([255 - ones, ones])
    put_image(ws, "i", np.ones((1, 40, 60), np.uint8))
    put_label(ws, "i", "target", target, CLASSES)
    put_label(ws, "i", "m", values.argmax(axis=0).astype(np.uint8), CLASSES)
    put_probs(ws, "i", "m", values, tuple(info.name for info in CLASSES))
    page = Path(report(ReportConfig(workspace=ws.uri, model="m", run="r")).paths[0]).read_text(encoding="utf-8")
    row = page[page.index("area under ROC") :]
    row = row[row.index("&lt;b&gt;$x^{") :]
    # In 24 of 30 columns either side is told by 0.8; in 6 of each it says 0.4, which is right half the time.
    auc = 0.8 * 0.8 + 0.2 * 0.8 + 0.8 * 0.2 + 0.2 * 0.2 / 2
    wanted = [auc, 0.8 + 0.2 * (30 / 36), 0.4 * 0.2 + 0.2 * 0.1 + 0.4 * 0.2]
    assert [float(text) for text in re.findall(r'"figure">([\d.]+) %', row)[:3]] == [round(100 * v, 1) for v in wanted]
    assert "Reliability diagram: expected calibration error" in page
    assert "<b>$x" not in page


def test_there_is_no_diagram_without_probabilities() -> None:
    assert reliability_panel({"overall": {}}, CLASSES) is None


def test_the_diagram_is_a_drawing_of_the_bins_that_hold_pixels() -> None:
    bins = {"px": [10, 0, 30], "confidence": [0.1, None, 0.9], "accuracy": [0.2, None, 0.8]}
    drawn = reliability_svg({"$a^{": (bins, "#123456")})
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert drawn == reliability_svg({"$a^{": (bins, "#123456")})
    assert drawn.count(b"#123456") > 2
    assert b"stroke-dasharray" in reliability_svg({SURE: (bins, "#123456")}).split(b"#123456", 1)[0][-600:]
