"""Resume: a run that was interrupted or killed ends as an undisturbed one, and goes on by its own settings alone."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from segcore.config import TrainConfig
from segcore.errors import LeaseHeldError, PlanMismatchError
from segcore.models.package import read_package
from segcore.progress import Silent
from segcore.store import Lease, Objects, Workspace
from segcore.training import clock, learner, loop, stage, train
from tests.training.runs import TINY, files, rows, state


def test_interrupted_run_ends_as_an_undisturbed_one(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error at an awkward place: after the best weights were written, before the checkpoint was."""
    train(TrainConfig(workspace=uri, run="whole", **TINY))
    keep_best, calls = loop.Training._keep_best, []

    def failing(self: loop.Training, score: float) -> None:
        keep_best(self, score)
        calls.append(score)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Training, "_keep_best", failing)
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(workspace=uri, run="cut", **TINY))
    train(TrainConfig(workspace=uri, run="cut", **TINY))
    assert files(uri, "cut") == files(uri, "whole")


@pytest.mark.slow
def test_killed_run_ends_as_an_undisturbed_one(uri: str) -> None:
    settings = {**TINY, "max_steps": 40, "validate_every": 5, "workspace": uri}
    whole = train(TrainConfig(run="whole", **settings))
    code = "import sys, json; from segcore.config import *; from segcore.training import train; "
    code += "train(build_config(TrainConfig, json.loads(sys.argv[1])))"
    command = [sys.executable, "-c", code, json.dumps({**settings, "run": "killed"})]
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    last = Path(uri, "runs", "killed", "last.safetensors")
    deadline = time.monotonic() + 120
    while not last.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert len(rows(uri, "killed")) < 40
    again = train(TrainConfig(run="killed", **settings))
    assert files(uri, "killed") == files(uri, "whole")
    assert again.scores == whole.scores
    assert not list(Path(uri, "runs").rglob("*#*"))


