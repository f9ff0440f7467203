"""DeepLabv3+: tiles (N, C, Y, X) -> logits (N, K, Y, X). Dilated convolutions side by side, then a small decoder.

    1/16 -> [1x1] [3x3 at 6] [3x3 at 12] [3x3 at 18] [mean] -> 1x1 -x4- + 1/4 -> [3x3 3x3] -> K -x4-> logits

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation" (2018), over a ResNet
with a stride of 16; its convolutions after the encoder are depthwise separable there and here. The mean is that of the
whole tile, so that no halo is enough; without `image_pooling` (as in DeepLabv2) there is one.
"""

from typing import cast

import torch
from pydantic import Field
from torch import nn

from segcore.models.arguments import ModelArguments
from segcore.models.blocks import conv_norm_relu, enlarged
from segcore.models.resnet import ResNet, ResNetName

RATES = (6, 12, 18)
FINE_CHANNELS = 48


class DeepLabArguments(ModelArguments):
    """What a DeepLabv3+ is built from."""

    encoder: ResNetName = "resnet18"
    """The network whose features are taken."""
    head_channels: int = Field(default=128, ge=4)
    """Of the pyramid and the decoder; the paper's have 256."""
    image_pooling: bool = True
    """Put the mean over the tile beside the dilated convolutions; without it tiling is exact."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the channels that are dropped in training after the pyramid."""


class DeepLab(nn.Module):
    """Atrous spatial pyramid pooling, and a decoder that adds the features of 1/4."""

    def __init__(self, arguments: DeepLabArguments) -> None:
        super().__init__()
        self.encoder = ("features",)
        self.stride = 16
        self.features = ResNet(arguments.encoder, arguments.in_channels, output_stride=16)
        deepest, width = self.features.channels[-1], arguments.head_channels
        self.pyramid = nn.ModuleList(
            [nn.Sequential(*conv_norm_relu(deepest, width, kernel=1)), *(_separable(deepest, width, n) for n in RATES)]
        )
        # A mean is one value a tile, which batch norm cannot take the deviation of.
        self.mean = nn.Sequential(nn.Conv2d(deepest, width, 1), nn.ReLU(inplace=True))
        if not arguments.image_pooling:
            self.mean = nn.Sequential()
        branches = len(self.pyramid) + int(arguments.image_pooling)
        self.project = nn.Sequential(
            *conv_norm_relu(branches * width, width, kernel=1), nn.Dropout2d(arguments.dropout)
        )
        self.fine = nn.Sequential(*conv_norm_relu(self.features.channels[1], FINE_CHANNELS, kernel=1))
        self.decode = nn.Sequential(_separable(width + FINE_CHANNELS, width), _separable(width, width))
        self.head = nn.Conv2d(width, arguments.num_classes, 1)

    def forward(self, tiles_ncyx: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, Y, X) of normalised tiles (N, C, Y, X); y and x must be multiples of 16."""
        features = self.features(tiles_ncyx)
        deepest, fine = features[-1], self.fine(features[1])
        beside = [branch(deepest) for branch in self.pyramid]
        if len(self.mean):
            beside.append(self.mean(deepest.mean((2, 3), keepdim=True)).expand(-1, -1, *deepest.shape[2:]))
        coarse = enlarged(self.project(torch.cat(beside, dim=1)), fine.shape[2:])
        scores = cast(torch.Tensor, self.head(self.decode(torch.cat((coarse, fine), dim=1))))
        return enlarged(scores, tiles_ncyx.shape[2:])


def _separable(n_in: int, n_out: int, dilation: int = 1) -> nn.Sequential:
    """A 3x3 convolution of each channel alone, then a 1x1 over all."""
    depthwise = nn.Conv2d(n_in, n_in, 3, padding=dilation, dilation=dilation, groups=n_in, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(n_in), nn.ReLU(inplace=True), *conv_norm_relu(n_in, n_out, kernel=1))
