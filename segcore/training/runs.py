"""Runs: what a training run leaves in the workspace while it goes on, each file written in one piece.

    runs/<run_id>/
        config.json         resolved config, data digest, versions: a run is never mixed with another
        last.safetensors    everything that decides how the run goes on
        best.safetensors    weights of the best validation
        curve.csv           step, loss, learning rate, validation scores
        scores.json         those of the finished model
        log.txt             what was told to the user, and when
        tensorboard/        the curve once more, for TensorBoard
        example.png         the picture on the model's card
        lease/              who trains at this moment

Checkpoints are safetensors with a JSON note in the header, so that reading one can run no code.
"""

import csv
import io
import json
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch.utils.tensorboard.writer import SummaryWriter

from segcore.errors import PlanMismatchError, StoreError
from segcore.progress import Progress
from segcore.store import Lease, Workspace

Tensors = dict[str, torch.Tensor]
Row = dict[str, float | int]


class Run:
    """One run's folder."""

    def __init__(self, workspace: Workspace, run_id: str, writes: bool = True) -> None:
        """Of several processes that train together one alone writes; `writes` = it is this one."""
        self.run_id, self.prefix, self.writes = run_id, f"runs/{run_id}", writes
        self._objects, self._describe = workspace.objects, workspace.describe

    def describe(self, name: str = "") -> str:
        """The path or URL of a file of the run, for people."""
        return self._describe(f"{self.prefix}/{name}".rstrip("/"))

    def agree(self, resolved: Mapping[str, Any]) -> None:
        """Write config.json, or check that the run which stands under this id was begun with the same.

        Raises:
            PlanMismatchError: naming the first difference.
        """
        text = json.dumps(resolved, indent=2, sort_keys=True).encode() + b"\n"
        if self.writes and self._objects.put_new(f"{self.prefix}/config.json", text):
            return
        standing = self._objects.get(f"{self.prefix}/config.json")
        try:
            old = dict(_flat(json.loads(standing or b"{}")))
        except ValueError as error:
            raise StoreError(f"{self.describe('config.json')}: damaged; give another --run") from error
        for key, value in _flat(json.loads(text)):
            if old.get(key) != value:
                raise PlanMismatchError(
                    f"run {self.run_id}: it was begun with {key} = {old.get(key)!r}, now it is {value!r}; "
                    "give another --run, or none"
                )

    def lease(self) -> AbstractContextManager[object]:
        """Keeps other processes out of this run, for the length of a `with`.

        Raises:
            LeaseHeldError: if one is at work on it.
        """
        return Lease(self._objects, f"{self.prefix}/lease") if self.writes else nullcontext()

    def save(self, name: str, tensors: Mapping[str, torch.Tensor], note: Mapping[str, Any]) -> None:
        """Write a checkpoint, "last" or "best"."""
        if not self.writes:
            return
        held = {key: value.detach().to("cpu").contiguous() for key, value in tensors.items()}
        data = safetensors.torch.save(held, metadata={"note": json.dumps(note)})
        self._objects.put(f"{self.prefix}/{name}.safetensors", data)

    def load(self, name: str) -> tuple[Tensors, dict[str, Any]] | None:
        """A checkpoint's tensors and note, or None if there is none yet.

        Raises:
            StoreError: if it is damaged.
        """
        data = self._objects.get(f"{self.prefix}/{name}.safetensors")
        if data is None:
            return None
        try:
            tensors = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            return tensors, json.loads(header["__metadata__"]["note"])
        except (SafetensorError, ValueError, KeyError) as error:
            where = self.describe(f"{name}.safetensors")
            raise StoreError(f"{where}: damaged checkpoint ({error}); give another --run") from error

    def has(self, name: str) -> bool:
        """True if there is such a checkpoint."""
        return self._objects.size(f"{self.prefix}/{name}.safetensors") is not None

    def put(self, name: str, data: bytes) -> None:
        """Write a file of the run."""
        if self.writes:
            self._objects.put(f"{self.prefix}/{name}", data)

    def get(self, name: str) -> bytes | None:
        """A file of the run, or None."""
        return self._objects.get(f"{self.prefix}/{name}")


class Log:
    """A listener that passes everything on, and adds each note to the run's log.txt."""

    def __init__(self, run: Run, listener: Progress) -> None:
        """Go on from the lines that the run has."""
        self._run = run
        self._text = (run.get("log.txt") or b"").decode()
        self.start, self.advance, self._tell = listener.start, listener.advance, listener.note

    def note(self, message: str) -> None:
        """Write the log anew with one more line; notes come about as often as checkpoints."""
        self._text += f"{datetime.now(UTC).isoformat(timespec='seconds')} {message}\n"
        self._run.put("log.txt", self._text.encode())
        self._tell(message)


class Curve:
    """Loss, rate and scores by step; kept in memory, written whole at each checkpoint."""

    def __init__(self, run: Run, upto_step: int) -> None:
        """Go on from the rows that the run has up to a step; later ones will be made again."""
        self._run = run
        text = (run.get("curve.csv") or b"").decode()
        read = csv.DictReader(io.StringIO(text))
        self.rows: list[Row] = [row for row in map(_numbers, read) if row["step"] <= upto_step]
        self._folder = tempfile.TemporaryDirectory(prefix="segcore-events-")
        self._events = SummaryWriter(self._folder.name, purge_step=upto_step + 1 if upto_step else None)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one step; a second call for a step adds columns to its row."""
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1].update(values)
        else:
            self.rows.append({"step": step, **values})
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def recent(self, name: str, num_rows: int) -> float:
        """Mean of the last values of a column."""
        values = [row[name] for row in self.rows[-num_rows:] if name in row]
        return sum(values) / max(1, len(values))

    def write(self) -> None:
        """Write all rows, and the events so far."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        self._run.put("curve.csv", text.getvalue().encode())
        self._events.flush()
        for path in Path(self._folder.name).iterdir():
            self._run.put(f"tensorboard/{path.name}", path.read_bytes())

    def close(self) -> None:
        """End the events; what was not written is dropped, as a killed run would."""
        self._events.close()
        self._folder.cleanup()


def _numbers(row: Mapping[str, str]) -> Row:
    return {name: int(value) if name == "step" else float(value) for name, value in row.items() if value}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return rows
