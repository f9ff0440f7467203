"""Alive: signs of life from deep inside a long step, such as unpacking a file, for whoever ends what stays silent.

isolation sets a listener around a task --> `alive()` wherever bytes are moved by the gigabyte --> its deadline moves on
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[], None] | None] = ContextVar("listener", default=None)


def alive() -> None:
    """Say that the work goes on. Only the thread that the listener was set in is heard."""
    listener = _listener.get()
    if listener is not None:
        listener()


@contextmanager
def heard_by(listener: Callable[[], None]) -> Iterator[None]:
    """Let `alive()` call a listener, within this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
