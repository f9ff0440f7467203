"""Isolation: doubtful code (decoders of users' files) runs in child processes that may die.

    tasks --> ChildPool --pickle over a socket--> child: limit memory, call function(beat, *args)
      outcomes <--            beats, result, or silence / death --> killed, replaced, tried once more

Each child is a fresh interpreter (never a fork, and `__main__` is never run again), lives for many tasks,
may take a stated amount of memory over its own, must give a sign of life (a *beat*) before a deadline, and
dies with its parent. What the C libraries print goes nowhere. The pool knows nothing of images.
"""

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, Self

import psutil

from segcore.errors import SegcoreError, SourceError
from segcore.isolation_child import HAS_DATA_LIMIT, Beat, found_by_name, held_mib

__all__ = ["Beat", "ByName", "ChildPool", "Crew", "Outcome", "Task"]

START_DEADLINE_S = 120.0
"""A child that has not started, or not imported the task's module, by then is broken (busy machines are slow)."""
POLL_S = 0.25
"""How often memory is looked at where the system does not enforce a limit."""
MAX_ATTEMPTS = 2
BOOT = "from segcore.isolation_child import serve; serve()"
CHILD_ENVIRON = {
    # One task, one core: the pool is the parallelism, and every thread's stack counts as memory.
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"),
    "MALLOC_ARENA_MAX": "2",
    # Memory of one shard is used again for the next: giving it back and asking anew cost a fifth of the time.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}


@dataclass(frozen=True)
class ByName:
    """A task's function, for a parent that shall not load what its module loads: pickled, it becomes the function."""

    module: str
    name: str

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return found_by_name, (self.module, self.name)


@dataclass(frozen=True, slots=True)
class Task:
    """A call that a child makes: `function(beat, *args)`; it calls `beat()` or `beat(amount)` after each piece.

    Within a piece `segcore.alive` beats as well, where a file is fetched or unpacked. The function is found by its
    module and name, so it stands at the top level of an importable module; arguments and result are pickled. It may be
    run twice (a child that died is replaced), so it must be safe to repeat.
    """

    function: Callable[..., Any] | ByName
    args: tuple[Any, ...]
    label: str
    """What errors name: the file."""
    open_deadline_s: float = 60.0
    """Silence allowed before the first beat."""
    read_deadline_s: float = 120.0
    """Silence allowed after any beat."""

    def __post_init__(self) -> None:
        assert self.function.__module__ != "__main__", f"{self.function} must stand in a module that can be imported"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task: exactly one of `result` and `error` counts."""

    task: Task
    result: Any = None
    error: SegcoreError | None = None
    """One line that names the task's label; None if it went well."""
    attempts: int = 1
    traceback: str | None = None
    """The child's traceback, for --debug."""


class Crew(Protocol):
    """Processes that run tasks: a `ChildPool`, or others elsewhere."""

    @property
    def processes(self) -> int:
        """How many there are now."""

    def run(self, tasks: Iterable[Task], on_beat: Callable[[Task, int], None] | None = None) -> Iterator[Outcome]:
        """Run tasks, taken one by one as processes come free; their outcomes come as they finish."""


class ChildPool:
    """Long-lived child processes that run tasks under a memory limit and deadlines.

    Use as a context manager; one `run` at a time.

    Args:
        processes: number of children; they are started when tasks come.
        memory_mib: memory that a task may take, over what its child holds after start and imports.
    """

    def __init__(self, processes: int, memory_mib: int = 1024) -> None:
        if processes < 1 or memory_mib < 1:
            raise ValueError(f"a pool needs processes and memory, got {processes} processes, {memory_mib} MiB")
        self.processes = processes
        self._memory_mib = memory_mib
        # What children put into temporary files goes with the pool, however a child ends.
        self._folder = tempfile.TemporaryDirectory(prefix="segcore-", ignore_cleanup_errors=True)
        self._idle: list[_Child] = []
        self._busy: dict[Connection, _Child] = {}
        # The kernel kills a child when the *thread* that started it ends: so one thread starts them all, and
        # lives as long as the pool.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="child-starter")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all children."""
        for child in (*self._idle, *self._busy.values()):
            child.kill()
        self._idle.clear()
        self._busy.clear()
        self._starter.shutdown()
        self._folder.cleanup()

    def run(self, tasks: Iterable[Task], on_beat: Callable[[Task, int], None] | None = None) -> Iterator[Outcome]:
        """Run tasks; their outcomes come as they finish.

        Args:
            tasks: consumed one by one, as children come free. While the next one is being made, nobody watches
                the deadlines: it must not block for long.
            on_beat: called in this thread at every beat, with its amount; a task that is tried again beats again.

        Yields:
            One outcome per task. An error that the function raises as SegcoreError is passed on as it is; any
            other, and a child that dies or overruns twice, becomes a SourceError of one line.
        """
        assert not self._busy, "one run at a time"
        waiting = iter(tasks)
        again: deque[_Job] = deque()
        exhausted = False
        try:
            while True:
                while not exhausted and not again and len(self._busy) < self.processes:
                    task = next(waiting, None)
                    if task is None:
                        exhausted = True
                    else:
                        self._begin(_Job(task))
                while again and len(self._busy) < self.processes:
                    self._begin(again.popleft())
                if not self._busy:
                    if exhausted and not again:
                        return
                    continue
                for child in self._step(on_beat):
                    job = child.job
                    assert job is not None
                    if job.outcome is None:
                        again.append(job)
                    else:
                        yield job.outcome
        finally:
            for child in self._busy.values():
                child.kill()
            self._busy.clear()

    def _begin(self, job: "_Job") -> None:
        """Give a job to an idle or a new child."""
        child = self._idle.pop() if self._idle else self._new_child()
        job.attempts += 1
        child.give(job)
        self._busy[child.connection] = child

    def _new_child(self) -> "_Child":
        return self._starter.submit(_Child, self._memory_mib, self._folder.name).result()

    def _step(self, on_beat: Callable[[Task, int], None] | None) -> "list[_Child]":
        """Wait for messages, deaths and deadlines; children whose attempt is over, taken out of the busy ones."""
        timeout = max(0.0, min(child.silent_until for child in self._busy.values()) - time.monotonic())
        if not HAS_DATA_LIMIT:
            timeout = min(timeout, POLL_S)
        ready = wait(list(self._busy), timeout)
        over = []
        for connection, child in list(self._busy.items()):
            if connection in ready:
                self._receive(child, on_beat)
            elif time.monotonic() >= child.silent_until:
                child.fail(f"no sign of life for {child.allowed_s:g} s while {child.phase}; stopped")
            elif not HAS_DATA_LIMIT and child.held_mib() > child.baseline_mib + self._memory_mib:
                child.fail(f"needs more than {self._memory_mib} MiB of memory to decode; raise memory_mib")
            if not child.running:
                over.append(child)
                del self._busy[connection]
                if child.alive and child.held_mib() > child.baseline_mib + self._memory_mib / 2:
                    child.kill()  # what this task left behind must not fail a later one
                elif child.alive:
                    self._idle.append(child)
        return over

    def _receive(self, child: "_Child", on_beat: Callable[[Task, int], None] | None) -> None:
        """Take one message of a child, or notice its death."""
        job = child.job
        assert job is not None
        try:
            kind, *content = pickle.loads(child.connection.recv_bytes())  # noqa: S301 - from our own child
        except (EOFError, OSError):
            child.fail(f"decoder crashed ({child.death()})")
            return
        if kind == "started":
            child.baseline_mib = content[0]
            child.expect("opening", job.task.open_deadline_s)
        elif kind == "beat":
            child.expect("reading", job.task.read_deadline_s)
            if on_beat is not None:
                on_beat(job.task, content[0])
        elif kind == "result":
            child.finish(Outcome(job.task, result=content[0], attempts=job.attempts))
        else:
            assert kind == "error", kind
            error, text = content
            child.finish(Outcome(job.task, error=error, attempts=job.attempts, traceback=text))


@dataclass(eq=False, slots=True)
class _Job:
    """A task on its way, over its attempts."""

    task: Task
    attempts: int = 0
    outcome: Outcome | None = None


@dataclass(eq=False, slots=True)
class _Child:
    """The parent's side of one child process."""

    memory_mib: int
    folder: str
    process: "subprocess.Popen[bytes]" = field(init=False)
    connection: Connection = field(init=False)
    job: _Job | None = None
    running: bool = False
    alive: bool = True
    phase: str = "starting"
    allowed_s: float = START_DEADLINE_S
    silent_until: float = 0.0
    baseline_mib: float = 0.0

    def __post_init__(self) -> None:
        ours, theirs = socket.socketpair()
        settings = {"fd": theirs.fileno(), "parent": os.getpid(), "memory_mib": self.memory_mib}
        path = [entry or str(Path.cwd()) for entry in sys.path]
        environ = {**os.environ, **CHILD_ENVIRON, "PYTHONPATH": os.pathsep.join(path), "TMPDIR": self.folder}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", BOOT, json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environ,
            )
        self.connection = Connection(ours.detach())

    def give(self, job: _Job) -> None:
        """Send it a job."""
        self.job = job
        self.running = True
        self.expect("starting", START_DEADLINE_S)
        with contextlib.suppress(OSError):  # dead already: the next read says so
            self.connection.send_bytes(pickle.dumps((job.task.function, job.task.args, job.task.label)))

    def expect(self, phase: str, within_s: float) -> None:
        """Set the deadline of the next sign of life."""
        self.phase, self.allowed_s = phase, within_s
        self.silent_until = time.monotonic() + within_s

    def finish(self, outcome: Outcome) -> None:
        """The job is done, well or not; the child is free."""
        assert self.job is not None
        self.job.outcome = outcome
        self.running = False

    def fail(self, what: str) -> None:
        """Kill the child; its job ends with an error if this was the last attempt."""
        self.kill()
        job = self.job
        assert job is not None
        self.running = False
        if job.attempts >= MAX_ATTEMPTS:
            error = SourceError(f"{job.task.label}: {what} (tried {job.attempts} times)")
            job.outcome = Outcome(job.task, error=error, attempts=job.attempts)

    def death(self) -> str:
        """How the process ended: by which signal, or with which status."""
        try:
            status = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        return f"signal {signal.Signals(-status).name.removeprefix('SIG')}" if status < 0 else f"exit status {status}"

    def held_mib(self) -> float:
        """Memory it holds now."""
        try:
            return held_mib(psutil.Process(self.process.pid))
        except psutil.Error:
            return 0.0

    def kill(self) -> None:
        """End it at once."""
        self.alive = False
        self.process.kill()
        self.process.wait()
        self.connection.close()
