"""Pipeline: plan -> read -> infer -> blend -> write, in threads of one process, joined by bounded channels.

    loads --readers--> tiles --tile workers--> shards --writer--> store
           (slots: pieces of work that are in memory at once)

Memory is bounded by `slots` pieces of work (a shard, or a strip of tiles), `workers` batches in the network,
and SHARDS_WAITING finished masks; none of it grows with the image. An image that fails is dropped from
wherever it is, and the others go on. What is wrong with the pipeline itself stops all of it.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from segcore.geometry import Tile
from segcore.inference.lanes import Channel, Lanes, Slots, Stopped, Turns
from segcore.inference.numerics import Network
from segcore.inference.run import Answered, MaskRun, named

SHARDS_WAITING = 2
"""Finished masks that may wait for the writer."""

log = logging.getLogger("segcore.inference")


class Work(Protocol):
    """A piece of an image that was read: its tiles, and what becomes of them."""

    in_order: bool
    """True if `add` and `complete` have to be called in the order of reading."""
    run: MaskRun
    tiles: list[Tile]

    def answer(self, network: Network, tiles: Sequence[Tile]) -> Any:
        """The network's answer; called by many threads at once."""

    def add(self, tiles: Sequence[Tile], answer: Any) -> None:
        """Keep an answer."""

    def complete(self, network: Network) -> list[Answered]:
        """The shards that are finished with this work; called once, after the last `add`."""


@dataclass(frozen=True, slots=True)
class Load:
    """Work that is not read yet."""

    run: MaskRun
    read: Callable[[], Work]


class _InFlight:
    """Counts the batches of one work that are not settled."""

    def __init__(self, work: Work, batches: int) -> None:
        self.work = work
        self._left = batches
        self._lock = threading.Lock()

    def settle(self) -> bool:
        """One batch less; True for the last."""
        with self._lock:
            self._left -= 1
            return self._left == 0


@dataclass(frozen=True, slots=True)
class _Batch:
    number: int
    flight: _InFlight
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Threads:
    """How many threads do what; none of it decides a pixel."""

    tile_workers: int
    readers: int = 1
    slots: int = 4
    """Pieces of work in memory: one that is read, one or two in the network, one ahead."""


