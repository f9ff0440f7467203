"""Precision: which number format `auto` means for a model on a device; found once, kept with the model.

A lower precision is taken if it is clearly faster here, and its mask agrees with float32's on a small set of tiles.
"""

import math
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from segcore.errors import ConfigError
from segcore.geometry import Ints, Tile, Window
from segcore.inference.decision import Decision
from segcore.inference.model_grid import ModelGrid, Pixels
from segcore.inference.numerics import Network, NotFiniteError, Recipe
from segcore.inference.tiling import Tiling, is_usable, read_reflected, read_validity, stacked
from segcore.models.info import InputContract
from segcore.models.package import ModelPackage
from segcore.stretch import stretch_of

MIN_AGREEMENT = 0.999
"""Share of pixels whose class must be float32's."""
MIN_SPEEDUP = 1.2
"""Times as fast as float32 that a lower precision must be: less is not worth changed pixels, and may be noise."""
CALIBRATION_TILES = 4
REPEATS = 3
CPU_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Without one of these bfloat16 is emulated, up to 80 times slower: not even tried."""


class Calibration(BaseModel):
    """What was found for one model on one device; `state/models/<model_id>/<device>.json`."""

    model_config = ConfigDict(frozen=True)

    precision: str
    device: str
    agreement: dict[str, float] = {}
    """Share of pixels that agree with float32, per precision tried."""
    px_per_s: dict[str, float] = {}
    """Pixels of whole tiles per second of one tile worker, per precision tried."""


def check_precision(asked: str, device: torch.device) -> None:
    """Refuse a precision that the device does not have.

    Raises:
        ConfigError: naming what it has.
    """
    if asked == "float16" and device.type == "cpu":
        raise ConfigError("precision float16: expected float32 or bfloat16 on a CPU; give one of them, or auto")
    if asked == "bfloat16" and device.type == "mps":
        raise ConfigError("precision bfloat16: expected float32 or float16 on MPS; give one of them, or auto")


def faster_formats(device: torch.device) -> list[str]:
    """Formats that may be faster than float32 on the device."""
    if device.type == "cuda":
        return ["float16", "bfloat16"] if torch.cuda.is_bf16_supported() else ["float16"]
    if device.type == "mps":
        return []
    return ["bfloat16"] if cpu_flags() & CPU_BFLOAT16_FLAGS else []


def cpu_flags() -> set[str]:
    """Instruction sets of the CPU by Linux's names; none where that cannot be known."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return set()
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", info.read_text(), re.MULTILINE)
    return set(flags[1].split()) if flags else set()


def device_slug(device: torch.device) -> str:
    """Names the model of a device, as a file name."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        known = sorted(cpu_flags() & (CPU_BFLOAT16_FLAGS | {"avx2", "avx512f", "avx512_vnni"}))
        name = "-".join(["cpu", *known])
    else:
        name = device.type
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-").lower()


def calibration_tiles(
    grid: ModelGrid, tiling: Tiling, is_stretched: bool, count: int = CALIBRATION_TILES
) -> list[Pixels]:
    """The pixels (1, C, ...) of a few tiles, as the model gets them."""
    stretch = stretch_of(grid.image) if is_stretched else None
    tiles = spread_tiles(grid, replace(tiling, is_cut=False), count)
    return [stacked(read_reflected(grid, tile.read, stretch), tile.read.start, [tile], 1) for tile in tiles]


def spread_tiles(grid: ModelGrid, tiling: Tiling, count: int = CALIBRATION_TILES) -> list[Tile]:
    """A few tiles spread over the image, those with usable pixels first."""
    every = list(tiling.tiles(Window.whole(tiling.shape))) if tiling.num_tiles <= 4096 else _diagonal(tiling)
    step = max(1, len(every) // (4 * count))
    spread = every[step // 2 :: step] or every
    writes = [grid.mask_window(tile.write) for tile in spread]
    usable = [is_usable(read_validity(grid, write), write, write.start) for write in writes]
    ranked = [tile for wanted in (True, False) for tile, found in zip(spread, usable, strict=True) if found == wanted]
    return ranked[:count]


def _diagonal(tiling: Tiling, count: int = 64) -> list[Tile]:
    """Tiles along the diagonal of an image with too many to list."""
    places = [tuple(side * (2 * i + 1) // (2 * count) for side in tiling.shape) for i in range(count)]
    return [next(tiling.tiles(Window(place, (1,) * len(place)))) for place in places]


def calibrate(
    packages: Sequence[ModelPackage],
    device: torch.device,
    candidates: list[str],
    tiles: list[Pixels],
    nodata: float | None = None,
) -> Calibration:
    """The fastest of `candidates` (float32 first) that agrees with float32 on `tiles`, for models averaged together.

    It is float32 if none is `MIN_SPEEDUP` times as fast.

    Raises:
        NotFiniteError: if float32 itself gives NaN or Inf; a lower precision that does is not taken.
    """
    seconds: dict[str, float] = {}
    masks: dict[str, Pixels] = {}
    package, *others = packages
    recipe = Recipe(Decision(len(package.classes), ignore=255), tuple(others))
    for precision in candidates:
        network = Network(package, device, precision, batch=1, recipe=recipe).adapted(np.concatenate(tiles), nodata)
        try:
            masks[precision], seconds[precision] = timed_ids(network, tiles, nodata)
        except NotFiniteError:
            if precision == "float32":
                raise
    agreement = {name: float(np.mean(mask == masks["float32"])) for name, mask in masks.items()}
    agreeing = [name for name, share in agreement.items() if share >= MIN_AGREEMENT]
    fastest = min(agreeing, key=lambda name: seconds[name])
    num_px = sum(math.prod(tile.shape[2:]) for tile in tiles)
    return Calibration(
        precision=fastest if seconds["float32"] >= MIN_SPEEDUP * seconds[fastest] else "float32",
        device=device_slug(device),
        agreement=agreement,
        px_per_s={name: num_px / value for name, value in seconds.items()},
    )


def timed_ids(network: Network, tiles: list[Pixels], nodata: float | None = None) -> tuple[Pixels, float]:
    """The ids of all tiles, and the median time in s that they take on one thread after a first run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: list[float] = []
    ids: list[Any] = []
    try:
        with torch.inference_mode():
            for _ in range(REPEATS + 1):
                began = time.perf_counter()
                ids = [network.ids(tile, (0,) * (tile.ndim - 2), nodata) for tile in tiles]
                times.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return np.stack(ids), statistics.median(times[1:])


def noise_tile(contract: InputContract, sides: Ints) -> Pixels:
    """Seeded noise (C, *sides) in the range that a model expects, in the image's dtype."""
    noise = np.random.default_rng(0).uniform(-1, 1, (len(contract.bands), *sides))
    low, high = _range(contract.dtype)
    mean, std = (np.reshape(values, (-1, *(1,) * len(sides))) for values in (contract.mean, contract.std))
    return np.clip(mean + 2 * std * noise, low, high).astype(contract.dtype)


def _range(dtype: str) -> tuple[float, float]:
    limits = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else np.finfo(dtype)
    return float(limits.min), float(limits.max)
