"""Progress: how a long stage tells the outside how far it is; a terminal, a log or a flow listens."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Progress(Protocol):
    """Listener that the stages call; it must be cheap, and safe to call from any thread."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage begins: `total` pieces of `unit` ("shards", "steps", "images") are ahead."""

    def advance(self, amount: int = 1) -> None:
        """`amount` more pieces are finished."""

    def note(self, message: str) -> None:
        """One line that a person should see (a warning, a failed image, a score)."""

    def status(self, text: str) -> None:
        """What stands beside the bar from now on, in a few words; the next call replaces it."""

    def curve(self, name: str, rows: Sequence[Mapping[str, float]]) -> None:
        """The numbers of a training so far, by step; `name` is its run. The rows will not change any more."""


class Silent:
    """The listener that hears nothing; the default of every stage."""

    def start(self, stage: str, total: int, unit: str) -> None:
        return

    def advance(self, amount: int = 1) -> None:
        return

    def note(self, message: str) -> None:
        return

    def status(self, text: str) -> None:
        return

    def curve(self, name: str, rows: Sequence[Mapping[str, float]]) -> None:
        return


SILENT = Silent()
