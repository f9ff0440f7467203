"""Ingest: a tiled JPEG TIFF to OME-Zarr 0.5 with its full pyramid, beside ome-zarr-py, a dask loop and ngff-zarr.

Every contestant runs in a process of its own that has imported everything and has done a small image, and ours has its
children started, before the clock starts; start-up is shown apart. `limit` is what this machine can do at all: all
cores decode, reduce, compress, digest and write with fsync, without a store's bookkeeping. Megabytes are of the decoded
level 0. Ours and the limit end with every byte on the disk; the others leave that to the system.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ingest_limit
import numpy as np
import tifffile
from PIL import Image
from skimage.data import immunohistochemistry

from segcore.config import IngestConfig
from segcore.ingest import ingest
from segcore.isolation import ChildPool
from segcore.measure import Peak, num_cores, tree_bytes

TILE_PX, CHUNK_PX, SHARD_PX = 512, 512, 2048
MIB = 2**20


def put_tiff(path: Path, side: int) -> None:
    """A slide-like picture: tiles of stained tissue, turned, mirrored and rolled by a seed; JPEG quality 90."""
    tissue = immunohistochemistry()

    def tiles() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for _ in range((side // TILE_PX) ** 2):
            tile = np.rot90(tissue, rng.integers(4))[:: 1 - 2 * int(rng.integers(2))]
            yield np.ascontiguousarray(np.roll(tile, tuple(rng.integers(0, TILE_PX, 2)), (0, 1)))

    options: dict[str, Any] = {"tile": (TILE_PX, TILE_PX), "compression": "jpeg", "compressionargs": {"level": 90}}
    tifffile.imwrite(path, tiles(), shape=(side, side, 3), dtype="uint8", photometric="rgb", **options)


def put_folder(folder: Path, count: int) -> None:
    """Small pictures of 256 x 256 px, cut from the same tissue."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    tissue = immunohistochemistry()
    for number in range(count):
        y, x = rng.integers(0, 256, 2)
        Image.fromarray(tissue[y : y + 256, x : x + 256]).save(folder / f"{number:04d}.png")


Work = Callable[[], dict[str, float]]

# The contestants: each takes source and target, and gives a function that does the work.


def ours(source: Path, target: Path) -> Work:
    pool = ChildPool(num_cores())
    with tempfile.TemporaryDirectory() as folder:  # so that every child has started, and has loaded what it needs
        for number in range(4 * num_cores()):
            put_tiff(Path(folder, f"{number}.tif"), TILE_PX)
        ingest(IngestConfig(workspace=str(Path(folder, "w")), sources=(folder,)), pool=pool)
    before = tree_bytes()

    def work() -> dict[str, float]:
        result = ingest(IngestConfig(workspace=str(target), sources=(str(source),)), pool=pool)
        assert result.exit_code == 0, result.items
        return {"peak_mib": result.peak_mib, "growth_mib": result.peak_mib - before / MIB}

    return work


