"""The bare forward pass: the model of a package on ready tiles, normalised, in the layout and precision of predict."""

import threading
import time
from dataclasses import dataclass

import torch

from segcore.inference.numerics import Network
from segcore.inference.prepared import DTYPES
from segcore.measure import num_cores
from segcore.models.package import ModelPackage

TILES_PX = (256, 512, 768, 1024)


@dataclass(frozen=True)
class Way:
    """A tile's side and a split of the cores."""

    tile_px: int
    threads: int
    """That run the model side by side."""
    cores_each: int
    batch: int = 1

    def __str__(self) -> str:
        return f"{self.tile_px} px, {self.threads} x {self.cores_each} cores, batch {self.batch}"


def ways(device: torch.device) -> list[Way]:
    """Those that the best is searched among."""
    if device.type != "cpu":
        return [Way(tile_px, 1, 1, batch) for tile_px in TILES_PX for batch in (1, 4, 16)]
    splits = {(num_cores(), 1), (1, num_cores())}
    return [Way(tile_px, *split) for tile_px in TILES_PX for split in sorted(splits)]


class Forward:
    """The prepared model, and its turns.

    Args:
        package: the model.
        device: where it runs.
        precision: of predict.
    """

    def __init__(self, package: ModelPackage, device: torch.device, precision: str) -> None:
        self.network = Network(package, device, precision, batch=1)

    def seconds(self, way: Way, num_tiles: int) -> float:
        """Seconds that `num_tiles` tiles take, rounded up to whole batches."""
        device = self.network.device
        shape = (way.batch, 3, way.tile_px, way.tile_px)
        tiles = torch.randn(shape, device=device).to(DTYPES[self.network.precision])
        tiles = tiles.to(memory_format=torch.channels_last)
        left = iter(range(-(-num_tiles // way.batch)))
        lock = threading.Lock()

        def work() -> None:
            if device.type == "cpu":
                torch.set_num_threads(way.cores_each)
            with torch.inference_mode():
                while True:
                    with lock:
                        if next(left, None) is None:
                            return
                    self.network.forward(tiles)

        _finish(device)
        began = time.perf_counter()
        threads = [threading.Thread(target=work) for _ in range(way.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _finish(device)
        seconds = time.perf_counter() - began
        torch.set_num_threads(num_cores())
        return seconds

    def best_ways(self, num_px: int, count: int = 2) -> list[Way]:
        """The fastest ways per pixel in a short survey: those that take part in the contest."""
        found = []
        for way in ways(self.network.device):
            num_tiles = tiles_over(num_px, way)
            self.seconds(way, way.threads * way.batch)  # warms up
            found.append((self.seconds(way, num_tiles) / (num_tiles * way.tile_px**2), way))
        return [way for _, way in sorted(found, key=lambda pair: pair[0])[:count]]


def tiles_over(num_px: int, way: Way) -> int:
    """Tiles side by side, without halo, that cover so many pixels: whole batches, and as many for every thread."""
    together = way.threads * way.batch
    return -(-num_px // (way.tile_px**2 * together)) * together


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
