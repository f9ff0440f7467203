"""Small scenes, and the answers of a classic method to one."""

from typing import Any

import numpy as np
import torch

from segcore.models import ModelConfig, build_model


def discs(seed: int, shape: tuple[int, int] = (64, 72), noise: float = 0.05, bands: int = 3) -> np.ndarray:
    """Bright discs on darker ground that brightens to the right, with noise; (bands, Y, X) float64, 0..1.

    The first and the last band differ by a slow wave, so that their ratio tells something too.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    grey = 0.25 + 0.15 * x / shape[1]
    for _ in range(4):
        radius, centre = random.integers(6, 12), [random.integers(0, side) for side in shape]
        grey[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] += 0.35
    tints = 1 + 0.2 * np.sin(y / 9 + np.linspace(0, np.pi, bands)[:, None, None])
    values = np.clip(grey * tints + random.normal(0, noise, (bands, *shape)), 0, 1)
    return values.astype(np.float32).astype(np.float64)


def answered(name: str, tile: np.ndarray, num_classes: int = 2, **arguments: Any) -> np.ndarray:
    """Class ids (Y, X) of a tile (C, Y, X) whose values float32 holds."""
    given = {"in_channels": len(tile), "num_classes": num_classes, **arguments}
    model = build_model(ModelConfig(architecture=name, arguments=given))
    return model(torch.from_numpy(tile)[None].float()).argmax(1)[0].numpy()
