"""One turn of a torch DataLoader per line of stdin, as MONAI's and TorchGeo's users write it; run by loader.py.

    zarr 50           so many batches: the Dataset slices zarr-python's arrays at random places
    tensorstore 50    the same with tensorstore's arrays

Two workers, batches of 8; each worker opens the arrays itself, since Zarr's event loop does not survive a fork.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorstore
import torch
import zarr
from torch.utils.data import DataLoader, Dataset
from turns import serve

TILE_PX, BATCH, WORKERS = 256, 8, 2


def open_tensorstore(path: str) -> Any:
    """An array whose slices have to be read."""
    return tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}, open=True, read=True
    ).result()


OPEN: dict[str, Callable[[str], Any]] = {
    "zarr": lambda path: zarr.open_array(path, mode="r"),
    "tensorstore": open_tensorstore,
}


class Slices(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random tiles of an image and its target, by slicing."""

    def __init__(self, kind: str, image: str, target: str) -> None:
        self._open, self._paths = OPEN[kind], (image, target)
        self._arrays: list[Any] = []

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not self._arrays:
            self._arrays = [self._open(path) for path in self._paths]
        image, target = self._arrays
        y, x = np.random.default_rng(number).integers(0, [n - TILE_PX for n in image.shape[1:]])
        place = slice(y, y + TILE_PX), slice(x, x + TILE_PX)
        return torch.from_numpy(np.asarray(image[:, *place])), torch.from_numpy(np.asarray(target[place]))


class Peers:
    """A DataLoader for each kind of array, begun at its first turn and read on."""

    def __init__(self, image: str, target: str) -> None:
        self._paths = image, target
        self._batches: dict[str, Iterator[Any]] = {}

    def __call__(self, asked: str) -> None:
        kind, count = asked.split()
        if kind not in self._batches:
            loader = DataLoader(Slices(kind, *self._paths), batch_size=BATCH, num_workers=WORKERS)
            self._batches[kind] = iter(loader)
        for _ in range(int(count)):
            pixels, target = next(self._batches[kind])
        assert (pixels.shape, target.shape) == ((BATCH, 3, TILE_PX, TILE_PX), (BATCH, TILE_PX, TILE_PX))


if __name__ == "__main__":
    serve(Peers(*sys.argv[1:]))
