"""Augment: tiles -> *other tiles that could have been*. On the device; what happens to a tile is seeded by the tile.

Geometry (flips, quarter turns, and for some a free rotation and scale) is one affine map per tile and one resampling:
bilinear for pixels, nearest for classes, mirrored at the border for both. Then brightness, contrast and gamma per
band, blur and noise. Pixels are normalised ones (mean 0, deviation 1 over the data set).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

AFFINE_SHARE = 0.5
"""Share of the tiles that are rotated and scaled freely; resampling blurs, so the others stay sharp."""
MAX_LOG_SCALE = math.log(1.3)
BLUR_SHARE = 0.1
NOISE_SHARE = 0.2
MAX_NOISE = 0.15


@dataclass(frozen=True)
class Augmentation:
    """What will happen to a batch of N tiles with C bands; all on the host, small."""

    affine: torch.Tensor
    """(N, 2, 3), output to input in the coordinates of `torch.nn.functional.affine_grid`."""
    gain: torch.Tensor
    """(N, C), contrast."""
    shift: torch.Tensor
    """(N, C), brightness in deviations."""
    gamma: torch.Tensor
    """(N, C), exponent over the tile's own range."""
    blur: torch.Tensor
    """(N,), share of a 3x3 binomial blur that is mixed in."""
    noise: torch.Tensor
    """(N,), deviation of the noise."""
    noise_seeds: tuple[int, ...]


def draw_augmentation(seed: int, step: int, batch: int, num_bands: int) -> Augmentation:
    """What happens to the tiles of one step: a pure function of its arguments."""
    rows = [_draw_tile(np.random.default_rng((seed, step, k, 1)), num_bands) for k in range(batch)]
    *numbers, seeds = zip(*rows, strict=True)
    affine, gain, shift, gamma, blur, noise = (torch.tensor(np.array(each), dtype=torch.float32) for each in numbers)
    return Augmentation(affine, gain, shift, gamma, blur, noise, seeds)


def _draw_tile(rng: np.random.Generator, num_bands: int) -> tuple[Any, ...]:
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    matrix = np.linalg.matrix_power(turn, int(rng.integers(4)))
    if rng.random() < 0.5:
        matrix = matrix @ np.diag([-1.0, 1.0])
    if rng.random() < AFFINE_SHARE:
        angle = rng.uniform(-math.pi / 4, math.pi / 4)
        scale = math.exp(rng.uniform(-MAX_LOG_SCALE, MAX_LOG_SCALE))
        free = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = matrix @ free * scale
    return (
        np.hstack([matrix, np.zeros((2, 1))]),
        np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.05, num_bands)),
        rng.normal(0, 0.2) + rng.normal(0, 0.1, num_bands),
        np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.05, num_bands)),
        float(rng.uniform(0, 1)) if rng.random() < BLUR_SHARE else 0.0,
        float(rng.uniform(0, MAX_NOISE)) if rng.random() < NOISE_SHARE else 0.0,
        int(rng.integers(2**62)),
    )


def augment(
    tiles_ncyx: torch.Tensor, classes_nyx: torch.Tensor, what: Augmentation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply an augmentation to tiles and their classes.

    Args:
        tiles_ncyx: normalised pixels, float32; y and x of the same length.
        classes_nyx: class numbers, int64, `sampling.IGNORED` among them.
        what: of as many tiles and bands.
    """
    tiles, classes = _moved(tiles_ncyx, classes_nyx, what.affine)
    device = tiles.device
    gain, shift, gamma = (values[..., None, None].to(device) for values in (what.gain, what.shift, what.gamma))
    low, high = tiles.amin((2, 3), keepdim=True), tiles.amax((2, 3), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    tiles = ((tiles - low) / span).clamp(0, 1) ** gamma * span + low
    middle = tiles.mean((2, 3), keepdim=True)
    tiles = (tiles - middle) * gain + middle + shift
    for k in np.flatnonzero(what.blur.numpy()):
        tiles[k] = torch.lerp(tiles[k], _blurred(tiles[k]), what.blur[k].to(device))
    for k in np.flatnonzero(what.noise.numpy()):
        generator = torch.Generator(device).manual_seed(what.noise_seeds[k])
        tiles[k] += torch.randn(tiles[k].shape, generator=generator, device=device) * what.noise[k].to(device)
    return tiles, classes


def _moved(tiles: torch.Tensor, classes: torch.Tensor, affine: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    grid = F.affine_grid(affine.to(tiles.device), list(tiles.shape), align_corners=False)
    moved = F.grid_sample(tiles, grid, "bilinear", "reflection", align_corners=False)
    as_float = classes[:, None].to(torch.float32)
    nearest = F.grid_sample(as_float, grid, "nearest", "reflection", align_corners=False)
    return moved, nearest[:, 0].round().to(classes.dtype)


def _blurred(tile_cyx: torch.Tensor) -> torch.Tensor:
    """3x3 binomial blur, mirrored at the border."""
    kernel = torch.tensor([1.0, 2.0, 1.0], device=tile_cyx.device) / 4
    padded = F.pad(tile_cyx[:, None], (1, 1, 1, 1), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 3, 1)), kernel.view(1, 1, 1, 3))[:, 0]
