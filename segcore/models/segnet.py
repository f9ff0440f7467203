"""SegNet: tiles (N, C, Y, X) -> logits (N, K, Y, X). What goes up is where the maxima were, not the features.

    C -> [conv]xn -> pool ..... indices ..... unpool -> [conv]xn -> 1x1 -> K
                       | ....... indices ....... ^
                       +-> [conv]xn -> pool -> unpool -> [conv]xn

Badrinarayanan et al., "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation" (2017). With
channels 64,128,256,512,512 and convolutions 2,2,3,3,3 it is the paper's, over VGG-16.
"""

from itertools import pairwise
from typing import cast

import torch
from pydantic import Field
from torch import nn

from segcore.models.arguments import ModelArguments
from segcore.models.blocks import Norm, conv_norm_relu


class SegNetArguments(ModelArguments):
    """What a SegNet is built from."""

    channels: tuple[int, ...] = Field(default=(16, 32, 64, 128, 128), min_length=1, max_length=8)
    """Feature channels of each stage, finest first; the stride is 2^stages."""
    convolutions: int = Field(default=2, ge=1, le=3)
    """Of each stage, down and up; the finest two have at most 2."""
    norm: Norm = "batch"
    """As in a U-Net."""


class SegNet(nn.Module):
    """Encoder with max-pool, decoder that puts each value where the maximum came from."""

    def __init__(self, arguments: SegNetArguments) -> None:
        super().__init__()
        channels, stages = arguments.channels, len(arguments.channels)
        self.encoder = ("down",)
        self.stride = 2**stages
        count = [min(arguments.convolutions, 2) if stage < 2 else arguments.convolutions for stage in range(stages)]
        before = (arguments.in_channels, *channels)
        norm = arguments.norm
        self.down = nn.ModuleList(_stage(before[i], channels[i], channels[i], count[i], norm) for i in range(stages))
        self.up = nn.ModuleList(
            _stage(channels[i], channels[i], channels[max(0, i - 1)], count[i], norm) for i in reversed(range(stages))
        )
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        self.head = nn.Conv2d(channels[0], arguments.num_classes, 1)

    def forward(self, tiles_ncyx: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, Y, X) of normalised tiles (N, C, Y, X); y and x must be multiples of `stride`."""
        features, places = tiles_ncyx, []
        for stage in self.down:
            features, where = self.pool(stage(features))
            places.append(where)
        for stage in self.up:
            features = stage(self.unpool(features, places.pop()))
        return cast(torch.Tensor, self.head(features))


def _stage(n_in: int, width: int, n_out: int, count: int, norm: Norm) -> nn.Sequential:
    """So many convolutions, the last of which changes the number of channels."""
    widths = [n_in, *(width,) * (count - 1), n_out]
    return nn.Sequential(*(layer for a, b in pairwise(widths) for layer in conv_norm_relu(a, b, norm=norm)))
