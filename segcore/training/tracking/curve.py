"""Curve: loss, learning rate and scores by step -> *curve.csv*, TensorBoard, and MLflow where it is asked for."""

import csv
import io
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from torch import nn

from segcore.progress import Progress
from segcore.training.runs import Run
from segcore.training.tracking.events import Events
from segcore.training.tracking.glimpse import Shown
from segcore.training.tracking.mlflow import MlflowRun

Row = dict[str, float | int]


class Tracker(Protocol):
    """Gets what the curve gets; keeps it until `write`, so that it never knows more than the checkpoint."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one step; a step may come in several parts."""

    def pictures(self, step: int, shown: Shown) -> None:
        """What the model makes of some held-out tiles, at a validation."""

    def graph(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        """The network, once, by a forward of a batch of that shape; may not fail a run."""

    def write(self, step: int) -> None:
        """A checkpoint of the step is about to be written."""

    def close(self, finished: bool) -> None:
        """The run is at its end, or was interrupted: what was not written is dropped, as by a kill."""


class Curve:
    """Rows by step; kept in memory, written whole at each checkpoint. It ends with its `with` block."""

    def __init__(self, run: Run, upto_step: int, listener: Progress) -> None:
        """Go on from the rows that the run has up to a step; later ones will be made again."""
        self._run, self._listener = run, listener
        text = (run.get("curve.csv") or b"").decode()
        read = csv.DictReader(io.StringIO(text))
        self.rows: list[Row] = [row for row in map(_numbers, read) if row["step"] <= upto_step]
        self._newest: Row = {name: value for row in self.rows for name, value in row.items()}
        self.trackers: list[Tracker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self.trackers:
            tracker.close(finished=error is None)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one step; a second call for a step adds columns to its row."""
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1].update(values)
        else:
            self.rows.append({"step": step, **values})
        self._newest.update(values)
        for tracker in self.trackers:
            tracker.scalars(step, values)

    def show(self, step: int, shown: Shown) -> None:
        """Pictures of a validation."""
        for tracker in self.trackers:
            tracker.pictures(step, shown)

    def draw(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        """The network; a run that goes on has it already."""
        for tracker in self.trackers:
            tracker.graph(model, shape)

    def recent(self, name: str, num_rows: int) -> float:
        """Mean of the last values of a column."""
        values = [row[name] for row in self.rows[-num_rows:] if name in row]
        return sum(values) / max(1, len(values))

    def last(self, name: str) -> float | None:
        """The newest value of a column; None before the first."""
        return self._newest.get(name)

    def write(self, step: int) -> None:
        """Write all rows, and have the trackers write, before the checkpoint of a step."""
        self._run.put("curve.csv", csv_of(self.rows).encode())
        for tracker in self.trackers:
            tracker.write(step)
        if self._run.writes:
            self._listener.curve(self._run.run_id, tuple(self.rows))


def tracked(run: Run, upto_step: int, mlflow_uri: str | None, listener: Progress) -> Curve:
    """The curve of a run with all that listens to it; of several processes the one that writes has trackers.

    Args:
        run: which has the rows, where it goes on.
        upto_step: of its last checkpoint.
        mlflow_uri: server or folder of MLflow.
        listener: hears of the curve at each checkpoint.

    Raises:
        ConfigError: if the extra `mlflow` is asked for and not installed.
    """
    curve = Curve(run, upto_step, listener)
    if run.writes:
        curve.trackers.append(Events(run, upto_step, listener.note))
        if mlflow_uri is not None:
            curve.trackers.append(MlflowRun(mlflow_uri, run, curve.rows, listener.note))
    return curve


def csv_of(rows: Sequence[Mapping[str, float]]) -> str:
    """Rows as CSV; a column for each name, in the order in which they first came."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _numbers(row: Mapping[str, str]) -> Row:
    return {name: int(value) if name == "step" else float(value) for name, value in row.items() if value}
