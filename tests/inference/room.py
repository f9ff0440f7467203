"""A crew without processes."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from segcore.errors import SegcoreError
from segcore.isolation import Outcome, Task


class Room:
    """A crew of this very process; tasks travel as they would to another one."""

    processes = 2

    def __init__(self, before: Callable[[int, Any], None] = lambda number, order: None) -> None:
        """`before` is called before each task, with its number and its first argument."""
        self.orders: list[Any] = []
        """First arguments."""
        self.names: list[str] = []
        """Of the functions."""
        self._before = before

    def run(self, tasks: Iterable[Task], on_beat: Callable[[Task, int], None] | None = None) -> Iterator[Outcome]:
        for task in tasks:
            sent = pickle.loads(pickle.dumps(task))
            self.orders.append(sent.args[0])
            self.names.append(sent.function.__name__)
            try:
                self._before(len(self.orders), sent.args[0])
                result = sent.function(lambda amount=1: None, *sent.args)
                yield Outcome(task, result=pickle.loads(pickle.dumps(result)))
            except SegcoreError as error:
                yield Outcome(task, error=error)
