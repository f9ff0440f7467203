"""Parallel: two processes that torchrun starts learn what one does with the whole batch."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from segcore.config import TrainConfig
from segcore.errors import ConfigError
from segcore.store import Workspace
from segcore.training import train
from segcore.training.parallel import ALONE, Group
from tests.synthetic import put_discs

RECIPE: dict[str, Any] = {
    "channels": (4, 8), "tile_px": 32, "batch": 4, "threads": 1, "max_steps": 6, "device": "cpu", "amp": False,
    "accumulate": 2, "optimizer": "sgd", "learning_rate": 0.01, "validate_every": 3,
}  # fmt: skip


@pytest.fixture
def uri(tmp_path: Path) -> str:
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    put_discs(workspace, (False, False, True, True), (96, 80), ((30, 66), (30, 50)), 24, num_bands=2)
    return workspace.uri


def curve(uri: str, run: str) -> list[dict[str, float]]:
    rows = csv.DictReader(Path(uri, "runs", run, "curve.csv").read_text().splitlines())
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def torchrun(uri: str, run: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    code = "import sys, json; from segcore.config import *; from segcore.training import train; "
    code += "r = train(build_config(TrainConfig, json.loads(sys.argv[1]))); print(r.model_dump_json())"
    script = Path(uri, "job.py")
    script.write_text(code)
    values = json.dumps({"workspace": uri, "run": run, **RECIPE, **settings})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    return subprocess.run(
        [*command, values], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"augments": {"mixup": 0.5, "cutmix": 0.3}}], ids=["plain", "mixed"])
def test_two_processes_learn_what_one_does(uri: str, settings: dict[str, Any]) -> None:
    """Only the order of sums differs: of statistics, gradients and losses."""
    one = train(TrainConfig(workspace=uri, run="one", **RECIPE, **settings))
    done = torchrun(uri, "two", **settings)
    assert done.returncode == 0, done.stderr
    alone, shared = curve(uri, "one"), curve(uri, "two")
    assert [row["step"] for row in shared] == [row["step"] for row in alone] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(alone, shared, strict=True):
        assert a.keys() == b.keys()
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    weights = [safetensors.torch.load_file(Path(uri, "runs", run, "last.safetensors")) for run in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4, msg=name)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(told) == 2
    assert sorted(len(result["paths"]) for result in told) == [0, 2], "one process writes"
    assert told[0]["scores"] == told[1]["scores"]
    assert told[0]["scores"]["pixels"] == one.scores["pixels"] == 2 * 96 * 80  # type: ignore[index]
    assert len(Workspace.open(uri).objects.folders("models")) == 2


def test_a_batch_is_shared_evenly_or_refused() -> None:
    assert [list(Group(rank, 3).share_of(6)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ConfigError, match=r"batch 4: expected a multiple of the 3 processes that share it; .* is 3"):
        Group(0, 3).share_of(4)


def test_alone_nothing_is_exchanged() -> None:
    values = torch.ones(2, requires_grad=True)
    assert ALONE.gathered(values) is values
    assert ALONE.agreed(0.25) == 0.25
    assert list(ALONE.share_of(5)) == [0, 1, 2, 3, 4]
