"""Blocks: what several architectures are made of, for planes (N, C, Y, X) and for volumes (N, C, Z, Y, X)."""

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import nn

from segcore.models.image_norm import ImageNorm

Norm = Literal["image", "batch", "group"]
"""`batch` takes the statistics of the training set, `image` those of the image: with both a pixel has the same logits
in every tile that holds its context. `group` takes those of the tile, so that no halo is enough."""
Dims = Literal[2, 3]

CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
UP_CONVOLUTION: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
POOL: dict[int, type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
DROPOUT: dict[int, type[nn.Dropout2d] | type[nn.Dropout3d]] = {2: nn.Dropout2d, 3: nn.Dropout3d}
MAX_GROUPS = 32
"""Wu and He, "Group Normalization" (2018)."""


def normalisation(kind: Norm, channels: int, dims: Dims = 2) -> nn.Module:
    """One of the norms, with a weight and a bias for each channel."""
    if kind == "image":
        return ImageNorm(channels, dims)
    if kind == "group":
        groups = next(n for n in range(min(MAX_GROUPS, channels), 0, -1) if channels % n == 0)
        return nn.GroupNorm(groups, channels)
    return nn.BatchNorm3d(channels) if dims == 3 else nn.BatchNorm2d(channels)


def conv_norm_relu(
    n_in: int,
    n_out: int,
    dims: Dims = 2,
    norm: Norm = "batch",
    kernel: int | Sequence[int] = 3,
    stride: int = 1,
    dilation: int = 1,
) -> list[nn.Module]:
    """Convolution -> norm -> ReLU as layers; the norm has a bias, so the convolution needs none."""
    sides = (kernel,) * dims if isinstance(kernel, int) else tuple(kernel)
    padding = tuple(dilation * (side // 2) for side in sides)
    convolution = CONVOLUTION[dims](n_in, n_out, sides, stride, padding, dilation, bias=False)  # type: ignore[arg-type]
    return [convolution, normalisation(norm, n_out, dims), nn.ReLU(inplace=True)]


def double_conv(
    n_in: int, n_out: int, dims: Dims = 2, norm: Norm = "batch", kernel: int | Sequence[int] = 3
) -> nn.Sequential:
    """Twice convolution -> norm -> ReLU: a stage of a U-Net."""
    first, second = (conv_norm_relu(n, n_out, dims, norm, kernel) for n in (n_in, n_out))
    return nn.Sequential(*first, *second)


class Residual(nn.Module):
    """Layers with a shortcut around them: He et al., "Deep Residual Learning for Image Recognition" (2016)."""

    def __init__(self, body: nn.Module, n_in: int, n_out: int, dims: Dims = 2) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if n_in == n_out else CONVOLUTION[dims](n_in, n_out, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, n_in, ...) -> (N, n_out, ...)."""
        return cast(torch.Tensor, self.body(features) + self.shortcut(features))


def enlarged(features: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resampled linearly to a size, pixel areas aligned, so that it moves with the image by multiples of the stride."""
    mode = "trilinear" if features.ndim == 5 else "bilinear"
    return F.interpolate(features, tuple(size), mode=mode, align_corners=False)
