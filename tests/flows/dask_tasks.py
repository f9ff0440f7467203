"""What the dask workers of the tests are asked to do; in a module of its own, since they import it."""

import os
import signal
from pathlib import Path
from typing import Any

from segcore.errors import SourceError


def square(beat: Any, number: int) -> int:
    """Beats as often as the number says."""
    for _ in range(number):
        beat()
    return number**2


def fail(beat: Any, how: str) -> None:
    """As a user's error, or as one of ours."""
    if how == "user":
        raise SourceError("a.tif: cut off")
    raise ZeroDivisionError("no\nline breaks")


def die_once(beat: Any, folder: str) -> int:
    """The first one that comes here is killed; the process id of the one that lives."""
    try:
        (Path(folder) / "died").touch(exist_ok=False)
    except FileExistsError:
        return os.getpid()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def place(beat: Any) -> tuple[int, tuple[int, ...]]:
    """Process, and its cores."""
    return os.getpid(), tuple(sorted(os.sched_getaffinity(0)))
