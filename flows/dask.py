"""Dask: the processes of dask.distributed as a crew, below the stage that hands out tasks.

    LOCAL:n   n dask workers on this machine, TLS between them; they end with the command
    ADDRESS   a scheduler that somebody else runs: tcp://..., tls://... (Kubernetes, SLURM, a box of GPUs)

A dask worker does one task at a time. Who dies is replaced by dask's nanny, and its tasks are done again by another:
the workspace's ledger knows what is finished of them. Arrays never travel: tasks are small, and so is what comes back.
"""

import logging
import os
import re
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import segcore
from segcore.errors import ConfigError, SegcoreError, StoreError
from segcore.isolation import ByName, ChildPool, Crew, Outcome, Task

log = logging.getLogger("segcore.dask")

AHEAD = 2
"""Tasks that a dask worker has at most: the one that it does, and the next."""
CONNECT_S = 30
"""How long a scheduler may take to answer, at first and after it was lost."""
GONE = "dask: the scheduler is gone; run it again, and it goes on where it was"
LOCAL = re.compile(r"LOCAL:(\d+)", re.IGNORECASE)
CORES = "SEGCORE_CORES"
"""In a dask worker's environment: the cores that are its own."""
GPU = "GPU"
"""The resource by which a dask worker says that it has a GPU of its own."""


