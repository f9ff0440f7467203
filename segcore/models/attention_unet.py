"""Attention U-Net: a U-Net whose skips are weighed, pixel by pixel, by what the coarser stage sees there.

    skip (fine) ----- 1x1 --+-- ReLU -- 1x1 -- sigmoid --> share of the skip that is let through, 0..1
    coarse, doubled - 1x1 --+

Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas" (2018), with the gate at the skip's own size.
"""

from typing import cast

import torch
from pydantic import Field
from torch import nn

from segcore.models.arguments import ModelArguments
from segcore.models.blocks import Norm, double_conv, normalisation


class AttentionUNetArguments(ModelArguments):
    """What an attention U-Net is built from."""

    channels: tuple[int, ...] = Field(default=(16, 32, 64, 128, 128), min_length=1, max_length=8)
    """Feature channels of each stage, finest first; the stride is 2^(stages - 1)."""
    norm: Norm = "batch"
    """As in a U-Net."""


class Gate(nn.Module):
    """Additive attention: features of a skip, and what asks for them, of the same size -> the skip, weighed."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.of_skip = nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False), normalisation(norm, inner))
        self.of_coarse = nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False), normalisation(norm, inner))
        self.weight = nn.Sequential(
            nn.ReLU(inplace=True), nn.Conv2d(inner, 1, 1, bias=False), normalisation(norm, 1), nn.Sigmoid()
        )

    def forward(self, skip: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """(N, channels, y, x) twice -> the same shape."""
        return cast(torch.Tensor, skip * self.weight(self.of_skip(skip) + self.of_coarse(coarse)))


class AttentionUNet(nn.Module):
    """Encoder and decoder of a U-Net, with a gate on each skip."""

    def __init__(self, arguments: AttentionUNetArguments) -> None:
        super().__init__()
        channels = arguments.channels
        self.encoder = ("down",)
        self.stride = 2 ** (len(channels) - 1)
        before, finer = (arguments.in_channels, *channels), channels[-2::-1]
        self.down = nn.ModuleList(
            double_conv(n_in, n_out, norm=arguments.norm) for n_in, n_out in zip(before, channels, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in zip(channels[:0:-1], finer, strict=True)
        )
        self.gate = nn.ModuleList(Gate(n, arguments.norm) for n in finer)
        self.merge = nn.ModuleList(double_conv(2 * n, n, norm=arguments.norm) for n in finer)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(channels[0], arguments.num_classes, 1)

    def forward(self, tiles_ncyx: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, Y, X) of normalised tiles (N, C, Y, X); y and x must be multiples of `stride`."""
        features, skips = self.down[0](tiles_ncyx), []
        for stage in self.down[1:]:
            skips.append(features)
            features = stage(self.pool(features))
        for up, gate, merge in zip(self.up, self.gate, self.merge, strict=True):
            coarse = up(features)
            features = merge(torch.cat((gate(skips.pop(), coarse), coarse), dim=1))
        return cast(torch.Tensor, self.head(features))
