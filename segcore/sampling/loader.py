"""Loader: batches of tiles, made ahead by threads: regions -> *tiles of a round* -> batches.

    readers    | regions of round 1 |  of round 2, spread over round 1  |  of round 3 ...
    assembler       | batches of round 1 ...            | batches of round 2 ...
    caller             | takes them, one by one

Each region is read once, and tiles are copied from it straight into their batch. In memory are the regions of two
rounds (`sampler.ROUND_BYTES` each, or MIN_REGIONS regions where these take more) and the batches that are ready.
"""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np

from segcore.geometry import Window
from segcore.sampling.labelled import Pixels, Truth, cut
from segcore.sampling.sampler import Round, Sampler

AHEAD = 4
"""Batches that are being made or ready."""

Read = tuple[Pixels, Truth]


class _Reading:
    """A round whose regions are being read."""

    def __init__(self, sampler: Sampler, number: int, readers: ThreadPoolExecutor) -> None:
        self.number = number
        self.round: Round = sampler.round(number)
        self.num_tiles = len(self.round.owner)
        self._images, self._readers, self._tile_px = sampler.images, readers, sampler.tile_px
        self._futures: list[Future[Read]] = []

    def begin(self, share: float = 1.0) -> None:
        """Have so large a part of the regions read."""
        wanted = min(len(self.round.regions), int(share * len(self.round.regions)) + 1)
        for region in self.round.regions[len(self._futures) : wanted]:
            read = self._images[region.image].read
            self._futures.append(self._readers.submit(read, region.plane, region.window))

    def read(self, at: int) -> Read:
        """Pixels and target of a tile's region."""
        return self._futures[int(self.round.owner[at])].result()

    def cut(self, at: int, pixels: Pixels, target: Truth) -> None:
        """Copy a tile to where it belongs: (C, Y, X) and (Y, X), with planes before y where it has several."""
        region = self.round.regions[int(self.round.owner[at])]
        whole_pixels, whole_target = self.read(at)
        y, x = self.round.start[at].tolist()
        window = Window((y, x), (self._tile_px, self._tile_px))
        shape_yx = self._images[region.image].shape_yx
        cut(whole_pixels, region.window, window, shape_yx, pixels)
        cut(whole_target, region.window, window, shape_yx, target)


class Loader:
    """The batches of all steps from the first one on, without end; close it to end its threads.

    Yields step, pixels (N, C, [P,] Y, X) in the images' own dtype, and class numbers (N, [P,] Y, X), or codes: of the
    whole batch, or of those of its tiles that are this process's own.

    Args:
        sampler: draws.
        batch: tiles in each.
        first: the first step.
        readers: threads that read regions; the store decodes with threads of its own.
        own: which tiles of a batch are made; None = all.
    """

    def __init__(
        self, sampler: Sampler, batch: int, first: int = 0, readers: int = 2, own: range | None = None
    ) -> None:
        self.waited_s = 0.0
        """Time that was spent waiting for batches."""
        self._sampler, self._batch, self._next = sampler, batch, first
        self._own = range(batch) if own is None else own
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="segcore-regions")
        self._assembler = ThreadPoolExecutor(1, thread_name_prefix="segcore-tiles")
        self._waiting: deque[tuple[int, Future[Read]]] = deque()
        self._now: _Reading | None = None
        self._following: _Reading | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, Pixels, Truth]:
        began = time.perf_counter()
        while len(self._waiting) < AHEAD:
            self._waiting.append((self._next, self._assembler.submit(self._assembled, self._next)))
            self._next += 1
        step, future = self._waiting.popleft()
        found = future.result()
        self.waited_s += time.perf_counter() - began
        return (step, *found)

    def close(self) -> None:
        """End the threads."""
        self._assembler.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._assembler.shutdown(wait=True)

    # By the assembler's thread

    def _assembled(self, step: int) -> Read:
        """One batch."""
        pixels = target = None
        for k, number in enumerate(self._own):
            reading, at = self._located(step * self._batch + number)
            if pixels is None or target is None:
                sides = (self._sampler.tile_px, self._sampler.tile_px)
                pixels, target = (
                    np.empty((len(self._own), *whole.shape[:-2], *sides), whole.dtype) for whole in reading.read(at)
                )
            reading.cut(at, pixels[k], target[k])
        assert pixels is not None, "a batch without tiles"
        assert target is not None, "a batch without tiles"
        return pixels, target

    def _located(self, tile: int) -> tuple[_Reading, int]:
        """The round of a tile, all of it asked for; the next one as far as this one is used up."""
        number, at = self._sampler.find(tile)
        if self._now is None or self._now.number != number:
            follows = self._following is not None and self._following.number == number
            self._now = self._following if follows else _Reading(self._sampler, number, self._readers)
            assert self._now is not None, f"round {number} was not begun"
            self._now.begin()
            following = self._sampler.find(tile - at + self._now.num_tiles)[0]
            self._following = _Reading(self._sampler, following, self._readers)
        assert self._following is not None, f"nothing follows round {number}"
        self._following.begin(at / self._now.num_tiles)
        return self._now, at
