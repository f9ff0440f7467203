"""Texture: the features that a model's own encoder has of a sample, pooled; tiles -> *statistics of features*.

Each channel's mean and deviation over the sample, where maps are coarsest and before any norm: an image norm would give
every image the same ones. Of many channels sums with signs drawn once are kept, which leave distances about what they
are (Achlioptas, "Database-friendly random projections", 2003).
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import nn

from segcore.drift.distance import Floats
from segcore.drift.reference import Statistics
from segcore.errors import ConfigError
from segcore.explain.attribution import coarsest_features

MOST = 64
"""Statistics that are kept."""
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def texture_module(model: nn.Module, tile: torch.Tensor, strides: tuple[int, ...]) -> str:
    """Name of the module whose output is pooled; "" of a network without such features.

    Args:
        model: in evaluation mode.
        tile: normalised (1, C, ...).
        strides: of the model, by axis of a tile.
    """
    try:
        return coarsest_features(model, tile, strides, CONVOLUTIONS)
    except ConfigError:
        return ""


@torch.no_grad()
def texture(model: nn.Module, module: str, tiles: Sequence[torch.Tensor]) -> Statistics:
    """Pooled features of the tiles of one image, each (1, C, ...)."""
    sums: list[torch.Tensor] = []

    def hear(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        maps = output.double().transpose(0, 1).flatten(1)
        sums.append(torch.stack([maps.mean(dim=1), (maps**2).mean(dim=1)]))
        raise _SeenError  # what comes after is of no use here

    handle = model.get_submodule(module).register_forward_hook(hear)
    try:
        for tile in tiles:
            with suppress(_SeenError):
                model(tile)
    finally:
        handle.remove()
    mean, square = torch.stack(sums).mean(dim=0).cpu().numpy()
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    values = _projected(np.concatenate([mean, deviation]))
    unit = float(np.sqrt((deviation**2).mean()))
    names = tuple(f"feature {number}" for number in range(len(values)))
    return Statistics(names, tuple(values.tolist()), (unit,) * len(values))


class _SeenError(Exception):
    """The features are there: the rest of the network need not run."""


def _projected(values: Floats) -> Floats:
    """At most `MOST` numbers; the signs are the same everywhere."""
    if len(values) <= MOST:
        return values
    bits = np.frombuffer(hashlib.shake_256(b"segcore.drift").digest(len(values) * MOST // 8), np.uint8)
    signs = 1.0 - 2.0 * np.unpackbits(bits).reshape(len(values), MOST)
    return np.asarray(values @ signs / np.sqrt(MOST))
