"""Interrupt: a polite end (SIGTERM, as a scheduler or `kill` sends) becomes an exception, as Ctrl-C already is."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """While it lasts, SIGTERM raises SystemExit in the main thread, so that threads end and leases are let go.

    It does nothing in other threads, and where somebody else already handles the signal.
    """
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not ours:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
