"""Colour: normalised tiles -> *tiles as another stain, lamp or sensor would have made them*. Classes stay.

Each function changes the tiles in place, and only those that it is drawn for.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from segcore.augment.draw import Augmentation

RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density in red, green and blue of one unit of haematoxylin, eosin and DAB: Ruifrok & Johnston 2001,
"Quantification of histochemical staining by color deconvolution"."""


def recolour(tiles_ncyx: torch.Tensor, what: Augmentation, mean: Sequence[float], std: Sequence[float]) -> None:
    """Change stains, gamma, light, sharpness, noise and bands.

    Args:
        tiles_ncyx: float32, (pixels - mean) / std; (N, C, P, Y, X) of several planes. Contiguous.
        what: of as many tiles and bands.
        mean: per band, in the image's values.
        std: per band, in the image's values.
    """
    side = tiles_ncyx.shape[-1]
    tiles = tiles_ncyx.view(*tiles_ncyx.shape[:2], -1, side)  # planes below each other
    _stain(tiles, what.stain, mean, std)
    _gamma(tiles, what.gamma)
    _light(tiles, what.light)
    _blur(tiles_ncyx.view(len(tiles), -1, *tiles_ncyx.shape[-2:]), what.blur)  # each plane alone
    _noise(tiles, what)
    if what.dropped.any():
        dropped = torch.as_tensor(what.dropped, device=tiles.device)
        tiles.masked_fill_(dropped[:, :, None, None], 0.0)


def _stain(tiles: torch.Tensor, stain: npt.NDArray[Any], mean: Sequence[float], std: Sequence[float]) -> None:
    """Other amounts of each stain, on 8-bit RGB.

    Optical densities -> stains -> more or less of each -> optical densities is one affine map per tile. Unlike
    skimage, stains below 0 are kept: a tile whose stains are not changed stays what it is.
    """
    rows = np.flatnonzero((stain != [[1.0], [0.0]]).any((1, 2)))
    if not rows.size:
        return
    hed_from_rgb = np.linalg.inv(RGB_FROM_HED)
    factor, summand = stain[rows, 0, None], stain[rows, 1, None]
    matrix = _on(hed_from_rgb * factor @ RGB_FROM_HED, tiles)
    offset = _on(summand @ RGB_FROM_HED, tiles)[:, 0, :, None, None]
    offset_of_norm, scale = _on(mean, tiles)[:, None, None], _on(std, tiles)[:, None, None]
    rgb = (tiles[rows] * scale + offset_of_norm) / 255
    density = -rgb.clamp(1 / 255, 1).log()
    density = torch.einsum("ncyx,ncd->ndyx", density, matrix) + offset
    tiles[rows] = ((-density).exp().clamp(0, 1) * 255 - offset_of_norm) / scale


def _gamma(tiles: torch.Tensor, gamma: npt.NDArray[Any]) -> None:
    """A power of the values between a tile's own lowest and highest, band by band."""
    rows = np.flatnonzero((gamma != 1).any(1))
    if not rows.size:
        return
    chosen = tiles[rows]
    low, high = chosen.amin((2, 3), keepdim=True), chosen.amax((2, 3), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    exponent = _on(gamma[rows], tiles)[..., None, None]
    tiles[rows] = ((chosen - low) / span).clamp_(0, 1).pow_(exponent).mul_(span).add_(low)


def _light(tiles: torch.Tensor, light: npt.NDArray[Any]) -> None:
    """Contrast around a tile's own mean, and brightness; each band a little apart from the others."""
    rows = np.flatnonzero((light != [[1.0], [0.0]]).any((1, 2)))
    if not rows.size:
        return
    chosen = tiles[rows]
    gain, shift = _on(light[rows], tiles)[..., None, None].unbind(1)
    middle = chosen.mean((2, 3), keepdim=True)
    tiles[rows] = chosen.sub_(middle).mul_(gain).add_(middle + shift)


def _blur(tiles: torch.Tensor, blur: npt.NDArray[Any]) -> None:
    """3x3 binomial blur, mirrored at the border."""
    rows = np.flatnonzero(blur)
    if not rows.size:
        return
    chosen = tiles[rows]
    padded = F.pad(chosen, (1, 1, 1, 1), mode="reflect")
    columns = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    blurred = (columns[..., :-2] + 2 * columns[..., 1:-1] + columns[..., 2:]) / 16
    tiles[rows] = chosen.lerp_(blurred, _on(blur[rows], tiles)[:, None, None, None])


def _noise(tiles: torch.Tensor, what: Augmentation) -> None:
    """Normal noise from the tile's own seed."""
    for k in np.flatnonzero(what.noise):
        generator = torch.Generator(tiles.device).manual_seed(int(what.noise_seed[k]))
        drawn = torch.randn(tiles[k].shape, generator=generator, device=tiles.device)
        tiles[k] += drawn * float(what.noise[k])


def _on(values: npt.NDArray[Any] | Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32, device=like.device)