@contextmanager
def dask_crew(where: str, isolated_mib: int | None = None) -> Iterator[Crew]:
    """A crew of dask workers for as long as the `with` lasts.

    Args:
        where: `LOCAL:n`, or a scheduler's address, as `SpreadConfig` checks it.
        isolated_mib: tasks open users' files, so each runs in a child of its dask worker, under this limit in MiB.

    Raises:
        ConfigError: if the extra is missing.
        SegcoreError: if the scheduler does not answer, or has other versions of segcore.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError("dask: needs the extra `dask`; install it with `pip install 'segcore[dask]'`") from error
    local = LOCAL.fullmatch(where)
    with _cluster(int(local[1])) if local else _elsewhere(where) as (address, security):
        try:
            client = Client(address, security=security, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, TimeoutError) as error:
            raise SegcoreError(f"dask: no scheduler answers at {where} ({_one_line(error)})") from error
        with client:
            yield DaskCrew(client, isolated_mib)


class DaskCrew:
    """A `Crew` of dask workers.

    Args:
        client: of their scheduler.
        isolated_mib: as that of `dask_crew`.
    """

    def __init__(self, client: Any, isolated_mib: int | None) -> None:
        self._client, self._isolated_mib = client, isolated_mib

    @property
    def processes(self) -> int:
        """Dask workers at this moment, or 1 while none has come yet."""
        return max(1, len(self._workers()))

    def _workers(self) -> dict[str, Any]:
        found: dict[str, Any] = self._client.scheduler_info(n_workers=-1)
        if self._client.status != "running" or "workers" not in found:
            raise SegcoreError(GONE)
        return dict(found["workers"])

    def run(self, tasks: Iterable[Task], on_beat: Callable[[Task, int], None] | None = None) -> Iterator[Outcome]:
        """Run tasks, a few ahead of each dask worker; beats are heard when a task is over.

        Raises:
            SegcoreError: if the scheduler is lost.
        """
        from distributed import as_completed

        if not self._workers():
            log.warning("dask: the scheduler has no dask worker yet; waiting for one")
        waiting, over = iter(tasks), as_completed(loop=self._client.loop)  # type: ignore[no-untyped-call]
        flying: dict[str, tuple[Any, Task]] = {}
        while True:
            workers = self._workers()
            while len(flying) < AHEAD * max(1, len(workers)) and (task := next(waiting, None)) is not None:
                future = self._submit(task, workers)
                flying[future.key] = (future, task)
                over.add(future)  # type: ignore[no-untyped-call]
            if not flying:
                return
            future, task = flying.pop(next(over).key)
            outcome, beats = self._outcome(future, task)
            if on_beat is not None and beats:
                on_beat(task, beats)
            yield outcome

    def _submit(self, task: Task, workers: Mapping[str, Any]) -> Any:
        has_gpus = any(GPU in worker.get("resources", {}) for worker in workers.values())
        resources = {GPU: 1} if has_gpus and self._isolated_mib is None else None
        call = (perform, task, self._isolated_mib, segcore.__version__)
        return self._client.submit(*call, pure=False, resources=resources, retries=0)

    def _outcome(self, future: Any, task: Task) -> tuple[Outcome, int]:
        if future.status == "finished":
            done = self._done(future)
            return Outcome(task, done.result, done.error, traceback=done.traceback), done.beats
        if future.status == "error":  # its workers died, or could not even begin
            error = future.exception()
            return Outcome(task, error=StoreError(f"{task.label}: no dask worker could do it ({_one_line(error)})")), 0
        raise SegcoreError(GONE)

    def _done(self, future: Any) -> "Done":
        """What a dask worker sent; the scheduler may be lost between the news that it is there and the thing."""
        from distributed.comm.core import CommClosedError

        try:
            found: Done = future.result()
        except (CommClosedError, CancelledError) as error:
            raise SegcoreError(GONE) from error
        return found


@dataclass(frozen=True, slots=True)
class Done:
    """What a dask worker sends back."""

    result: Any = None
    error: SegcoreError | None = None
    traceback: str | None = None
    beats: int = 0


def perform(task: Task, isolated_mib: int | None, version: str) -> Done:
    """Do a task, in a dask worker; other versions of segcore could make other pixels by the same plan."""
    if version != segcore.__version__:
        message = f"dask: a dask worker has segcore {segcore.__version__}, expected {version}; install the same there"
        return Done(error=SegcoreError(message))
    if CORES in os.environ:
        os.sched_setaffinity(0, {int(core) for core in os.environ[CORES].split(",")})  # also of threads to come
    beats = 0

    def heard(_: Task, amount: int) -> None:
        nonlocal beats
        beats += amount

    if isolated_mib is not None:
        (outcome,) = _child(isolated_mib).run([task], heard)
        return Done(outcome.result, outcome.error, outcome.traceback, beats)
    try:
        assert not isinstance(task.function, ByName), "a function's name becomes the function on its way"
        return Done(task.function(lambda amount=1: heard(task, amount), *task.args), beats=beats)
    except SegcoreError as error:
        return Done(error=error, traceback=traceback.format_exc())
    except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
        return Done(
            error=StoreError(f"{task.label}: {type(error).__name__}: {_one_line(error)}"),
            traceback=traceback.format_exc(),
        )


@cache
def _child(memory_mib: int) -> ChildPool:
    """The one child of this dask worker; it ends with it."""
    return ChildPool(1, memory_mib)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _cluster(num_workers: int) -> Iterator[tuple[str, Any]]:
    """A scheduler and its dask workers on this machine, each with its share of the cores, and a GPU if there is one."""
    from distributed import Nanny, Scheduler, SpecCluster
    from distributed.security import Security

    security = Security.temporary()  # type: ignore[no-untyped-call]  # whoever reaches a scheduler without it runs code as we
    both = {
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
        "security": security,
        "protocol": "tls",
        "host": "127.0.0.1",
    }
    common = {**both, "nthreads": 1, "memory_limit": 0, "silence_logs": logging.ERROR}
    workers = {
        number: {"cls": Nanny, "options": {**common, "env": environment}}
        for number, environment in enumerate(_environments(num_workers))
    }
    scheduler = {"cls": Scheduler, "options": both}
    cluster = SpecCluster(  # type: ignore[no-untyped-call]
        workers=workers, scheduler=scheduler, security=security, silence_logs=logging.ERROR
    )
    with cluster:
        try:
            yield cluster.scheduler_address, security
        except BaseException:
            _kill(cluster.workers.values())
            raise


def _kill(nannies: Iterable[Any]) -> None:
    """End dask workers at once: dask would wait for what each still does, and whoever cancelled a run waits too."""
    for nanny in nannies:
        nanny.close_gracefully()  # nobody comes in its place
        if nanny.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


@contextmanager
def _elsewhere(address: str) -> Iterator[tuple[str, None]]:
    """A scheduler that runs already; TLS as dask's own configuration says."""
    yield address, None


def _environments(num_workers: int) -> Iterator[dict[str, str]]:
    """Of each dask worker on this machine."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    gpus = _gpus()
    for number in range(num_workers):
        found = {}
        if cores:
            own = cores[number::num_workers] or [cores[number % len(cores)]]
            found[CORES] = ",".join(map(str, own))
        if gpus:
            found["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        yield found


def _gpus() -> list[str]:
    """What CUDA calls the GPUs that this process may use."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    devices = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(devices.iterdir())))] if devices.is_dir() else []
