"""U-Net: the default architecture. tiles (N, C, [Z,] Y, X) -> logits (N, K, [Z,] Y, X).

    C -> [conv conv] ------------ skip ------------> [conv conv] -> 1x1 -> K     full resolution
              | pool                                    ^ up
          [conv conv] ----------- skip ----------> [conv conv]                   1/2
              | pool                                    ^ up
              +------------> [conv conv] ---------------+                        1/4 ...

After Ronneberger et al., "U-Net" (2015), with a norm after each convolution and with borders padded by zeros, so that
the logits have the tile's own shape; of volumes after Çiçek et al., "3D U-Net" (2016). `residual` puts a shortcut
around each double convolution, as Zhang et al., "Road Extraction by Deep Residual U-Net" (2018), do.

Planes of a volume are often farther apart than its pixels: the first `flat_stages` halve y and x alone, and their
convolutions stay in their plane (3x3x1), as Isensee et al., "nnU-Net" (2021), advise.

Dropout, asked for, is of whole channels (Tompson et al., 2015), after the stages of the coarser half, down and up:
there it did best in Kendall et al., "Bayesian SegNet" (2015).
"""

from typing import cast

import torch
from pydantic import Field
from torch import nn

from segcore.models.arguments import ModelArguments
from segcore.models.blocks import (
    CONVOLUTION,
    DROPOUT,
    POOL,
    UP_CONVOLUTION,
    Dims,
    Norm,
    Residual,
    double_conv,
)


class UNetArguments(ModelArguments):
    """What a U-Net is built from."""

    channels: tuple[int, ...] = Field(default=(16, 32, 64, 128, 128), min_length=1, max_length=8)
    """Feature channels of each stage, finest first; the stride is 2^(stages - 1)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the channels that are dropped in training after each stage of the coarser half."""
    dims: Dims = 2
    """3 = of volumes, tiles of several planes."""
    flat_stages: int = Field(default=0, ge=0)
    """Of a volume: stages, finest first, that leave the planes apart."""
    norm: Norm = "batch"
    """After each convolution, by the statistics of the image, of the training set (batch), or of the tile (group), with
    which the mask depends on how the image is cut."""
    residual: bool = False
    """Shortcuts around the double convolutions."""


class UNet(nn.Module):
    """Encoder and decoder with a double 3x3 convolution per stage, max-pool down, 2x2 transposed convolution up."""

    def __init__(self, arguments: UNetArguments) -> None:
        super().__init__()
        channels, dims, stages = arguments.channels, arguments.dims, len(arguments.channels)
        flat = arguments.flat_stages
        if flat and dims == 2:
            raise ValueError("flat_stages: expected dims=3, since planes alone have nothing to leave apart")
        self.encoder = ("down",)
        self.axes = ("z", "y", "x")[-dims:]
        self.stride = 2 ** (stages - 1)
        self.stride_planes = 2 ** max(0, stages - 1 - flat)
        steps = [_sides(2, dims, is_flat=stage < flat) for stage in range(stages - 1)]  # between two stages

        def double(n_in: int, n_out: int, stage: int) -> nn.Module:
            kernel = _sides(3, dims, is_flat=stage < flat)
            body = double_conv(n_in, n_out, dims, arguments.norm, kernel)
            return Residual(body, n_in, n_out, dims) if arguments.residual else body

        def drop(stage: int) -> nn.Module:
            is_coarser = stage >= stages // 2
            return DROPOUT[dims](arguments.dropout) if arguments.dropout and is_coarser else nn.Identity()

        before = (arguments.in_channels, *channels)
        self.down = nn.ModuleList(double(before[stage], channels[stage], stage) for stage in range(stages))
        self.pool = nn.ModuleList(POOL[dims](step) for step in steps)
        finer = range(stages - 2, -1, -1)
        self.up = nn.ModuleList(
            UP_CONVOLUTION[dims](channels[stage + 1], channels[stage], steps[stage], stride=steps[stage])  # type: ignore[arg-type]
            for stage in finer
        )
        self.merge = nn.ModuleList(double(2 * channels[stage], channels[stage], stage) for stage in finer)
        self.drop_down = nn.ModuleList(drop(stage) for stage in range(stages))
        self.drop_up = nn.ModuleList(drop(stage) for stage in finer)
        self.head = CONVOLUTION[dims](channels[0], arguments.num_classes, 1)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, [Z,] Y, X) of normalised tiles (N, C, [Z,] Y, X); sides must be multiples of the strides."""
        y, x = tiles.shape[-2:]
        assert y % self.stride == x % self.stride == 0, f"tile {(y, x)} is no multiple of stride {self.stride}"
        features = self.drop_down[0](self.down[0](tiles))
        skips = []
        for pool, stage, drop in zip(self.pool, self.down[1:], self.drop_down[1:], strict=True):
            skips.append(features)
            features = drop(stage(pool(features)))
        for up, merge, drop in zip(self.up, self.merge, self.drop_up, strict=True):
            features = drop(merge(torch.cat((skips.pop(), up(features)), dim=1)))
        return cast(torch.Tensor, self.head(features))


def _sides(px: int, dims: Dims, *, is_flat: bool) -> tuple[int, ...]:
    """Of a kernel or a pool."""
    return (px,) * dims if not is_flat else (1,) + (px,) * (dims - 1)