def ome_zarr_py(source: Path, target: Path) -> Work:
    """As its documentation writes large images: a dask array, its own scaler; shards as ours."""
    import dask.array
    import zarr
    from ome_zarr.writer import write_image

    def work() -> dict[str, float]:
        stored = zarr.open(tifffile.imread(source, aszarr=True), mode="r")
        pixels = dask.array.from_zarr(stored).transpose(2, 0, 1).rechunk((3, SHARD_PX, SHARD_PX))
        options = {"chunks": (3, CHUNK_PX, CHUNK_PX), "shards": (3, SHARD_PX, SHARD_PX)}
        side = pixels.shape[1]
        factors = [2**n for n in range(1, 12) if side // 2 ** (n - 1) > CHUNK_PX]
        write_image(pixels, str(target), axes="cyx", scale_factors=factors, storage_options=options)
        return {}

    return work


def dask_loop(source: Path, target: Path) -> Work:
    """What one writes oneself: level by level, each read from the one before, 2x2 means by coarsen."""
    import dask.array
    import zarr

    def work() -> dict[str, float]:
        stored = zarr.open(tifffile.imread(source, aszarr=True), mode="r")
        pixels = dask.array.from_zarr(stored).transpose(2, 0, 1)
        level = 0
        while True:
            shape = pixels.shape
            shard = tuple(min(n, side) for n, side in zip(shape, (3, SHARD_PX, SHARD_PX), strict=True))
            chunk = tuple(min(n, side) for n, side in zip(shard, (3, CHUNK_PX, CHUNK_PX), strict=True))
            array = zarr.create_array(
                str(target / str(level)), shape=shape, chunks=chunk, shards=shard, dtype="uint8",
                compressors=zarr.codecs.ZstdCodec(level=1, checksum=True),
            )  # fmt: skip
            dask.array.store(pixels.rechunk(shard), array, lock=False)
            if max(shape[1:]) <= CHUNK_PX:
                return {}
            finer = dask.array.from_zarr(array)
            pixels = dask.array.coarsen(np.mean, finer, {1: 2, 2: 2}).round().astype(np.uint8)
            level += 1

    return work


def ngff_zarr(source: Path, target: Path) -> Work:
    target.mkdir()  # it tells by the name what to write
    written = str(target / "image.ome.zarr")
    command = [str(Path(sys.executable).with_name("ngff-zarr")), "-q", "-i", str(source), "-o", written]
    command += ["-c", str(CHUNK_PX), "--chunks-per-shard", str(SHARD_PX // CHUNK_PX)]

    def work() -> dict[str, float]:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return {}

    return work


CONTESTANTS = {"ours": ours, "ome_zarr_py": ome_zarr_py, "dask_loop": dask_loop, "ngff_zarr": ngff_zarr}


def contest(name: str, source: Path, target: Path) -> None:
    """In a process of its own: get ready, work, and print seconds, start-up and peak."""
    began = time.perf_counter()
    if name in ("ome_zarr_py", "dask_loop"):  # libraries load some of theirs with the first pixel
        with tempfile.TemporaryDirectory() as folder:
            put_tiff(Path(folder, "warm.tif"), 2 * TILE_PX)
            CONTESTANTS[name](Path(folder, "warm.tif"), Path(folder, "warm"))()
    work = CONTESTANTS[name](source, target) if name in CONTESTANTS else ingest_limit.ready(source, target)
    started = time.perf_counter()
    with nullcontext() if name == "ours" else Peak() as peak:  # ours looks itself: twice would be twice the burden
        told = work()
        seconds = time.perf_counter() - started
    told = told if peak is None else {**told, "peak_mib": peak.mib}
    print(json.dumps({"seconds": seconds, "startup_s": started - began, **told}), flush=True)
    sys.exit(0)


def run(name: str, source: Path, folder: Path) -> dict[str, float]:
    """One contestant on one source, in a fresh process and a fresh folder."""
    target = folder / "target"
    shutil.rmtree(target, ignore_errors=True)
    os.sync()  # one contestant's dirty pages are not another's burden
    call = [sys.executable, __file__, "--contestant", name, str(source), str(target)]
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(side: int, rounds: int, names: list[str], folder: Path) -> dict[str, Any]:
    """Medians over rounds in which every contestant has its turn."""
    source = folder / f"{side}.tif"
    put_tiff(source, side)
    megabytes = side * side * 3 / 1e6
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("ours", "limit", *names)}
    for nth in range(rounds):
        for name, results in found.items():
            if name in ("ours", "limit") or nth < max(1, rounds // 2):  # the peers take long
                results.append(run(name, source, folder))
    rate = {name: megabytes / statistics.median(one["seconds"] for one in results) for name, results in found.items()}
    table = {f"{name}_mb_per_s": round(value, 1) for name, value in rate.items()}
    table |= {f"{name}_startup_s": round(results[0]["startup_s"], 1) for name, results in found.items()}
    peers = {name: rate["ours"] / rate[name] for name in names}
    return {
        "side_px": side,
        "mb_per_s": round(rate["ours"], 1),
        "vs_limit": round(rate["ours"] / rate["limit"], 3),
        "vs_fastest_peer": round(min(peers.values()), 2),
        **{f"vs_{name}": round(ratio, 2) for name, ratio in peers.items()},
        "peak_mib": round(max(one["peak_mib"] for one in found["ours"]), 1),
        "growth_mib": round(max(one["growth_mib"] for one in found["ours"]), 1),
        **table,
    }


def images_per_s(count: int, folder: Path) -> float:
    """Small images a second, once the children have started."""
    put_folder(folder / "small", count)
    return round(count / run("ours", folder / "small", folder)["seconds"], 1)


def main() -> None:
    """Measure, and print one JSON object, or the same as lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8192 px, one round of peers, without ngff-zarr")
    parser.add_argument("--large", action="store_true", help="32768 px too, ours alone: does memory grow?")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--contestant", nargs=3, metavar=("NAME", "SOURCE", "TARGET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        contest(options.contestant[0], *map(Path, options.contestant[1:]))
    with tempfile.TemporaryDirectory(prefix="segcore-ingest-") as temporary:
        folder = Path(temporary)
        peers = ["ome_zarr_py", "dask_loop"] + ([] if options.quick else ["ngff_zarr"])
        found = measure(8192, 2 if options.quick else 5, peers, folder)
        found["images_per_s"] = images_per_s(100 if options.quick else 1000, folder)
        if not options.quick:
            larger = measure(16384, 5, ["ome_zarr_py", "dask_loop"], folder)
            found |= {f"16384_{key}": value for key, value in larger.items()}
        if options.large:
            put_tiff(folder / "32768.tif", 32768)
            found |= {f"32768_{key}": value for key, value in run("ours", folder / "32768.tif", folder).items()}
    lines = [json.dumps(found)] if options.json else [f"{key:28} {value}" for key, value in found.items()]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
