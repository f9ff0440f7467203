"""MLflow: the curve -> *a run on an MLflow server*, or in a folder or database of it (extra `mlflow`).

Numbers and settings only: no picture leaves the workspace. A thread of its own sends, so that no step waits for a
server; one that is down costs a note.
"""

import importlib.util
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from torch import nn

from segcore.errors import ConfigError
from segcore.training.runs import Run
from segcore.training.tracking.glimpse import Shown

EXPERIMENT = "segcore"
DEFAULTS = {
    "MLFLOW_ALLOW_FILE_STORE": "true",  # MLflow 3 refuses a folder else; here the user asked for one
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # what was not sent goes with the next checkpoint
}
"""MLflow's settings where the user chose none; they have to stand before it is imported."""
MAX_SENT = 500
"""Numbers in one request; MLflow takes a thousand."""
MAX_PARAM = 500
"""Characters of a setting."""
CLOSE_S = 20.0
"""How long a run waits at its end for what is still to be sent."""

Number = tuple[int, str, float, int]
"""Step, name, value, time in ms."""


class MlflowRun:
    """A tracker that sends to MLflow; a run that goes on stays one run there too.

    Args:
        uri: of the server, folder or database.
        run: keeps the id of the MLflow run.
        rows: of the curve so far; what the server lacks of them is sent first.
        tell: listens to what fails.

    Raises:
        ConfigError: if the extra `mlflow` is not installed.
    """

    def __init__(self, uri: str, run: Run, rows: Sequence[Mapping[str, float]], tell: Callable[[str], None]) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise ConfigError(f"mlflow {uri}: needs the extra `mlflow`: pip install 'segcore[mlflow]'")
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        self._uri, self._run, self._tell = uri, run, tell
        self._shown = without_password(uri)
        self._new: list[Number] = []
        self._due: list[Number] = []
        self._lock = threading.Lock()
        self._client: Any = None
        self._id = ""
        self._sent: dict[str, int] = {}
        self._has_failed = False
        self._ended: str | None = None
        self._wake = threading.Event()
        for row in rows:
            self.scalars(int(row["step"]), {name: value for name, value in row.items() if name != "step"})
        self.write(0)
        self._thread = threading.Thread(target=self._send_until_ended, name="segcore-mlflow", daemon=True)
        self._thread.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now_ms = int(1000 * time.time())
        self._new += [(step, name, value, now_ms) for name, value in values.items()]

    def pictures(self, step: int, shown: Shown) -> None:
        """Held-out tiles may be a patient's: they stay in the workspace."""

    def graph(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        """MLflow has no place for it."""

    def write(self, step: int) -> None:
        with self._lock:
            self._due += self._new
        self._new.clear()
        self._wake.set()

    def close(self, finished: bool) -> None:
        self._ended = "FINISHED" if finished else "KILLED"
        self._wake.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive() or self._due:
            self._tell(f"mlflow {self._shown}: it lacks some of the curve; {self._run.describe('curve.csv')} has all")

    def _send_until_ended(self) -> None:
        ended = None
        while ended is None:
            self._wake.wait()
            self._wake.clear()
            ended = self._ended
            try:
                self._connect()
                self._send()
                if ended is not None:
                    self._client.set_terminated(self._id, status=ended)
            except Exception as error:  # noqa: BLE001 - whatever the server does, the training goes on
                if not self._has_failed:
                    self._has_failed = True
                    reason = " ".join(str(error).replace(self._uri, self._shown).split())[:300]
                    self._tell(f"mlflow {self._shown}: not reached, the training goes on without it: {reason}")

    def _connect(self) -> None:
        """Begin a run there, or find this one's and what it has."""
        if self._client is not None:
            return
        from mlflow import MlflowClient  # seconds, and an extra

        client = MlflowClient(tracking_uri=self._uri)
        kept = json.loads(self._run.get("mlflow.json") or b"{}")
        if kept.get("uri") == self._shown:
            self._id = kept["run_id"]
            client.update_run(self._id, status="RUNNING")
            for name in client.get_run(self._id).data.metrics:
                self._sent[name] = max(number.step for number in client.get_metric_history(self._id, name))
        else:
            found = client.get_experiment_by_name(EXPERIMENT)
            experiment_id = client.create_experiment(EXPERIMENT) if found is None else found.experiment_id
            self._id = client.create_run(experiment_id, run_name=self._run.run_id).info.run_id
            self._run.put("mlflow.json", json.dumps({"uri": self._shown, "run_id": self._id}).encode())
            for name, value in json.loads(self._run.get("config.json") or b"{}").items():
                client.log_param(self._id, name, str(value)[:MAX_PARAM])
        self._client = client

    def _send(self) -> None:
        """All that is due, but for what the run there has from before a kill."""
        from mlflow.entities import Metric

        while self._due:
            some = self._due[:MAX_SENT]
            lacking = [
                Metric(name, value, now_ms, step)
                for step, name, value, now_ms in some
                if step > self._sent.get(name, 0)
            ]
            if lacking:
                self._client.log_batch(self._id, metrics=lacking)
            with self._lock:
                del self._due[: len(some)]


def without_password(uri: str) -> str:
    """The URI without the user and password that may stand in it."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else uri
