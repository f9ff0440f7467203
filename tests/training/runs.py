"""Small runs of training, and what they leave."""

import csv
from pathlib import Path
from typing import Any

from segcore.store import Workspace
from segcore.training.runs import Run

TINY: dict[str, Any] = {"channels": (4, 8), "tile_px": 32, "batch": 2, "threads": 1, "max_steps": 12, "device": "cpu"}


def files(uri: str, run: str) -> dict[str, bytes]:
    """What decides how a run goes on or what it made; not what holds times."""
    return {name: Path(uri, "runs", run, name).read_bytes() for name in ("curve.csv", "best.safetensors")}


def state(uri: str, run: str) -> dict[str, Any]:
    """Where the run's last checkpoint stands."""
    loaded = Run(Workspace.open(uri), run).load("last")
    assert loaded is not None
    return dict(loaded[1]["state"])


def rows(uri: str, run: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(uri, "runs", run, "curve.csv").read_text().splitlines()))