def test_the_same_call_after_the_end_gives_the_package_that_stands(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(TrainConfig(workspace=uri, **TINY))
    monkeypatch.setattr(loop.Learner, "step", None)  # any step would fail
    second = train(TrainConfig(workspace=uri, **TINY))
    assert second.details["model"] == first.details["model"]
    assert len(list(Path(uri, "models").iterdir())) == 1


def test_run_with_other_settings_is_refused_with_the_difference_named(uri: str) -> None:
    train(TrainConfig(workspace=uri, run="r", **TINY))
    with pytest.raises(PlanMismatchError, match=r"run r: it was begun with batch = 2, now it is 3"):
        train(TrainConfig(workspace=uri, run="r", **{**TINY, "batch": 3}))


def test_minutes_are_kept_over_an_interruption(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second and a validation two; of the minute, these and six for the final scores are set aside."""
    now, interrupt_at = 0.0, -1
    step, count = loop.Learner.step, loop.HeldOut.count

    def slow_step(self: loop.Learner, batches: Any, rate: float, number: int, **how: bool) -> torch.Tensor:
        nonlocal now
        if number == interrupt_at:
            raise KeyboardInterrupt
        now += 1
        return step(self, batches, rate, number, **how)

    def slow_count(*arguments: Any) -> Any:
        nonlocal now
        now += 2
        return count(*arguments)

    for module in (clock, loop, stage):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(loop.Learner, "step", slow_step)
    monkeypatch.setattr(loop.HeldOut, "count", slow_count)
    settings = {**TINY, "max_steps": None, "minutes": 1, "workspace": uri}

    whole = train(TrainConfig(run="whole", **settings))
    interrupt_at = 30
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(run="cut", **settings))
    cut = state(uri, "cut")
    assert (cut["step"], cut["elapsed_s"]) == (21, 21 + 2 * 2)
    assert cut["validated_fraction"] == pytest.approx(23 / (60 - 2 - 6))
    now, interrupt_at = now + 1000, -1
    assert train(TrainConfig(run="cut", **settings)).details["steps"] == whole.details["steps"] == 46
    assert state(uri, "cut") == state(uri, "whole")
    assert state(uri, "cut")["elapsed_s"] == 46 + 4 * 2
    assert files(uri, "cut") == files(uri, "whole")


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": {"lovasz": 1.0, "focal": 0.5, "boundary": 0.1}, "class_weighting": "inverse", "schedule": "poly"},
        {"cache_mib": 0, "weights": {"i0": 2.0}},
        *(
            pytest.param(settings, marks=pytest.mark.slow)
            for settings in (
                {"accumulate": 3, "optimizer": "sgd", "schedule": "onecycle", "ema": 0.0},
                {"schedule": "plateau", "validate_every": 1, "dropout": 0.3, "label_smoothing": 0.1},
                {"deterministic": True, "loss": {"bce": 1.0, "tversky": 1.0}, "class_weights": {"foreground": 2.0}},
                {"cache_mib": 0, "sampling": "epoch"},
            )
        ),
    ],
    ids=["losses", "regions", "accumulate", "plateau", "deterministic", "epoch"],
)
def test_any_recipe_goes_on_bit_for_bit(uri: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    train(TrainConfig(workspace=uri, run="whole", **TINY, **settings))
    after, calls = loop.Training._after_step, []

    def stopping(self: loop.Training, fraction: float) -> None:
        after(self, fraction)
        calls.append(fraction)
        if len(calls) == 7:
            self._checkpoint()
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Training, "_after_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(workspace=uri, run="cut", **TINY, **settings))
    train(TrainConfig(workspace=uri, run="cut", **TINY, **settings))
    assert files(uri, "cut") == files(uri, "whole")


def test_a_run_is_not_gone_on_with_when_a_setting_is_left_out(uri: str) -> None:
    train(TrainConfig(workspace=uri, run="r", loss={"ce": 1.0, "dice": 1.0}, augments={"blur": 0.5}, **TINY))
    with pytest.raises(PlanMismatchError, match=r"begun with loss.dice = 1.0, now it is None"):
        train(TrainConfig(workspace=uri, run="r", loss={"ce": 1.0}, augments={"blur": 0.5}, **TINY))
    with pytest.raises(PlanMismatchError, match="run r: it was begun with augments"):
        train(TrainConfig(workspace=uri, run="r", loss={"ce": 1.0, "dice": 1.0}, **TINY))


def test_the_log_holds_what_was_told_and_when_over_an_interruption(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Listener(Silent):
        def note(self, message: str) -> None:
            told.append(message)

    monkeypatch.setattr(loop.Training, "final_px", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(TrainConfig(workspace=uri, run="r", **TINY), Listener())
    monkeypatch.undo()
    result = train(TrainConfig(workspace=uri, run="r", **TINY), Listener())
    lines = [line.split(" ", 1) for line in Path(uri, "runs", "r", "log.txt").read_text().splitlines()]
    assert [message for _, message in lines] == told
    assert told[0].startswith("chosen: norm")
    assert told[-1] == f"model {result.details['model']}: {result.paths[0]}"
    times = [datetime.fromisoformat(moment) for moment, _ in lines]
    assert times == sorted(times)
    assert datetime.now(UTC) - times[-1] < timedelta(minutes=2)


def test_a_run_that_another_process_is_at_is_refused(uri: str) -> None:
    resolved = TrainConfig(workspace=uri, run="shared", **TINY)
    with (
        Lease(Objects(uri), "runs/shared/lease"),
        pytest.raises(LeaseHeldError, match=r"runs/shared/lease: process \d+"),
    ):
        train(resolved)
    assert train(resolved).details["run"] == "shared"


def test_a_finished_run_keeps_its_precision_and_its_package(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainConfig(workspace=uri, run="r", **TINY)
    monkeypatch.setattr(learner, "faster_formats", lambda device: ["bfloat16"])
    first = train(settings)
    monkeypatch.setattr(learner, "faster_formats", lambda device: [])
    assert train(settings).paths == first.paths
    package = read_package(Workspace.open(uri), first.details["model"])
    assert package.info.training["precision"] == "bfloat16"
