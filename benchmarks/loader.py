"""Loader: training tiles a second from a sharded store, beside a torch DataLoader that slices the same arrays.

The seeded scene with its target as ingest writes them: RGB, zstd, chunks of 256 px in shards of 2048 px. All give
batches of 8 tiles of 256 px at random places, pixels uint8, with their target (ours int16, ignored pixels marked); each
has two workers. They take turns, so that a busy machine is busy for all.

    ours           segcore.sampling.Loader over a RandomSampler at its defaults, nothing kept in memory
    zarr           a DataLoader with num_workers=2 whose Dataset slices zarr-python's arrays (loader_peer.py)
    tensorstore    the same with tensorstore's arrays

`wait_share` is the share of `segcore train`'s steps (the default U-Net, tiles of 256 px, 8 a batch) that was spent
waiting for data, the first batch included.

Ours reads in threads: two processes with a loader each took 0.27 ms of CPU time a tile, one with two readers 0.25 ms,
and between processes each batch would be copied once more.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from contest import put_scene, scene_shard, take_turns
from loader_peer import BATCH, TILE_PX, WORKERS
from turns import Peer

from segcore.classes import default_classes
from segcore.config import TrainConfig
from segcore.inference.allocator import memory_is_kept
from segcore.sampling import ClassIndex, LabelledImage, Loader, RandomSampler
from segcore.store import PyramidSpec, Staging, Workspace
from segcore.training import loop, train

UNIT = 1000
"""Tiles that the stated seconds are for."""


def put_target(ws: Workspace, side: int) -> None:
    """Which pixels of the scene lie in a bright blob, as its target."""
    spec = PyramidSpec(axes=("y", "x"), shape=(side, side), dtype="uint8", kind="mask", fill=255)
    with Staging.begin(ws, "scene", "target", {"side": side}, spec) as staging:
        for unit in staging.windows():
            writer = staging.writer(unit)
            for shard in staging.pending(unit):
                height, width = staging.shard_window(shard).shape
                writer.put(shard, scene_shard(shard)[1][:height, :width].astype("uint8"))
        staging.finish({"source": "seeded"}, classes=default_classes(2))


def opened(ws: Workspace) -> LabelledImage:
    return LabelledImage(ws.image("scene"), ws.label("scene", "target"))


def seconds(act: Callable[[], object], num_tiles: int) -> float:
    """Of so many tiles, for `UNIT` of them."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * UNIT / num_tiles


def take(loader: Loader, count: int) -> None:
    for _ in range(count):
        _, pixels, target = next(loader)
    assert (pixels.shape, target.shape) == ((BATCH, 3, TILE_PX, TILE_PX), (BATCH, TILE_PX, TILE_PX))


class Watched(Loader):
    """A loader that knows how long it was in use."""

    last: "Watched"

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        Watched.last, self.began, self.used_s = self, time.perf_counter(), 0.0

    def __next__(self) -> Any:
        found = super().__next__()
        self.used_s = time.perf_counter() - self.began
        return found


def training(ws: Workspace, steps: int) -> dict[str, float]:
    """What a real run waits for its data."""
    loop.Loader = Watched  # type: ignore[misc]
    train(
        TrainConfig(workspace=ws.uri, tile_px=TILE_PX, batch=BATCH, cache_mib=0, max_steps=steps, validate_every=steps)
    )
    found = Watched.last
    return {
        "wait_share": round(found.waited_s / found.used_s, 4),
        "step_s": round(found.used_s / steps, 3),
        "waited_s": round(found.waited_s, 3),
    }


def main() -> None:
    """Measure, and print one JSON object, or the same as lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4096 px, 3 rounds and 5 steps instead of 8192, 7 and 40")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    side, rounds, steps = (4096, 3, 5) if options.quick else (8192, 7, 40)
    with tempfile.TemporaryDirectory() as folder, memory_is_kept():  # as in a command of its own
        ws = Workspace.open(str(Path(folder, "workspace")), create=True)
        put_scene(ws, side)
        put_target(ws, side)
        image = opened(ws)
        sampler = RandomSampler([image], ClassIndex([image], 2), TILE_PX, 0.5, 0)
        arrays = [str(Path(ws.uri, of.prefix, "0")) for of in (image.image, image.target)]
        command = [sys.executable, str(Path(__file__).with_name("loader_peer.py")), *arrays]
        with closing(Loader(sampler, BATCH, readers=WORKERS)) as ours, Peer(command, Path(folder, "peer.log")) as peer:
            turns = {
                "ours": partial(seconds, partial(take, ours, 400), 400 * BATCH),
                "zarr": lambda: peer.seconds("zarr 50") * UNIT / (50 * BATCH),
                "tensorstore": lambda: peer.seconds("tensorstore 150") * UNIT / (150 * BATCH),
            }
            take_turns(turns, 1)  # warms up
            times = take_turns(turns, rounds)
        found = {
            "side_px": side,
            "tiles_per_s": round(UNIT / times.median("ours")),
            "vs_slicing_dataloader": times.ratio("zarr", to="ours"),
            "vs_tensorstore_dataloader": times.ratio("tensorstore", to="ours"),
            **training(ws, steps),
            **times.as_json(),
        }
    lines = [json.dumps(found)] if options.json else [f"{key:28} {value}" for key, value in found.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
