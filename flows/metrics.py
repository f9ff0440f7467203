"""Metrics: what a stage came to -> *a Prometheus text file*, where `SEGCORE_METRICS` names a folder for such files.

One file for each stage and workspace, replaced in one step when the stage ends: what the textfile collector of
Prometheus' node_exporter reads. Nothing listens on a port, and nothing is lost while nobody asks.
"""

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from segcore.errors import utf8
from segcore.results import StageResult, State

log = logging.getLogger("segcore.metrics")

VARIABLE = "SEGCORE_METRICS"
"""Names the folder."""


@dataclass
class Outcome:
    """What became of a stage; without a result it stopped as a whole."""

    result: StageResult | None = None
    began: float = field(default_factory=time.monotonic)


@contextmanager
def counted(stage: str, settings: Mapping[str, Any]) -> Iterator[Outcome]:
    """While a stage runs, which leaves its result here; at its end the file is written, also where it failed.

    Args:
        stage: its name.
        settings: its workspace among them; a dry run tells nothing.
    """
    outcome, folder = Outcome(), os.environ.get(VARIABLE)
    try:
        yield outcome
    finally:
        if folder and not settings.get("dry_run"):
            _write(Path(folder), stage, str(settings["workspace"]), outcome)


def _write(folder: Path, stage: str, workspace: str, outcome: Outcome) -> None:
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    own = {"stage": stage, "workspace": workspace}
    for name, text, rows in _rows(outcome):
        labels = next(iter(rows), ({}, 0.0))[0]
        gauge = Gauge(f"segcore_{name}", text, [*own, *labels], registry=registry)
        for more, value in rows:
            gauge.labels(**own, **more).set(value)
    digest = hashlib.sha256(utf8(workspace)).hexdigest()[:8]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_to_textfile(str(folder / f"segcore-{stage}-{digest}.prom"), registry)
    except (OSError, ValueError) as error:  # the stage's work stands without its numbers
        log.warning("%s=%s: the metrics of %s cannot be written there: %s", VARIABLE, folder, stage, error)


Row = tuple[Mapping[str, str], float]


def _rows(outcome: Outcome) -> Iterator[tuple[str, str, list[Row]]]:
    """Name, meaning, and values with the labels that are their own."""
    result = outcome.result
    seconds = time.monotonic() - outcome.began
    yield "stage_ended_timestamp_seconds", "When the stage ended, Unix time.", [({}, time.time())]
    yield "stage_seconds", "How long it took.", [({}, seconds)]
    is_good = result is not None and all(item.state != "failed" for item in result.items)
    yield "stage_success", "1 if nothing failed, 0 if any image or all of it did.", [({}, float(is_good))]
    if result is None:
        return
    yield "stage_peak_bytes", "Highest memory of its processes together.", [({}, result.peak_mib * 2**20)]
    states = [item.state for item in result.items]
    yield (
        "stage_images",
        "Sources or images, by what became of them.",
        [({"state": state}, float(states.count(state))) for state in get_args(State)],
    )
    if tiles := sum(item.details.get("tiles", 0) for item in result.items):
        yield "stage_tiles", "Tiles, with those that were skipped.", [({}, float(tiles))]
    if (skipped := result.details.get("skipped_share")) is not None:
        yield "stage_skipped_tile_ratio", "Share of the tiles that were skipped.", [({}, float(skipped))]
    if scores := _scores(result):
        yield "score", "Scores over all scored images.", [({"score": name}, value) for name, value in scores.items()]


def _scores(result: StageResult) -> dict[str, float]:
    """Of all images together; without those that are not defined."""
    parts = [(result.scores or {}).get(part) or {} for part in ("overall", "instances", "probs")]
    found = {name: value for part in parts for name, value in part.items()}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
