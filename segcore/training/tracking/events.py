"""Events: the curve, with pictures -> *TensorBoard's files*, one for the steps between two checkpoints.

    tensorboard/events.out.tfevents.000000000    steps 1..120
    tensorboard/events.out.tfevents.000000120    steps 121..240

A file is named by the checkpoint that it begins at, and written once, when the next one is due. A run that was killed
and goes on from checkpoint 120 writes file 120 anew: no step is ever there twice. A file that grew would be replaced
whole by the store, and a TensorBoard that has it open would not see that.
"""

import copy
import io
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import nn
from torch.utils.tensorboard.summary import image, pr_curve, scalar
from torch.utils.tensorboard.writer import SummaryWriter

from segcore.training.runs import Run
from segcore.training.tracking.glimpse import Shown


class Events:
    """A tracker that writes for TensorBoard."""

    def __init__(self, run: Run, upto_step: int, tell: Callable[[str], None]) -> None:
        """Go on after a step; what is told is why something cannot be shown."""
        self._run, self._tell = run, tell
        self._is_drawn = upto_step > 0
        self._begin(upto_step)

    def _begin(self, step: int) -> None:
        self._first, self._data = step, io.BytesIO()
        self._records = RecordWriter(self._data)
        self._record(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def _record(self, event: Any) -> None:
        self._records.write(event.SerializeToString())

    def _summarise(self, step: int, values: Any) -> None:
        self._record(Event(wall_time=time.time(), step=step, summary=values))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._summarise(step, scalar(name, value))  # type: ignore[no-untyped-call]

    def pictures(self, step: int, shown: Shown) -> None:
        for number, (name, picture) in enumerate(zip(shown.names, shown.pictures, strict=True), 1):
            self._summarise(step, image(f"target and mask/{number} {name}", picture, dataformats="HWC"))  # type: ignore[no-untyped-call]
        for name, (is_class, probs) in shown.per_class.items():
            self._summarise(step, pr_curve(f"precision and recall/{name}", is_class, probs))  # type: ignore[no-untyped-call]

    def graph(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        """The network as traced on the CPU; one that cannot be traced is noted."""
        if self._is_drawn:
            return
        self._is_drawn = True
        try:
            self._data.write(_graph_of(model, shape))
        except Exception as error:  # noqa: BLE001 - whatever a tracer cannot follow, the run goes on
            reason = " ".join(str(error).split())[:200]
            self._tell(f"TensorBoard will lack the graph of the network, which cannot be traced: {reason}")

    def write(self, step: int) -> None:
        self._run.put(f"tensorboard/events.out.tfevents.{self._first:09d}", self._data.getvalue())
        if step > self._first:
            self._begin(step)

    def close(self, finished: bool) -> None:
        self._data.close()


def _graph_of(model: nn.Module, shape: tuple[int, ...]) -> bytes:
    """An events file with the graph alone; records can be put one after the other, so it can follow others."""
    with tempfile.TemporaryDirectory(prefix="segcore-graph-") as folder:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),  # torch prints its errors before it raises them
            closing(SummaryWriter(folder)) as writer,
        ):
            warnings.simplefilter("ignore")  # tracing is deprecated in torch, and all that TensorBoard's graph has
            writer.add_graph(copy.deepcopy(model).cpu(), torch.zeros(shape))
        return b"".join(path.read_bytes() for path in Path(folder).iterdir())
