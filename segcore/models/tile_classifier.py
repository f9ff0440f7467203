"""Tile classifier: tiles (N, C, Y, X) -> logits (N, K, Y, X) that are the same over each cell: a coarse mask.

    C -> [conv pool] x stages -> [conv over `window_px` -> K] per cell -> repeated over the cell

A network that says what a small tile shows, as conv-pool-FC networks do (LeCun et al., "Gradient-Based Learning Applied
to Document Recognition", 1998), slid over the image: its fully connected layer is a convolution, so that neighbouring
tiles share what they have in common (Sermanet et al., "OverFeat", 2014).
"""

from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from segcore.models.arguments import ModelArguments
from segcore.models.blocks import Norm, conv_norm_relu


class TileClassifierArguments(ModelArguments):
    """What a tile classifier is built from."""

    channels: tuple[int, ...] = Field(default=(16, 32, 64, 128), min_length=1, max_length=8)
    """Feature channels of each stage; a cell of the mask is 2^stages px a side."""
    window_cells: int = Field(default=3, ge=1)
    """What the fully connected layer sees, in cells a side; odd, so that it lies around its cell."""
    hidden: int = Field(default=128, ge=1)
    """Units of the fully connected layer."""
    norm: Norm = "batch"
    """As in a U-Net."""


class TileClassifier(nn.Module):
    """One answer for each cell."""

    def __init__(self, arguments: TileClassifierArguments) -> None:
        super().__init__()
        if arguments.window_cells % 2 == 0:
            raise ValueError(f"window_cells must be odd, got {arguments.window_cells}")
        channels = arguments.channels
        self.encoder = ("stages",)
        self.stride = 2 ** len(channels)
        before = (arguments.in_channels, *channels)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(*conv_norm_relu(n_in, n_out, norm=arguments.norm), nn.MaxPool2d(2))
                for n_in, n_out in zip(before, channels, strict=False)
            )
        )
        self.connected = nn.Sequential(
            *conv_norm_relu(channels[-1], arguments.hidden, norm=arguments.norm, kernel=arguments.window_cells)
        )
        self.head = nn.Conv2d(arguments.hidden, arguments.num_classes, 1)

    def forward(self, tiles_ncyx: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, Y, X) of normalised tiles (N, C, Y, X); y and x must be multiples of `stride`."""
        scores = cast(torch.Tensor, self.head(self.connected(self.stages(tiles_ncyx))))
        return F.interpolate(scores, scale_factor=self.stride, mode="nearest")
