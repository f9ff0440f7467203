"""Job: one source on its way into the workspace."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from segcore.ingest.entries import Entry
from segcore.ingest.tasks import Probe, copy_source, write_windows
from segcore.isolation import Outcome
from segcore.results import ItemResult
from segcore.sources import Joined
from segcore.store import Quarter, Staging, UnitWriter


@dataclass(eq=False)
class Job:
    """One source, from what was asked for to how it ended. One thread at a time has it."""

    entry: Entry
    request: dict[str, Any] = field(default_factory=dict)
    """Everything that was asked for, kept in the image: the same request again is nothing to do."""
    stamp: dict[str, Any] = field(default_factory=dict)
    """The source's as it was looked at; `request` may have an older one of the same content."""
    touched: dict[str, Any] | None = None
    """Of a file that looks changed and may not be: the request that its image was made by."""
    unchanged: bool = False
    """The image in the workspace was made by this very request."""
    probe: Probe | None = None
    stagings: dict[str, Staging] = field(default_factory=dict)
    awaited: int = 0
    """Tasks that are under way or still to come."""
    num_shards: int = 0
    written: int = 0
    digest: str | None = None
    copied: str | Joined | None = None
    """Where in the workspace the copy of the source lies, as a key."""
    check: dict[str, Any] = field(default_factory=dict)
    """What its target holds."""
    result: ItemResult | None = None
    gathered: list[Future[Any]] = field(default_factory=list)
    """What threads do with `gather`."""
    _gatherers: dict[str, UnitWriter] = field(default_factory=dict)
    _gathering: Lock = field(default_factory=Lock)

    @property
    def key(self) -> str:
        """Where the image's own state lies."""
        return f"state/{self.entry.image_id}"

    def take(self, outcome: Outcome) -> None:
        """Note what a task gave."""
        self.spare(1)
        if outcome.error is not None:
            return
        if outcome.task.function is write_windows:
            self.written += outcome.result.num_shards
        elif outcome.task.function is copy_source:
            self.digest, self.copied = outcome.result
        else:
            self.digest = outcome.result

    def gather(self, quarters: Sequence[tuple[str, Quarter]]) -> None:
        """Build the coarser shards that several tasks complete together, while others are still under way."""
        with self._gathering:
            for name, quarter in quarters:
                if name not in self._gatherers:
                    self._gatherers[name] = self.stagings[name].gatherer()
                self._gatherers[name].take(quarter)

    def spare(self, num_tasks: int) -> None:
        """Await tasks no more: they ended, or will not begin since the job has failed."""
        self.awaited -= num_tasks
        if self.result is not None and self.awaited == 0:
            self.close()

    def fail(self, message: str) -> None:
        self._end("failed", error=message)

    def skip(self, **details: Any) -> None:
        self._end("skipped", **details)

    def leave(self) -> None:
        """The time is up; what is written stays, and the next call goes on."""
        self._end("left")

    def done(self, path: str) -> None:
        shards: dict[str, Any] = {"shards_written": self.written, "shards_resumed": self.num_shards - self.written}
        self._end("done", path=path, **shards, **self.check)

    def close(self) -> None:
        """Give the leases back, and forget what was gathered: a night has many jobs."""
        self._gatherers.clear()
        for staging in self.stagings.values():
            staging.close()

    def _end(self, state: Any, path: str | None = None, error: str | None = None, **details: Any) -> None:
        self.result = ItemResult(
            state=state,
            source=self.entry.source,
            image=None if state == "failed" else self.entry.image_id,
            path=path,
            error=error,
            details=details,
        )
        if self.awaited == 0:  # else tasks still write: what they write is ours until the last of them has ended
            self.close()
