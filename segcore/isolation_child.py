"""Isolation, the child's side: a loop that takes calls from the parent, keeps to its memory, and dies with it."""

import ctypes
import importlib
import json
import os
import pickle
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import psutil

from segcore.alive import heard_by
from segcore.errors import SegcoreError, SourceError

MIB = 2**20
HAS_DATA_LIMIT = sys.platform == "linux"
"""Linux counts all private writable memory under RLIMIT_DATA; macOS enforces no such limit, so the parent looks."""

Beat = Callable[..., None]
"""What a task's function calls after each finished piece: `beat()`, or `beat(amount)`. From one thread only."""


def serve() -> None:
    """The child's main loop: take jobs from the parent until it is gone."""
    settings = json.loads(sys.argv[1])
    _die_with(settings["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    connection = Connection(settings["fd"])
    memory = _MemoryLimit(settings["memory_mib"])
    while True:
        try:
            job = connection.recv_bytes()
        except (EOFError, OSError):
            return
        connection.send_bytes(_perform(job, connection, memory))


def _perform(job: bytes, connection: Connection, memory: "_MemoryLimit") -> bytes:
    """Run one job; the pickled answer, which never raises in the parent."""

    def beat(amount: int = 1) -> None:
        connection.send_bytes(pickle.dumps(("beat", amount)))

    label = "task"
    try:
        memory.lift()
        # From our own parent; this imports the function's module.
        function, args, label = pickle.loads(job)  # noqa: S301
        memory.set()
        connection.send_bytes(pickle.dumps(("started", memory.baseline_mib)))
        with heard_by(lambda: beat(0)):
            return pickle.dumps(("result", function(beat, *args)))
    except SegcoreError as error:
        return pickle.dumps(("error", error, traceback.format_exc()))
    except MemoryError as error:
        memory.lift()  # there must be room for the answer
        text = f"{label}: needs more than {memory.limit_mib} MiB of memory to decode (MemoryError); raise memory_mib"
        return pickle.dumps(("error", SourceError(text), _one_line(error)))
    except Exception as error:  # noqa: BLE001 - format libraries raise anything; the parent gets one line
        text = f"{label}: {type(error).__name__}: {_one_line(error)}"
        return pickle.dumps(("error", SourceError(text), traceback.format_exc()))


def found_by_name(module: str, name: str) -> Callable[..., Any]:
    """The function that `ByName` means; its module is imported."""
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


class _MemoryLimit:
    """RLIMIT_DATA at a fixed distance over what the child holds after its imports."""

    def __init__(self, limit_mib: int) -> None:
        self.limit_mib = limit_mib
        self.baseline_mib = held_mib(psutil.Process())
        self._before_mib = self.baseline_mib

    def lift(self) -> None:
        """Before a job's module is imported: imports count as baseline."""
        self._before_mib = held_mib(psutil.Process())
        _restrict_data(None)

    def set(self) -> None:
        """After the imports. What earlier jobs left behind is no baseline."""
        self.baseline_mib += max(0.0, held_mib(psutil.Process()) - self._before_mib)
        _restrict_data(self.baseline_mib + self.limit_mib)


def _restrict_data(mib: float | None) -> None:
    """Set the soft limit of private writable memory, or lift it."""
    if HAS_DATA_LIMIT:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        wanted = hard if mib is None else int(mib * MIB)
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def held_mib(process: psutil.Process) -> float:
    """What RLIMIT_DATA counts, in MiB; resident memory where that does not exist."""
    memory = process.memory_info()
    return float(getattr(memory, "data", memory.rss)) / MIB


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]


def _die_with(parent: int) -> None:
    """End this process when its parent ends, however it ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    if sys.platform != "linux":
        threading.Thread(target=watch, daemon=True).start()
