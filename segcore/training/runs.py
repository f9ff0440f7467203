"""Runs: what a training run leaves in the workspace while it goes on, each file written in one piece.

    runs/<run_id>/
        config.json         resolved config, data digest, versions: a run is never mixed with another
        last.safetensors    everything that decides how the run goes on
        best.safetensors    weights of the best validation
        curve.csv           step, loss, learning rate, validation scores
        scores.json         those of the finished model
        log.txt             what was told to the user, and when
        tensorboard/        the curve once more, with pictures, for TensorBoard
        mlflow.json         which run of an MLflow server has the curve too
        example.png         the picture on the model's card
        lease/              who trains at this moment

Checkpoints are safetensors with a JSON note in the header, so that reading one can run no code.
"""

import json
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from segcore.errors import PlanMismatchError, StoreError
from segcore.progress import Progress
from segcore.store import Lease, Workspace

Tensors = dict[str, torch.Tensor]


class Run:
    """One run's folder."""

    def __init__(self, workspace: Workspace, run_id: str, writes: bool = True) -> None:
        """Of several processes that train together one alone writes; `writes` = it is this one."""
        self.run_id, self.prefix, self.writes = run_id, f"runs/{run_id}", writes
        self._objects, self._describe = workspace.objects, workspace.describe

    def describe(self, name: str = "") -> str:
        """The path or URL of a file of the run, for people."""
        return self._describe(f"{self.prefix}/{name}".rstrip("/"))

    def agree(self, resolved: Mapping[str, Any], option: str = "--run") -> None:
        """Write config.json, or check that the run which stands under this id was begun with the same.

        Args:
            resolved: all that decides how it goes, JSON.
            option: that gives it another id.

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
            raise StoreError(f"{self.describe('config.json')}: damaged; give another {option}") from error
        new = dict(_flat(json.loads(text)))
        for key in dict.fromkeys([*new, *old]):  # what is left out now differs, too
            if old.get(key) != new.get(key):
                raise PlanMismatchError(
                    f"run {self.run_id}: it was begun with {key} = {old.get(key)!r}, now it is {new.get(key)!r}; "
                    f"give another {option}, or none"
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
        self._run, self._lock = run, threading.Lock()
        self._text = (run.get("log.txt") or b"").decode()
        self.start, self.advance, self._tell = listener.start, listener.advance, listener.note
        self.status, self.curve = listener.status, listener.curve

    def note(self, message: str) -> None:
        """Write the log anew with one more line; notes come about as often as checkpoints."""
        with self._lock:
            self._text += f"{datetime.now(UTC).isoformat(timespec='seconds')} {message}\n"
            self._run.put("log.txt", self._text.encode())
        self._tell(message)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return rows
