"""Loader: batches of tiles, read ahead by threads."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count

from segcore.sampling.labelled import Int16s, Pixels
from segcore.sampling.sampler import Sampler


def batches(
    sampler: Sampler, batch: int, first: int = 0, threads: int = 2, ahead: int = 4
) -> Generator[tuple[int, Pixels, Int16s]]:
    """The batches of all steps from `first` on, without end, read ahead by threads; close it to end them.

    Args:
        sampler: draws and reads.
        batch: tiles in each.
        first: the first step.
        threads: that read.
        ahead: batches that are read or waiting at any time: the bound on memory.

    Yields:
        Step, pixels (N, C, Y, X) and class numbers (N, Y, X).
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="segcore-tiles")
    waiting: deque[Future[tuple[Pixels, Int16s]]] = deque()
    try:
        for step in count(first):
            while len(waiting) < ahead:
                waiting.append(pool.submit(sampler.tiles, step + len(waiting), batch))
            yield (step, *waiting.popleft().result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
