"""The limit of ingest on this machine: every core decodes, reduces, compresses, digests and writes with fsync.

No store, no plan, no ledger: each process takes every n-th shard of a tiled JPEG TIFF, writes its chunks one behind the
other into one file per shard and level, and goes on with the quarter down to one chunk.
"""

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import imagecodecs
import numcodecs
import numpy as np
import tifffile
import xxhash

from segcore.measure import num_cores
from segcore.store.pyramid import mean_2x2

SHARD_PX, CHUNK_PX = 2048, 256


@dataclass(frozen=True)
class Plan:
    """Where the tiles of the source lie, and what decoding them takes."""

    source: Path
    target: Path
    side: int
    tile: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    tables: bytes | None


def ready(source: Path, target: Path) -> Callable[[], dict[str, float]]:
    """Start one process per core, all waiting; the function lets them go, and returns when the last is done."""
    with tifffile.TiffFile(source) as tiff:
        page = tiff.pages.first
        plan = Plan(
            source, target, page.imagelength, page.tilelength, page.dataoffsets, page.databytecounts, page.jpegtables
        )
    target.mkdir()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(num_cores() + 1)
    processes = [context.Process(target=work, args=(plan, nth, barrier)) for nth in range(num_cores())]
    for process in processes:
        process.start()
    barrier.wait()

    def go() -> dict[str, float]:
        barrier.wait()
        barrier.wait()  # all shards are on the disk
        return {}

    return go


def work(plan: Plan, nth: int, barrier: Barrier) -> None:
    """One core's share."""
    per_side = plan.side // SHARD_PX
    mine = range(nth, per_side**2, num_cores())
    zstd = numcodecs.Zstd(level=1, checksum=True)
    descriptor = os.open(plan.source, os.O_RDONLY)
    zstd.encode(decoded(plan, descriptor, 0, 0)[:CHUNK_PX, :CHUNK_PX].copy())  # codecs are loaded when first asked
    barrier.wait()
    barrier.wait()
    for shard in mine:
        pixels = decoded(plan, descriptor, *divmod(shard, per_side))
        level = 0
        while True:
            put(plan.target / f"{level}.{shard}", pixels, zstd)
            if pixels.shape[0] <= CHUNK_PX:
                break
            pixels = np.moveaxis(mean_2x2(np.moveaxis(pixels, -1, 0)), 0, -1)
            level += 1
    barrier.wait()


def decoded(plan: Plan, descriptor: int, row: int, column: int) -> np.ndarray:
    """The tiles of a shard, side by side."""
    pixels = np.empty((SHARD_PX, SHARD_PX, 3), np.uint8)
    tiles = SHARD_PX // plan.tile
    for y in range(tiles):
        for x in range(tiles):
            index = (row * tiles + y) * (plan.side // plan.tile) + column * tiles + x
            data = os.pread(descriptor, plan.sizes[index], plan.offsets[index])
            box = pixels[y * plan.tile : (y + 1) * plan.tile, x * plan.tile : (x + 1) * plan.tile]
            box[...] = imagecodecs.jpeg_decode(data, tables=plan.tables, colorspace="RGB", outcolorspace="RGB")
    return pixels


def put(path: Path, pixels: np.ndarray, zstd: numcodecs.Zstd) -> None:
    """Compress chunk by chunk, digest pixels and bytes, write with fsync."""
    xxhash.xxh3_128(pixels).hexdigest()
    chunks = [
        zstd.encode(np.ascontiguousarray(pixels[y : y + CHUNK_PX, x : x + CHUNK_PX]))
        for y in range(0, pixels.shape[0], CHUNK_PX)
        for x in range(0, pixels.shape[1], CHUNK_PX)
    ]
    data = b"".join(chunks)
    xxhash.xxh3_128(data).hexdigest()
    with path.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
