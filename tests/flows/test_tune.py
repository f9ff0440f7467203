"""`segcore tune`: the command that it prints repeats its best trial, and workers of a flow share the trials."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import functions, stages
from flows.artifacts import trial_rows
from flows.cli import app
from flows.console import result_lines
from flows.running import run_stage_flow
from flows.trials import alone
from segcore.config import TrainConfig, TuneConfig
from segcore.results import StageResult
from segcore.tune.words import command
from tests.tune.conftest import TINY, discs

RUNNER = CliRunner()
SEARCH = {"learning_rate": "1e-3..1e-1:log", "loss.dice": "0.5..2", "augment": "true|false", "channels": "4,8|2,4"}

DETAILS: dict[str, Any] = {
    "study": "s",
    "trials": [
        {"trial": 0, "state": "complete", "score": 0.5, "run": "s-0", "model": "m-0", "params": {"ema": 0.25}},
        {"trial": 1, "state": "pruned", "score": None, "run": "s-1", "params": {"ema": 0.75}},
    ],
    "command": "segcore train --ema 0.25",
}
DETAILS["best"] = DETAILS["trials"][0]


def test_the_printed_command_repeats_the_best_trial(tmp_path: Path) -> None:
    uri = discs(tmp_path / "a folder")
    given = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items() if name != "channels"]
    searched = [part for name, text in SEARCH.items() for part in ("--search", f"{name}={text}")]
    done = RUNNER.invoke(app, ["tune", "--workspace", uri, *given, *searched, "--trials=2", "--study=s", "--json"])
    assert done.exit_code == 0, done.output
    tuned = json.loads(done.stdout)
    words = shlex.split(tuned["details"]["command"])
    assert words[:2] == ["segcore", "train"]
    trained = json.loads(RUNNER.invoke(app, [*words[1:], "--json"]).stdout)
    assert trained["scores"] == tuned["scores"]
    assert not trained["details"]["run"].startswith("s-")


def test_every_kind_of_setting_comes_through_the_command_line() -> None:
    settings = {
        "workspace": "a folder",
        "learning_rate": 0.1 + 0.2,
        "augment": "false",
        "amp": False,
        "deterministic": True,
        "channels": ["4", "8"],
        "class_weights": {"a=b c": 2.5},
        "tile_px": "64",
        "init": None,
    }
    words = shlex.split(command(settings))
    done = RUNNER.invoke(app, ["config", "show", *words[1:], "--json"])
    shown = json.loads(done.stdout)["settings"]
    assert TrainConfig.model_validate(shown) == TrainConfig.model_validate(settings)


def test_a_study_is_shown_as_a_table_with_its_best_trial() -> None:
    lines = list(result_lines(StageResult(stage="tune", details=DETAILS)))
    assert lines[:4] == [
        "study: s",
        "trial     state   score     ema",
        "0      complete  0.5000  0.2500",
        "1        pruned       -  0.7500",
    ]
    assert lines[4:6] == ["best: trial 0, run s-0, model m-0", "to train with its settings: segcore train --ema 0.25"]
    assert trial_rows(DETAILS) == [
        {"trial": 0, "state": "complete", "score": "0.5000", "ema": 0.25},
        {"trial": 1, "state": "pruned", "score": "-", "ema": 0.75},
    ]
    assert trial_rows({"study": "s", "num_trials": 2}) == []


def test_workers_make_the_command_a_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr("flows.running.run_stage_flow", lambda *args: calls.append("flow") or StageResult(stage="tune"))
    monkeypatch.setitem(functions.FUNCTIONS, "tune", ("flows.console", "count"))
    assert RUNNER.invoke(app, ["tune", "--workspace", "w", "--workers", "2"]).exit_code == 0
    assert calls == ["flow"]


@pytest.mark.usefixtures("prefect_server")
def test_the_flow_looks_once_more_after_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(stages, "run_workers", lambda config: seen.append(("workers", config.workers)))
    monkeypatch.setattr(stages, "single_stage", lambda name, config: seen.append((name, config.workers)))
    config = TuneConfig(workspace="w", workers=3)
    stages.tune(config)
    stages.tune(alone(config))
    stages.tune(config.model_copy(update={"dry_run": True}))
    assert seen == [("workers", 3), ("tune", 1), ("tune", 1), ("tune", 1)]


@pytest.mark.slow  # two processes that import prefect and torch
@pytest.mark.usefixtures("prefect_server")
def test_workers_of_a_flow_share_the_trials(tmp_path: Path) -> None:
    settings = {**TINY, "workspace": discs(tmp_path / "ws"), "study": "s", "search": {"ema": "0.5..0.9"}, "trials": 5}
    result = run_stage_flow("tune", TuneConfig(**settings, workers=2))
    assert [row["state"] for row in result.details["trials"]] == ["complete"] * 5
    folder = Path(settings["workspace"], "runs", "s", "trials")
    owners = {json.loads(path.read_text())["owner"]["pid"] for path in folder.glob("*/*")}
    assert len(owners) == 2
