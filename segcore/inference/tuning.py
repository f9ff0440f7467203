"""Tuning: which size of tile is fastest for a model on a device; measured once, kept with the model.

A larger tile infers less halo, but may leave the caches; which counts more only a measurement tells. Each large image
then takes the size by which all of it is done soonest. A tile of several megapixels keeps a GPU as busy as a batch of
small ones, without their halo, so that no batch is tuned.
"""

import logging
import math
import statistics
import time

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from segcore.errors import SegcoreError
from segcore.inference.calibration import keep, kept
from segcore.inference.numerics import Network
from segcore.inference.precision import device_slug, noise_tile
from segcore.inference.tiling import Tiling
from segcore.models.info import InputContract
from segcore.store import Workspace

CPU_TILES_PX, GPU_TILES_PX = (512, 1024), (512, 1024, 2048)
"""Sides of write windows that are tried beside the package's own."""
LOGITS_BYTES = 64 << 20
"""Of one tile's logits: larger tiles that have more, of many classes, are not tried."""
REPEATS = 3
WORKERS_PER_GPU = 3
"""One computes while one uploads and one fetches its mask."""
COMPILED_GAIN = 1.05
"""Compiled code that is no faster than this is not worth the seconds that each tile size costs."""
DEAREST_S = 4.0
"""A tile that takes longer is not repeated, and no larger one is tried."""

log = logging.getLogger("segcore.inference")


class Tuning(BaseModel):
    """What was measured for one model; `state/models/<model_id>/tile-<precision>-<device>.json`, or `compiled-...`."""

    model_config = ConfigDict(frozen=True)

    device: str
    px_per_s: dict[int, float]
    """Inferred pixels per second of one tile worker, by the side of the write window in px."""

    def seconds(self, tile_px: int, tiling: Tiling) -> float:
        """Of one tile worker, for all of an image."""
        return tiling.num_read_px / self.px_per_s[tile_px]

    def is_worth_compiling(self, compiled: "Tuning") -> bool:
        """True if the compiled model, at its best tile, is faster by enough."""
        return max(compiled.px_per_s.values()) >= COMPILED_GAIN * max(self.px_per_s.values())


def tuned(ws: Workspace, network: Network, contract: InputContract, model_id: str, dry_run: bool) -> Tuning | None:
    """Read from the workspace, else measured, and kept there; None where the model cannot be measured.

    Args:
        ws: where it is kept.
        network: the model as it will run, one tile at once.
        contract: of the model.
        model_id: of the model.
        dry_run: write nothing.
    """
    kind = "compiled" if network.can_compile else "tile"
    key = f"state/models/{model_id}/{kind}-{network.precision}-{device_slug(network.device)}.json"
    known = kept(ws, key, Tuning)
    if known is not None:
        return known
    try:
        found = measure(network, contract)
    except SegcoreError as error:  # what is wrong with the model shows when an image's turn comes
        log.debug("%s: not measured", key, exc_info=error)
        return None
    return found if dry_run else keep(ws, key, found)


def candidates_px(contract: InputContract, device: torch.device, num_classes: int) -> tuple[int, ...]:
    """Sides of write windows worth trying, the package's own among them, smallest first."""
    sides = CPU_TILES_PX if device.type == "cpu" else GPU_TILES_PX
    fitting = (px for px in sides if 4 * num_classes * math.prod(_read(contract, px)) <= LOGITS_BYTES)
    return tuple(sorted({contract.tile_px, *(px for px in fitting if px % contract.stride == 0)}))


def _read(contract: InputContract, side: int) -> tuple[int, ...]:
    """Sides of the read window of a write window."""
    planes = () if len(contract.axes) == 2 else (contract.tile_planes + 2 * contract.halo_planes,)
    return (*planes, side + 2 * contract.halo_px, side + 2 * contract.halo_px)


def measure(network: Network, contract: InputContract) -> Tuning:
    """Time tiles of noise, one worker alone."""
    rates: dict[int, float] = {}
    threads = torch.get_num_threads()
    try:
        with network.tile_worker():
            for side in candidates_px(contract, network.device, network.decision.num_classes):
                sides = _read(contract, side)
                if network.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(network.device)
                try:
                    seconds = _seconds(network, contract, sides)
                except SegcoreError:
                    if not rates:
                        raise
                    break  # the device has not the memory for this one
                if not _leaves_room(network.device):
                    break
                rates[side] = math.prod(sides) / seconds
                if seconds > DEAREST_S:
                    break
    finally:
        torch.set_num_threads(threads)
    return Tuning(device=device_slug(network.device), px_per_s=rates)


def _leaves_room(device: torch.device) -> bool:
    """True if as many workers as a GPU has could each run such a tile."""
    if device.type != "cuda":
        return True
    peak, (_, total) = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)
    return WORKERS_PER_GPU * peak < 0.9 * total


def _seconds(network: Network, contract: InputContract, sides: tuple[int, ...]) -> float:
    """Of one tile: the median after a first one, or that, if it is too dear to repeat."""
    tiles = noise_tile(contract, sides)[np.newaxis]
    halo, compiled = (0,) * len(sides), network.can_compile
    if compiled:
        network.ids(tiles, halo, compiled=True)  # this call takes a compiler's time
    times: list[float] = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        network.ids(tiles, halo, compiled=compiled)
        times.append(time.perf_counter() - began)
        if times[-1] > DEAREST_S:
            return times[-1]
    return statistics.median(times[1:])
