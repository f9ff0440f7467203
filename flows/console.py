"""Console: progress on a terminal or in a log, and a stage's result as text or as one JSON object."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from flows.options import Switches
from flows.tables import score_lines, shown, table_lines, to_four_figures
from segcore.progress import Progress, Silent
from segcore.results import STATED, ItemResult, StageResult

LINE_EVERY_S = 10.0
"""Between two progress lines where no terminal listens (cron, a log file)."""

MAX_SHOWN = 10
"""Paths, or parts of a list, that are shown; more would scroll the numbers away."""

STATES = {0: "done", 1: "failed", 3: "partly"}


class Lines(Silent):
    """Progress as plain lines on stderr, for cron and logs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stage, self._unit, self._status = "", "", ""
        self._total = self._done = 0
        self._began = self._said = 0.0

    def start(self, stage: str, total: int, unit: str) -> None:
        with self._lock:
            self._stage, self._total, self._unit, self._done, self._status = stage, total, unit, 0, ""
            self._began = self._said = time.monotonic()
            self._say(f"{stage}: {total} {unit}")

    def advance(self, amount: int = 1) -> None:
        with self._lock:
            self._done += amount
            now = time.monotonic()
            if now - self._said < LINE_EVERY_S and self._done < self._total:
                return
            self._said = now
            left_s = (now - self._began) / max(self._done, 1) * max(self._total - self._done, 0)
            share = f"{100 * self._done / self._total:.0f} %" if self._total else ""
            line = f"{self._stage}: {self._done}/{self._total} {self._unit}, {share}, {left_s:.0f} s left"
            self._say(f"{line} · {self._status}" if self._status else line)

    def note(self, message: str) -> None:
        with self._lock:
            self._say(message)

    def status(self, text: str) -> None:
        """It comes with the next line."""
        with self._lock:
            self._status = text

    @staticmethod
    def _say(text: str) -> None:
        typer.echo(text, err=True)


class Bars(Silent):
    """Progress as live bars on a terminal; one bar for each `start`."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        self._rich = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False, table_column=Column(no_wrap=True)),
            console=Console(stderr=True),
        )
        self._task: Any = None

    def open(self) -> None:
        self._rich.start()

    def close(self) -> None:
        self._rich.stop()

    def start(self, stage: str, total: int, unit: str) -> None:
        self._task = self._rich.add_task(stage, total=total, unit=unit, status="")

    def advance(self, amount: int = 1) -> None:
        if self._task is not None:
            self._rich.advance(self._task, amount)

    def status(self, text: str) -> None:
        if self._task is not None:
            self._rich.update(self._task, status=text)

    def note(self, message: str) -> None:
        self._rich.console.print(message, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_on_stderr() -> Iterator[Progress]:
    """Bars where stderr is a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    bars = Bars()
    bars.open()
    try:
        yield bars
    finally:
        bars.close()


@contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """What libraries and child processes print to stdout goes to stderr, so that stdout holds the result alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def result_object(result: StageResult) -> dict[str, Any]:
    """A stage's result as the object that `--json` prints.

    Beside `stage`, `state`, `paths`, `seconds`, `peak_mib` and (where there are any) `scores`, every source or
    image is listed with what became of it: under `sources` for ingest, under `images` for the rest.
    """
    items = [item.model_dump(mode="json", exclude_none=True) for item in result.items]
    found: dict[str, Any] = {"stage": result.stage, "state": STATES[result.exit_code], "paths": list(result.paths)}
    if result.scores is not None:
        found["scores"] = result.scores
    found |= {"seconds": result.seconds, "peak_mib": result.peak_mib}
    return found | {"sources" if result.stage == "ingest" else "images": items, "details": result.details}


def show_result(result: StageResult, switches: Switches) -> None:
    """Print what a stage did, and leave with its exit code; of torchrun's processes the first one speaks for all."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("RANK", "0") != "0":
        raise typer.Exit(result.exit_code)
    if switches.json:
        typer.echo(json.dumps(result_object(result), default=str))
    else:
        for line in result_lines(result):
            typer.echo(line)
    raise typer.Exit(result.exit_code)