class Pipeline:
    """Runs loads through a network into the store.

    Args:
        networks: the model, once per device; tile workers share them evenly.
        threads: how many do what.
        on_shard: called by the writer after each shard.
        on_image: called by the writer after an image's last shard; finishes the mask.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        threads: Threads,
        on_shard: Callable[[MaskRun], None],
        on_image: Callable[[MaskRun], None],
    ) -> None:
        self._networks, self._threads = networks, threads
        self._on_shard, self._on_image = on_shard, on_image
        self._lanes = Lanes()
        self._slots = Slots(self._lanes, threads.slots)
        self._tiles: Channel[_Batch] = Channel(self._lanes, 2 * threads.tile_workers)
        self._shards: Channel[Answered] = Channel(self._lanes, SHARDS_WAITING)
        self._turns = Turns(self._lanes)
        self._dispatch = threading.Lock()
        self._numbers = 0
        self._broken: BaseException | None = None

    def run(self, loads: Iterable[Load]) -> None:
        """Run until every load is read, inferred and written, or its image has failed.

        Args:
            loads: made lazily, by the readers; work that is `in_order` needs a single reader.

        Raises:
            BaseException: whatever broke the pipeline itself, or interrupted the caller.
        """
        source = _Shared(iter(loads))
        readers = [self._thread("read", self._read, source) for _ in range(self._threads.readers)]
        shared = itertools.islice(itertools.cycle(self._networks), self._threads.tile_workers)
        workers = [self._thread("tiles", self._infer, network) for network in shared]
        writer = self._thread("write", self._write)
        try:
            for group, lane in ((readers, self._tiles), (workers, self._shards)):
                _join(group)
                if not self._lanes.stopped:
                    lane.close()
            _join([writer])
        except Stopped:
            pass  # a thread broke between the check and the close: its error is raised below
        finally:
            self._lanes.stop()
            _join([*readers, *workers, writer])
        if self._broken is not None:
            raise self._broken

    def _thread(self, name: str, body: Callable[..., None], *args: Any) -> threading.Thread:
        def guarded() -> None:
            try:
                body(*args)
            except Stopped:
                return
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                self._broken = self._broken or error
                self._lanes.stop()

        thread = threading.Thread(target=guarded, name=f"segcore-{name}", daemon=True)
        thread.start()
        return thread

    # Each stage: what goes wrong with an image ends that image, and nothing else.

    def _read(self, source: "_Shared") -> None:
        for load in source:
            self._slots.take()
            work = None if load.run.failed else self._guarded(load.run, load.read)
            if work is None:
                self._slots.give()
                continue
            batches = list(_batches(work.tiles, load.run.batch)) or [()]
            flight = _InFlight(work, len(batches))
            with self._dispatch:
                numbered = [_Batch(self._numbers + i, flight, tiles) for i, tiles in enumerate(batches)]
                self._numbers += len(batches)
            for batch in numbered:
                self._tiles.put(batch)

    def _infer(self, network: Network) -> None:
        with network.tile_worker():
            while (batch := self._tiles.get()) is not None:
                work = batch.flight.work
                answer = None
                if batch.tiles and not work.run.failed:
                    answer = self._guarded(work.run, partial(work.answer, network, batch.tiles), batch.tiles)
                if work.in_order:
                    self._turns.wait(batch.number)
                shards = self._settle(network, batch, answer)
                if work.in_order:
                    network.wait()
                    self._turns.passed()
                for shard in shards:
                    self._shards.put(shard)

    def _settle(self, network: Network, batch: _Batch, answer: Any) -> list[Answered]:
        """Keep an answer; after the work's last batch its slot is free, and its shards are finished."""
        work = batch.flight.work
        shards: list[Answered] = []
        if answer is not None:
            self._guarded(work.run, lambda: work.add(batch.tiles, answer))
        if batch.flight.settle():
            if not work.run.failed:
                shards = self._guarded(work.run, lambda: work.complete(network)) or []
            self._slots.give()
        return shards

    def _write(self) -> None:
        while (shard := self._shards.get()) is not None:
            run = shard.run
            if run.failed:
                continue
            self._guarded(run, lambda: run.write(shard))  # noqa: B023 - called at once
            if not run.failed:
                self._on_shard(run)
            if not run.failed and run.remaining == 0:
                self._guarded(run, lambda: self._on_image(run))  # noqa: B023 - called at once

    def _guarded(self, run: MaskRun, act: Callable[[], Any], tiles: tuple[Tile, ...] = ()) -> Any:
        """What `act` returns, or None if it failed, and the image with it."""
        try:
            return act()
        except Stopped:
            raise
        except Exception as error:
            log.debug("image %s failed", run.image.image_id, exc_info=True)
            run.fail(named(error, run, tiles))
            return None


def _batches(tiles: Sequence[Tile], size: int) -> Iterator[tuple[Tile, ...]]:
    """Neighbours of one shape, in their order, at most `size` at once; tiles at the borders may be cut."""
    for _, run in itertools.groupby(tiles, key=lambda tile: tile.read.shape):
        alike = tuple(run)
        yield from (alike[i : i + size] for i in range(0, len(alike), size))


class _Shared:
    """One iterator for several threads."""

    def __init__(self, loads: Iterator[Load]) -> None:
        self._loads = loads
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Load]:
        while True:
            with self._lock:
                load = next(self._loads, None)
            if load is None:
                return
            yield load


def _join(threads: Sequence[threading.Thread]) -> None:
    """Wait for threads, in short waits that a signal can end."""
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)
