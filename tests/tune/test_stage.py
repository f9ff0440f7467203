"""Tune: each trial is a training run; killed at any moment, the same call ends as one that nobody disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import TrainConfig, TuneConfig
from segcore.errors import ConfigError, PlanMismatchError, SegcoreError, StoreError
from segcore.models.package import read_package
from segcore.progress import Silent
from segcore.store import Workspace
from segcore.training import loop, train
from segcore.training.runs import Run
from segcore.tune import stage, tune
from segcore.tune.study import Study
from tests.synthetic import put_image, put_label
from tests.tune.conftest import TINY

SEARCH = {"learning_rate": "1e-3..1e-1:log", "loss.dice": "0.5..2", "channels": "4,8|2,4"}


def config(uri: str, **settings: Any) -> TuneConfig:
    given = {name: value for name, value in TINY.items() if name != "channels"}
    return TuneConfig(workspace=uri, **{**given, "study": "s", "search": SEARCH, "trials": 3, **settings})


def last_state(uri: str, run: str) -> dict[str, Any]:
    loaded = Run(Workspace.open(uri), run).load("last")
    assert loaded is not None
    return dict(loaded[1]["state"])


def models(uri: str) -> int:
    return len(list(Path(uri, "models").iterdir())) if Path(uri, "models").is_dir() else 0


def test_each_trial_is_a_run_and_the_best_is_told(uri: str) -> None:
    result = tune(config(uri))
    trials, best = result.details["trials"], result.details["best"]
    assert [(row["trial"], row["state"], row["run"]) for row in trials] == [(n, "complete", f"s-{n}") for n in range(3)]
    first = trials[0]["params"]
    assert (first["learning_rate"], first["loss.dice"]) == (3e-3, 1.0)  # what train would take; its channels are wider
    for row in trials:
        info = read_package(Workspace.open(uri), row["model"]).info
        assert info.scores["foreground_iou"] == row["score"]
        assert info.training["run"] == row["run"]
        assert info.training["learning_rate"] == row["params"]["learning_rate"]
        assert info.training["loss"] == {"ce": 1.0, "dice": row["params"]["loss.dice"]}
        assert ",".join(map(str, info.training["channels"])) == row["params"]["channels"]
    assert best["score"] == max(row["score"] for row in trials)
    package = read_package(Workspace.open(uri), best["model"])
    assert result.scores == package.info.scores
    assert result.paths == (package.folder,)
    assert result.details["model"] == best["model"]


def test_the_first_trial_is_what_train_would_take(uri: str) -> None:
    given = config(
        uri,
        trials=1,
        tile_px=None,
        loss={"ce": 1, "lovasz": 0.5},
        class_weights={"foreground": 2.0},
        search={
            "tile_px": "32|64",
            "loss.lovasz": "0..1",
            "loss.focal": "0.5..1",
            "class_weights.foreground": "1..3",
            "learning_rate": "1e-3..1e-2",
            "schedule": "poly|cosine",
            "augments.flip": "0..1",
        },
    )
    chosen = train(TrainConfig(workspace=uri, **{**TINY, "tile_px": None, "dry_run": True})).details["chosen"]
    params = tune(given).details["best"]["params"]
    assert 0.5 <= params.pop("loss.focal") <= 1
    assert chosen["tile_px"].startswith("64:")
    assert params == {
        "tile_px": "64",
        "loss.lovasz": 0.5,
        "class_weights.foreground": 2.0,
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "augments.flip": 0.875,
    }


def test_finished_trials_stay_and_more_can_be_asked_for(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tune(config(uri, trials=2))
    monkeypatch.setattr(loop.Learner, "step", None)  # any step would fail
    again = tune(config(uri, trials=2))
    assert again.details == first.details
    assert again.scores == first.scores
    monkeypatch.undo()
    more = tune(config(uri, trials=3))
    assert more.details["trials"][:2] == first.details["trials"]
    assert len(more.details["trials"]) == 3


def test_the_study_is_named_by_its_settings_but_not_by_how_many_or_where(uri: str) -> None:
    def name(**settings: Any) -> str:
        return str(tune(config(uri, **{"study": None, "dry_run": True, **settings})).details["study"])

    first = name()
    assert first.startswith("unet-tune-")
    assert name(trials=9, threads=2, workers=1, readers=1) == first
    assert len({first, name(seed=1), name(max_steps=5), name(search={"ema": "0.9|0.99"})}) == 4
    assert name(architecture="segnet", channels=(4, 8), search={"ema": "0.9|0.99"}).startswith("segnet-tune-")
    assert name(name="n").startswith("n-tune-")
    assert not Path(uri, "runs").exists()


def test_other_settings_under_the_same_study_are_refused(uri: str) -> None:
    tune(config(uri, trials=1))
    message = r"s: it was begun with max_steps = 4, now it is 5; give another --study, or none"
    with pytest.raises(PlanMismatchError, match=message):
        tune(config(uri, trials=1, max_steps=5))
    with pytest.raises(
        PlanMismatchError, match=r"search\.learning_rate = '1e-3\.\.1e-1:log', now it is '1e-3\.\.1e-2'"
    ):
        tune(config(uri, trials=1, search={**SEARCH, "learning_rate": "1e-3..1e-2"}))


@pytest.mark.slow
def test_killed_study_ends_as_an_undisturbed_one(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in its second trial, after a checkpoint: the first is not touched, the second goes on where it was."""
    settings = {"trials": 2, "max_steps": 30, "validate_every": 3}
    whole = tune(config(uri, study="whole", **settings))
    code = "import sys, json; from segcore.config import *; from segcore.tune import tune; "
    code += "tune(build_config(TuneConfig, json.loads(sys.argv[1])))"
    given = config(uri, study="killed", **settings).model_dump(mode="json", exclude_unset=True)
    child = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(given)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    last = Path(uri, "runs", "killed-1", "last.safetensors")
    deadline = time.monotonic() + 200
    while not last.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    left = last_state(uri, "killed-1")
    assert 0 < left["step"] < 30
    steps, step = [], loop.Learner.step
    monkeypatch.setattr(loop.Learner, "step", lambda self, *args, **how: steps.append(args) or step(self, *args, **how))
    again = tune(config(uri, study="killed", **settings))
    assert len(steps) == 30 - left["step"]
    for number in range(2):
        for name in ("curve.csv", "best.safetensors"):
            one, other = (Path(uri, "runs", f"{study}-{number}", name).read_bytes() for study in ("killed", "whole"))
            assert one == other
    assert [row["params"] for row in again.details["trials"]] == [row["params"] for row in whole.details["trials"]]
    assert [row["state"] for row in again.details["trials"]] == ["complete"] * 2
    assert again.scores == whole.scores


