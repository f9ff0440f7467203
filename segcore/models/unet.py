"""U-Net: the default architecture. tiles (N, C, Y, X) -> logits (N, K, Y, X).

    C -> [conv conv] ------------ skip ------------> [conv conv] -> 1x1 -> K     full resolution
              | pool                                    ^ up
          [conv conv] ----------- skip ----------> [conv conv]                   1/2
              | pool                                    ^ up
              +------------> [conv conv] ---------------+                        1/4 ...

After Ronneberger et al., "U-Net" (2015), with batch normalisation and with borders padded by zeros,
so that the logits have the tile's own shape. Batch norm is frozen in use: unlike instance or group
norm it gives a pixel the same logits in every tile that holds enough context around it.

Dropout, asked for, is of whole channels (Tompson et al., 2015), after the stages of the coarser half, down and up:
there it did best in Kendall et al., "Bayesian SegNet" (2015).
"""

from typing import cast

import torch
from pydantic import Field
from torch import nn

from segcore.models.arguments import ModelArguments


class UNetArguments(ModelArguments):
    """What a U-Net is built from."""

    channels: tuple[int, ...] = Field(default=(16, 32, 64, 128, 128), min_length=1, max_length=8)
    """Feature channels of each stage, finest first; the stride is 2^(stages - 1)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the channels that are dropped in training after each stage of the coarser half."""


class UNet(nn.Module):
    """Encoder and decoder with a double 3x3 convolution per stage, max-pool down, 2x2 transposed convolution up."""

    def __init__(self, arguments: UNetArguments) -> None:
        super().__init__()
        channels = arguments.channels
        self.encoder = ("down",)
        self.stride = 2 ** (len(channels) - 1)
        self.down = nn.ModuleList(
            _double_conv(n_in, n_out) for n_in, n_out in zip((arguments.in_channels, *channels), channels, strict=False)
        )
        deeper = channels[:0:-1]
        finer = channels[-2::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in zip(deeper, finer, strict=True))
        self.merge = nn.ModuleList(_double_conv(2 * b, b) for b in finer)
        coarser = [i >= len(channels) // 2 for i in range(len(channels))]
        self.drop_down = nn.ModuleList(_dropout(arguments.dropout, is_coarser) for is_coarser in coarser)
        self.drop_up = nn.ModuleList(_dropout(arguments.dropout, is_coarser) for is_coarser in coarser[-2::-1])
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(channels[0], arguments.num_classes, 1)

    def forward(self, tiles_ncyx: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, Y, X) of normalised tiles (N, C, Y, X); y and x must be multiples of `stride`."""
        y, x = tiles_ncyx.shape[-2:]
        assert y % self.stride == x % self.stride == 0, f"tile {(y, x)} is no multiple of stride {self.stride}"
        features = self.drop_down[0](self.down[0](tiles_ncyx))
        skips = []
        for stage, drop in zip(self.down[1:], self.drop_down[1:], strict=True):
            skips.append(features)
            features = drop(stage(self.pool(features)))
        for up, merge, drop in zip(self.up, self.merge, self.drop_up, strict=True):
            features = drop(merge(torch.cat((skips.pop(), up(features)), dim=1)))
        return cast(torch.Tensor, self.head(features))


def _double_conv(n_in: int, n_out: int) -> nn.Sequential:
    """(conv 3x3 -> batch norm -> ReLU) twice; the norm has a bias, so the convolution needs none."""
    layers: list[nn.Module] = []
    for a, b in ((n_in, n_out), (n_out, n_out)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _dropout(share: float, is_coarser: bool) -> nn.Module:
    return nn.Dropout2d(share) if share and is_coarser else nn.Identity()
