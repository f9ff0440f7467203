"""Console: what stands beside a stage's bar, on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from flows import console
from flows.console import Bars, Lines


def test_lines_end_with_the_newest_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.0)
    lines = Lines()
    lines.start("train", 4, "steps")
    lines.advance()
    lines.status("loss 2.0000")
    lines.status("loss 1.0000")
    lines.advance(3)
    lines.start("predict", 1, "shards")
    lines.advance()
    assert capsys.readouterr().err.splitlines() == [
        "train: 4 steps",
        "train: 1/4 steps, 25 %, 0 s left",
        "train: 4/4 steps, 100 %, 0 s left · loss 1.0000",
        "predict: 1 shards",
        "predict: 1/1 shards, 100 %, 0 s left",
    ]


def test_bars_show_the_status_as_it_is() -> None:
    bars = Bars()
    bars.status("there is no bar yet")
    bars.start("train", 4, "steps")
    bars.status("loss 1.0000 [red]")
    screen = Console(file=io.StringIO(), width=160, color_system=None)
    with screen.capture() as shown:
        screen.print(bars._rich.get_renderable())
    assert "steps" in shown.get()
    assert shown.get().rstrip().endswith("loss 1.0000 [red]")
    assert "no bar" not in shown.get()