def test_a_pruned_trial_ends_early_without_a_model(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, notes = Study.watch, []

    def prune_second(self: Study, trial: Any, fraction: float, score: float) -> bool:
        watch(self, trial, fraction, score)
        return bool(trial.number == 1 and fraction > 0.4)

    class Listener(Silent):
        def note(self, message: str) -> None:
            notes.append(message)

    monkeypatch.setattr(Study, "watch", prune_second)
    result = tune(config(uri), Listener())
    row = result.details["trials"][1]
    assert (row["state"], row["run"], row.get("model")) == ("pruned", "s-1", None)
    assert (last_state(uri, "s-1")["step"], last_state(uri, "s-1")["finished"]) == (2, False)
    assert models(uri) == 2
    assert result.details["best"]["trial"] != 1
    assert "trial 1: below the median, ended early" in notes


def test_a_run_that_was_ended_early_can_go_on_to_the_same_end(uri: str) -> None:
    whole = train(TrainConfig(workspace=uri, run="whole", **TINY))
    seen: list[tuple[float, float]] = []
    settings = TrainConfig(workspace=uri, run="cut", **TINY)
    with pytest.raises(loop.StoppedError):
        train(settings, watch=lambda fraction, score: seen.append((fraction, score)) or fraction > 0.4)
    assert [fraction for fraction, _ in seen] == [0.25, 0.5]
    assert train(settings).scores == whole.scores
    curves = [Path(uri, "runs", run, "curve.csv").read_text().splitlines() for run in ("whole", "cut")]
    assert curves[0] == curves[1]
    header = curves[0][0].split(",").index("foreground_iou")
    assert [float(curves[0][step].split(",")[header]) for step in (1, 2)] == [score for _, score in seen]


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, runs: tuple[str, ...]) -> None:
    def train_or_fail(settings: TrainConfig, **how: Any) -> Any:
        if settings.run in runs:
            raise error
        return train(settings, **how)

    monkeypatch.setattr(stage, "train", train_or_fail)


def test_a_trial_that_fails_is_told_and_the_others_go_on(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, SegcoreError("run s-1: 20 steps in a row gave NaN or Inf"), ("s-1",))
    result = tune(config(uri))
    assert [row["state"] for row in result.details["trials"]] == ["complete", "failed", "complete"]
    assert result.details["trials"][1]["error"] == "run s-1: 20 steps in a row gave NaN or Inf"


def test_a_study_whose_trials_all_fail_says_why(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, SegcoreError("no luck"), ("s-0", "s-1", "s-2"))
    with pytest.raises(SegcoreError, match=r"^study s: all 3 trials failed; trial 0: no luck$"):
        tune(config(uri))


def test_a_store_that_is_away_stops_the_study_which_then_goes_on(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, StoreError("the disk is full"), ("s-1",))
    with pytest.raises(StoreError, match="the disk is full"):
        tune(config(uri))
    monkeypatch.undo()
    assert [row["state"] for row in tune(config(uri)).details["trials"]] == ["complete"] * 3


def test_what_a_study_cannot_do_is_refused(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^workers 2: one process runs one trial at a time"):
        tune(config(uri, workers=2))
    workspace = Workspace.open(str(tmp_path / "one"), create=True)
    put_image(workspace, "only", np.zeros((1, 64, 64), np.uint8), split="train")
    put_label(workspace, "only", "target", np.eye(64, dtype=np.uint8))
    with pytest.raises(ConfigError, match="no image is held out, so that trials cannot be compared"):
        tune(config(workspace.uri))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun's processes train one model together"):
        tune(config(uri))


def test_without_optuna_its_extra_is_named(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "segcore.tune.study")
    with pytest.raises(SegcoreError, match=r"^tune: a study needs the extra `tune`: pip install 'segcore\[tune\]'$"):
        tune(config(uri))
