"""PSPNet: tiles (N, C, Y, X) -> logits (N, K, Y, X). Features beside their own means over 1, 2x2, 3x3 and 6x6 parts.

Zhao et al., "Pyramid Scene Parsing Network" (2017), over a ResNet dilated to a stride of 8. The parts are those of the
tile, so that no halo is enough: the context is global. Of the paper's auxiliary loss nothing is kept.
"""

from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from segcore.models.arguments import ModelArguments
from segcore.models.blocks import conv_norm_relu, enlarged
from segcore.models.resnet import ResNet, ResNetName

PARTS = (1, 2, 3, 6)


class PSPNetArguments(ModelArguments):
    """What a PSPNet is built from."""

    encoder: ResNetName = "resnet18"
    """The network whose features are pooled."""
    head_channels: int = Field(default=128, ge=4)
    """Of the last 3x3 convolution; the paper's has 512."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the channels that are dropped in training before the scores, as in the paper."""


class PSPNet(nn.Module):
    """Pyramid pooling over the coarsest features."""

    def __init__(self, arguments: PSPNetArguments) -> None:
        super().__init__()
        self.encoder = ("features",)
        self.stride = 8
        self.features = ResNet(arguments.encoder, arguments.in_channels, output_stride=8)
        deepest = self.features.channels[-1]
        # Of a single part there is one value a tile, which batch norm cannot take the deviation of.
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.Conv2d(deepest, deepest // len(PARTS), 1), nn.ReLU(inplace=True)) for _ in PARTS
        )
        width = arguments.head_channels
        self.merge = nn.Sequential(*conv_norm_relu(2 * deepest, width), nn.Dropout2d(arguments.dropout))
        self.head = nn.Conv2d(width, arguments.num_classes, 1)

    def forward(self, tiles_ncyx: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, Y, X) of normalised tiles (N, C, Y, X); y and x must be multiples of 8."""
        features = self.features(tiles_ncyx)[-1]
        size = features.shape[2:]
        beside = [features]
        for parts, pooled in zip(PARTS, self.pooled, strict=True):
            beside.append(enlarged(pooled(F.adaptive_avg_pool2d(features, parts)), size))
        scores = cast(torch.Tensor, self.head(self.merge(torch.cat(beside, dim=1))))
        return enlarged(scores, tiles_ncyx.shape[2:])
