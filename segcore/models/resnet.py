"""ResNet: the encoder that several architectures share. tiles (N, C, Y, X) -> features at 1/2, 1/4, 1/8, 1/16, 1/32.

He et al., "Deep Residual Learning for Image Recognition" (2016), of 18, 34 and 50 layers, the last with the stride in
the 3x3 convolution as torchvision has it. Names of the weights are torchvision's, which timm's are too: a file of
published weights fits as it is (`segcore train --init`), and its first layer is adapted to the bands.

`output_stride` 8 or 16 keeps the coarse stages finer and dilates their convolutions instead (Yu and Koltun,
"Multi-Scale Context Aggregation by Dilated Convolutions", 2016).
"""

from typing import Literal, cast

import torch
from torch import nn

ResNetName = Literal["resnet18", "resnet34", "resnet50"]

DEPTHS: dict[str, tuple[int, int, int, int]] = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}
WIDTHS = (64, 128, 256, 512)
STEM_CHANNELS = 64


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them."""

    expansion = 1

    def __init__(self, n_in: int, width: int, stride: int, dilation: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, n_in, y, x) -> (N, width, y / stride, x / stride)."""
        shortcut = features if self.downsample is None else self.downsample(features)
        features = self.relu(self.bn1(self.conv1(features)))
        return cast(torch.Tensor, self.relu(self.bn2(self.conv2(features)) + shortcut))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut around them."""

    expansion = 4

    def __init__(self, n_in: int, width: int, stride: int, dilation: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, n_in, y, x) -> (N, 4 width, y / stride, x / stride)."""
        shortcut = features if self.downsample is None else self.downsample(features)
        features = self.relu(self.bn1(self.conv1(features)))
        features = self.relu(self.bn2(self.conv2(features)))
        return cast(torch.Tensor, self.relu(self.bn3(self.conv3(features)) + shortcut))


class ResNet(nn.Module):
    """The convolutional part of a ResNet.

    Args:
        name: which.
        in_channels: bands of the image.
        output_stride: of the coarsest features: 8, 16 or 32.
    """

    def __init__(self, name: ResNetName, in_channels: int, output_stride: int = 32) -> None:
        super().__init__()
        block: type[BasicBlock] | type[Bottleneck] = Bottleneck if name == "resnet50" else BasicBlock
        self.name = name
        self.channels = (STEM_CHANNELS, *(width * block.expansion for width in WIDTHS))
        """Of the features, finest first."""
        self.strides = tuple(min(stride, output_stride) for stride in (2, 4, 8, 16, 32))
        """Of the features, likewise."""
        self.conv1 = nn.Conv2d(in_channels, STEM_CHANNELS, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for number, (width, depth) in enumerate(zip(WIDTHS, DEPTHS[name], strict=True), start=1):
            wanted = 2 ** (number + 1)
            stride = 1 if number == 1 or wanted > output_stride else 2
            dilation = max(1, wanted // output_stride)
            before = max(1, wanted // 2 // output_stride)  # torchvision dilates the block that would stride less
            blocks: list[nn.Module] = []
            n_in = self.channels[number - 1]
            for k in range(depth):
                downsample = None
                n_out = width * block.expansion
                if k == 0 and (stride != 1 or n_in != n_out):
                    downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
                blocks.append(block(n_in, width, stride if k == 0 else 1, before if k == 0 else dilation, downsample))
                n_in = n_out
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        _initialise(self)

    def forward(self, tiles_ncyx: torch.Tensor) -> list[torch.Tensor]:
        """Features of normalised tiles, finest first: the stem's at 1/2, then those of the four stages."""
        found = [self.relu(self.bn1(self.conv1(tiles_ncyx)))]
        features = self.maxpool(found[0])
        for number in range(1, len(WIDTHS) + 1):
            features = getattr(self, f"layer{number}")(features)
            found.append(features)
        return found


def _initialise(model: nn.Module) -> None:
    """He et al., "Delving Deep into Rectifiers" (2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
