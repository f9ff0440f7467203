"""What the benchmarks of predict share: a seeded scene of any size, models, and contests in turns.

The scene is dark and bright blobs of 32 px under noise, about as compressible as a photograph; the U-Net has learnt to
tell them apart in a few seconds, since random weights may fail what `precision: auto` asks. What takes long to make is
kept in `benchmarks/.cache`: the weights, and the environments of peers.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from segcore.classes import default_classes
from segcore.geometry import Ints
from segcore.measure import num_cores
from segcore.models import ModelConfig, build_model
from segcore.models.package import InputContract, ModelPackage, PackageInfo, write_package
from segcore.models.receptive import measured
from segcore.store import PyramidSpec, Staging, Workspace

CACHE = Path(__file__).parent / ".cache"
BANDS = ("red", "green", "blue")
MEAN, STD = (127.0, 127.0, 127.0), (60.0, 60.0, 60.0)
CHANNELS = (16, 32, 64, 128, 256)
SHARD_PX, BLOB_PX = 2048, 32

RECIPE = 1
"""Goes up with every change of the scene or of the training: weights of another one are not used."""

Pixels = np.ndarray[Any, np.dtype[Any]]
Paint = Callable[[Pixels, Ints], None]


@cache
def noise() -> Pixels:
    """Of one shard (3, Y, X); every shard has it rolled by another offset."""
    return np.random.default_rng(0).integers(0, 30, (3, SHARD_PX, SHARD_PX), dtype=np.uint8)


def scene_shard(shard: Ints) -> tuple[Pixels, Pixels]:
    """One shard of the scene.

    Args:
        shard: index in y and x.

    Returns:
        Its pixels (3, Y, X) uint8, and whether they lie in a bright blob (Y, X) bool.
    """
    rng = np.random.default_rng(shard)
    side = SHARD_PX // BLOB_PX
    is_bright = rng.random((side, side)) < 0.5
    coarse = rng.integers(30, 90, (3, side, side)) + 110 * is_bright
    pixels = np.roll(noise(), tuple(rng.integers(0, SHARD_PX, 2)), axis=(1, 2))
    pixels += coarse.astype(np.uint8).repeat(BLOB_PX, axis=1).repeat(BLOB_PX, axis=2)
    return pixels, is_bright.repeat(BLOB_PX, axis=0).repeat(BLOB_PX, axis=1)


def put_scene(
    ws: Workspace,
    side: int,
    image_id: str = "scene",
    paint: Paint | None = None,
    nodata: float | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write the scene, sharded, with its pyramid; a shard in memory at a time, whatever the side.

    Args:
        ws: where to.
        side: in px, of a square.
        image_id: its name.
        paint: changes a shard (3, Y, X) in place that begins at a pixel (y, x).
        nodata: what the image says of itself.
        attributes: more of what it says of itself.
    """
    fill = 0 if nodata is None else nodata
    spec = PyramidSpec(
        axes=("c", "y", "x"), shape=(3, side, side), dtype="uint8", kind="image", nodata=nodata, fill=fill
    )
    with Staging.begin(ws, image_id, "image", {"side": side, "recipe": RECIPE}, spec) as staging:
        for unit in staging.windows():
            writer = staging.writer(unit)
            for shard in staging.pending(unit):
                window = staging.shard_window(shard)
                pixels = scene_shard(shard[1:])[0][:, : window.shape[1], : window.shape[2]]
                if paint is not None:
                    paint(pixels, window.start[1:])
                writer.put(shard, pixels)
        own: dict[str, Any] = {"source": "seeded", **(attributes or {})}
        staging.finish(own if nodata is None else {**own, "nodata": nodata}, channels=BANDS)