def result_lines(result: StageResult) -> Iterator[str]:
    """What a stage did, for a person to read: failures first named, then numbers, then what to open."""
    for item in result.items:
        if item.state == "failed":
            yield f"failed: {named_error(item)}"
    if result.stage == "predict" and result.details.get("dry_run"):
        yield from planned_lines(result.details)
    elif result.stage == "tune" and "trials" in result.details:
        yield from tuned_lines(result.details)
    else:
        yield from mapping_lines(result.details)
    if result.scores:
        yield from score_lines(result.scores)
    for path in result.paths[:MAX_SHOWN]:
        yield f"-> {near(path)}"
    if len(result.paths) > MAX_SHOWN:
        yield f"-> and {len(result.paths) - MAX_SHOWN} more (all of them: --json)"
    yield one_line(result)


def tuned_lines(details: Mapping[str, Any]) -> Iterator[str]:
    """The trials of a study as a table, the best of them, and how to train it again."""
    trials = details["trials"]
    yield f"study: {details['study']}"
    rows = {}
    for row in trials:  # the command has the numbers in full
        params = {name: to_four_figures(value) for name, value in row["params"].items()}
        rows[str(row["trial"])] = {"state": row["state"], "score": row["score"], **params}
    yield from table_lines("trial", rows)
    if best := details.get("best"):
        yield f"best: trial {best['trial']}, run {best['run']}, model {best['model']}"
        yield f"to train with its settings: {details['command']}"


def planned_lines(details: Mapping[str, Any]) -> Iterator[str]:
    """What `predict --dry-run` found, and what else was settled."""
    tiles, skipped = details["tiles"], details.get("skipped_share", 0.0)
    yield "nothing was written; this is what would be done:"
    yield f"  tiles: {round(tiles * (1 - skipped))} of {tiles} to infer, {skipped:.1%} skipped"
    yield (
        f"  disk: about {size(details['disk_bytes'])} in {count(details['shards'], 'shard')} "
        f"({size(details['write_bytes'])} before compression)"
    )
    yield f"  memory: at most {details['memory_mib']} MiB"
    yield f"  time: about {duration(details['expected_s'])} ({duration(details['expected_cpu_s'])} of CPU time)"
    told = {"dry_run", "memory_mib", "skipped_share", *STATED}
    yield from mapping_lines({key: value for key, value in details.items() if key not in told})


def count(number: int, noun: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size(num_bytes: float) -> str:
    """Bytes for a person: `3.2 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds for a person: `12 s`, `5 min`, `3.2 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def near(path: str) -> str:
    """A path as seen from here, if it lies below; anything else as it is."""
    here = str(Path.cwd()) + os.sep
    return path.removeprefix(here)


def named_error(item: ItemResult) -> str:
    """An item's error, with the source or image before it unless it names that itself."""
    name, error = item.source or item.image or "?", item.error or "failed"
    return error if name in error else f"{name}: {error}"


def one_line(result: StageResult) -> str:
    """`predict: done, 3 done, 1 skipped in 12.3 s, peak memory 900 MiB`."""
    states = [item.state for item in result.items]
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("done", "skipped", "left", "failed") if state in states
    )
    return (
        f"{result.stage}: {counts or STATES[result.exit_code]} in {result.seconds:.1f} s, "
        f"peak memory {result.peak_mib:.0f} MiB"
    )


def mapping_lines(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """`key: value` lines; nested mappings are indented, lists stay on one line, long ones by their first."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from mapping_lines(value, indent + "  ")
        elif isinstance(value, list | tuple) and len(value) > MAX_SHOWN:
            yield f"{indent}{key}: {shown(value[:MAX_SHOWN])} and {len(value) - MAX_SHOWN} more (all of them: --json)"
        else:
            yield f"{indent}{key}: {shown(value)}"
