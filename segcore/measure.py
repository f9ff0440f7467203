"""Measure: how long a stage took, and how much memory it and its children held at most."""

import os
import threading
import time
from types import TracebackType
from typing import Self

import psutil

INTERVAL_S = 0.3
"""Between two samples; a walk over the process tree costs a few milliseconds."""

WATCH_SHARE = 60
"""Times as long as a sample took is waited for the next, so that watching takes under two per cent of one core."""

MIB = 1024 * 1024


def num_cores() -> int:
    """Cores that this process may use; fewer than the machine has in a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def process_bytes(process: psutil.Process) -> int:
    """Memory of one process that it would give back by ending, as well as the system can say it.

    Linux knows the proportional set size (PSS: a page that n processes share counts 1/n), other systems
    the unique set size; where neither may be read (another user's process), the resident set size stands in.
    0 for a process that is gone.
    """
    try:
        try:
            full = process.memory_full_info()
            return int(getattr(full, "pss", None) or full.uss)
        except psutil.AccessDenied:
            return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):  # ended while we looked
        return 0


def tree_bytes() -> int:
    """Summed memory of this process and of all that it started."""
    own = psutil.Process()
    try:
        children = own.children(recursive=True)
    except psutil.Error:
        children = []
    return sum(process_bytes(process) for process in (own, *children))


class Peak:
    """Watches the process tree while a `with` block runs.

    `mib` (highest summed memory in MiB) and `seconds` may be read during the block and after it.
    A peak shorter than the interval can be missed; what holds memory for a shard's time is not.
    """

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._peak_bytes = 0
        self._began = time.monotonic()
        self._ended: float | None = None
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._watch, name="segcore-peak", daemon=True)

    @property
    def mib(self) -> float:
        """Highest sample so far, in MiB."""
        return round(self._peak_bytes / MIB, 1)

    @property
    def seconds(self) -> float:
        """Length of the block so far, in s."""
        return round((self._ended or time.monotonic()) - self._began, 3)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._sample()
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = time.monotonic()
        self._stop.set()
        self._sampler.join()
        self._sample()

    def _watch(self) -> None:
        pause_s = self._interval_s
        while not self._stop.wait(pause_s):
            began = time.monotonic()
            self._sample()
            # The system adds up all pages that a process has: with many of them, watch less often.
            pause_s = max(self._interval_s, WATCH_SHARE * (time.monotonic() - began))

    def _sample(self) -> None:
        self._peak_bytes = max(self._peak_bytes, tree_bytes())