def put_unet(ws: Workspace) -> ModelPackage:
    """A U-Net of base 16 and about 1.9 million weights, two classes: dark and bright."""
    arguments = {"in_channels": 3, "num_classes": 2, "channels": CHANNELS}
    config = ModelConfig(architecture="unet", arguments=arguments)
    contract = InputContract(
        bands=BANDS, dtype="uint8", spacing=None, mean=MEAN, std=STD,
        tile_px=512, halo_px=32, stride=2 ** (len(CHANNELS) - 1),
    )  # fmt: skip
    contract = measured(contract, build_model(config).eval())  # as training does
    info = PackageInfo(name="unet16", architecture=config, contract=contract, classes=default_classes(2))
    return write_package(ws.objects, "models", info, trained_weights(config))


def put_conv1(ws: Workspace, num_classes: int = 2) -> ModelPackage:
    """A model of one layer and seeded weights, so that it is the engine that is measured."""
    torch.manual_seed(0)
    arguments = {"in_channels": 3, "num_classes": num_classes, "kernel_px": 3}
    config = ModelConfig(architecture="conv1", arguments=arguments)
    contract = InputContract(
        bands=BANDS, dtype="uint8", spacing=None, mean=MEAN, std=STD, tile_px=512, halo_px=1, stride=1
    )
    contract = measured(contract, build_model(config).eval())
    info = PackageInfo(name="conv1", architecture=config, contract=contract, classes=default_classes(num_classes))
    return write_package(ws.objects, "models", info, build_model(config).state_dict())


def trained_weights(config: ModelConfig, steps: int = 150) -> dict[str, torch.Tensor]:
    """Weights that tell dark from bright; trained at the first call, read from the cache afterwards."""
    path = CACHE / f"{config.architecture}16-{RECIPE}.pt"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        sys.stderr.write(f"training the model, once; kept as {path}\n")
        part = path.with_suffix(".part")
        torch.save(_trained(config, steps).state_dict(), part)
        part.replace(path)
    weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return weights


def _trained(config: ModelConfig, steps: int, crop_px: int = 96, num_crops: int = 4) -> nn.Module:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pixels, is_bright = scene_shard((0, 0))
    model = build_model(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        corners = rng.integers(0, SHARD_PX - crop_px, (num_crops, 2))
        places = [(slice(y, y + crop_px), slice(x, x + crop_px)) for y, x in corners]
        crops = torch.from_numpy(np.stack([pixels[:, y, x] for y, x in places])).float()
        target = torch.from_numpy(np.stack([is_bright[place] for place in places])).long()
        loss = nn.functional.cross_entropy(model((crops - MEAN[0]) / STD[0]), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@dataclass
class Times:
    """What the contestants took, in s, turn by turn."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    load: list[float] = field(default_factory=list)
    """Load average of the machine before and after each round."""

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, to: str) -> float | None:
        """How many times as long as `to` it took; None where one of the two had no turn."""
        if name not in self.seconds or to not in self.seconds:
            return None
        return round(self.median(name) / self.median(to), 3)

    @property
    def noisy(self) -> bool:
        """True if turns of one contestant differ by more than 30 %, or others kept the machine busy."""
        spread = max(max(values) / min(values) for values in self.seconds.values())
        return spread > 1.3 or max(self.load) > 1.5 * num_cores()

    def as_json(self) -> dict[str, Any]:
        return {
            "seconds": {name: [round(value, 3) for value in values] for name, values in self.seconds.items()},
            "noisy": self.noisy,
            "load": [round(value, 2) for value in self.load],
        }


def take_turns(
    contestants: Mapping[str, Callable[[], float]],
    rounds: int,
    seldom: Sequence[str] = (),
    until_s: float | None = None,
) -> Times:
    """Let every contestant have its turn in each round, so that a busy machine is busy for all.

    Args:
        contestants: each returns the seconds that it took; warmed up already.
        rounds: number of turns of each.
        seldom: those that have a single turn, in the first round.
        until_s: no further round begins after this many seconds, counted from the first; None = all do.
    """
    times, began = Times(load=[os.getloadavg()[0]]), time.perf_counter()
    for number in range(rounds):
        if number and until_s is not None and time.perf_counter() - began > until_s:
            break
        for name, act in contestants.items():
            if name in seldom and number:
                continue
            times.seconds.setdefault(name, []).append(act())
        times.load.append(os.getloadavg()[0])
    return times


def clocked(act: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
