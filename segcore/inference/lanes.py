"""Lanes: what the threads of one pipeline meet at: bounded channels, slots, and turns.

All of one pipeline share a single condition, so that one `stop()` wakes every waiting thread and none can
hang: after it each call that would wait, or waits, raises `Stopped`.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 - a signal between threads, no error
    """The pipeline was stopped while a thread waited."""


class Lanes:
    """The stop signal of one pipeline, and the condition that its channels, slots and turns wait on."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._stopped = False

    @property
    def stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """Wake every waiting thread with `Stopped`."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def when(self, ready: Callable[[], bool], act: Callable[[], T]) -> T:
        """Wait until `ready()`, then `act()` before any other thread can change what it saw.

        Raises:
            Stopped: if the pipeline is stopped.
        """
        with self._condition:
            while not self._stopped and not ready():
                self._condition.wait()
            if self._stopped:
                raise Stopped
            result = act()
            self._condition.notify_all()
            return result


class Channel(Generic[T]):
    """A queue of at most `capacity` items that can be closed: `get` gives None once it is closed and empty."""

    def __init__(self, lanes: Lanes, capacity: int) -> None:
        self._lanes = lanes
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._closed = False

    def put(self, item: T) -> None:
        """Add an item; waits while the channel is full."""
        self._lanes.when(lambda: len(self._items) < self._capacity, lambda: self._items.append(item))

    def get(self) -> T | None:
        """The oldest item; waits for one, None after the last."""
        return self._lanes.when(
            lambda: bool(self._items) or self._closed, lambda: self._items.popleft() if self._items else None
        )

    def close(self) -> None:
        """No item will come any more."""

        def mark() -> None:
            self._closed = True

        self._lanes.when(lambda: True, mark)


class Slots:
    """Bounds how many pieces of work are in memory at once, from their reading to their writing."""

    def __init__(self, lanes: Lanes, count: int) -> None:
        self._lanes = lanes
        self._free = count

    def take(self) -> None:
        """Wait for a free slot and hold it."""
        self._lanes.when(lambda: self._free > 0, lambda: self._add(-1))

    def give(self) -> None:
        """Free a slot."""
        self._lanes.when(lambda: True, lambda: self._add(1))

    def _add(self, count: int) -> None:
        self._free += count


class Turns:
    """Lets threads that finish in any order act in the order of their numbers 0, 1, 2..."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._next = 0

    def wait(self, number: int) -> None:
        """Wait until every smaller number has passed."""
        self._lanes.when(lambda: self._next == number, lambda: None)

    def passed(self) -> None:
        """The turn is over: the next number may act."""
        self._lanes.when(lambda: True, self._advance)

    def _advance(self) -> None:
        self._next += 1
