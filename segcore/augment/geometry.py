"""Geometry: tiles and classes -> *the same, moved*: image and target together, through one grid.

Flips and quarter turns only reorder pixels. Rotation, scale, crop and bend are one map from output to input and one
resampling: bilinear for pixels, nearest for classes (so that the ignored class is never mixed with another), mirrored
at the border for both.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from segcore.augment.draw import Augmentation


def moved(tiles_ncyx: torch.Tensor, classes_nyx: torch.Tensor, what: Augmentation) -> tuple[torch.Tensor, torch.Tensor]:
    """New tensors with every tile and its classes moved; y and x must be of the same length.

    Classes may have planes, (N, P, Y, X): those of a tile move together.
    """
    assert tiles_ncyx.shape[-1] == tiles_ncyx.shape[-2], f"expected square tiles, got {tuple(tiles_ncyx.shape)}"
    tiles, classes = tiles_ncyx.clone(memory_format=torch.contiguous_format), classes_nyx.clone()
    for symmetry in np.unique(what.symmetry[what.symmetry > 0]):
        rows = np.flatnonzero(what.symmetry == symmetry)
        tiles[rows], classes[rows] = turned(tiles[rows], symmetry), turned(classes[rows], symmetry)
    still = np.eye(2, 3)
    rows = np.flatnonzero((what.matrix != still).any((1, 2)) | what.bend.any((1, 2, 3)))
    if rows.size:
        grid = _grid(what.matrix[rows], what.bend[rows], tiles.shape[-1], tiles.device)
        tiles[rows] = F.grid_sample(tiles[rows], grid, "bilinear", "reflection", align_corners=False)
        as_float = classes[rows].reshape(len(rows), -1, *classes.shape[-2:]).to(torch.float32)
        nearest = F.grid_sample(as_float, grid, "nearest", "reflection", align_corners=False)
        classes[rows] = nearest.round().to(classes.dtype).reshape(len(rows), *classes.shape[1:])
    return tiles, classes


def turned(values: torch.Tensor, symmetry: int) -> torch.Tensor:
    """One of the eight symmetries of a square, as `Augmentation.symmetry` numbers them, on the last two axes."""
    values = torch.rot90(values, int(symmetry) % 4, (-2, -1))
    return values.flip(-1) if symmetry >= 4 else values


def _grid(matrix: npt.NDArray[Any], bend: npt.NDArray[Any], side: int, device: torch.device) -> torch.Tensor:
    """(n, side, side, 2): where each output pixel is read from.

    The bend is a coarse grid of random shifts that is made smooth by bicubic interpolation, as in Ronneberger et al.
    2015, "U-Net", after Simard et al. 2003.
    """
    affine = torch.as_tensor(matrix, dtype=torch.float32, device=device)
    grid = F.affine_grid(affine, [len(matrix), 1, side, side], align_corners=False)
    if bend.any():
        nodes = torch.as_tensor(bend, dtype=torch.float32, device=device)
        smooth = F.interpolate(nodes, (side, side), mode="bicubic", align_corners=True)
        grid = grid + smooth.permute(0, 2, 3, 1)
    return grid
