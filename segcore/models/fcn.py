"""FCN: tiles (N, C, Y, X) -> logits (N, K, Y, X), by the coarsest features alone or with finer ones added.

    FCN-32s    1/32 -> scores ------------------------------ x32 -> logits
    FCN-16s    1/32 -> scores -x2- + scores of 1/16 -------- x16 -> logits
    FCN-8s     1/32 -> scores -x2- + of 1/16 -x2- + of 1/8 -- x8 -> logits

Long et al., "Fully Convolutional Networks for Semantic Segmentation" (2015), over a ResNet in place of its VGG. The
scores are enlarged by transposed convolutions that begin as bilinear interpolation and are trained, but for the last;
those of finer features begin as zero.
"""

import torch
from torch import nn

from segcore.models.arguments import ModelArguments
from segcore.models.blocks import enlarged
from segcore.models.resnet import ResNet, ResNetName


class FCNArguments(ModelArguments):
    """What an FCN is built from."""

    encoder: ResNetName = "resnet18"
    """The network whose features are scored."""


class FCN(nn.Module):
    """A 1x1 convolution for scores at each stride from 32 to the finest."""

    def __init__(self, arguments: FCNArguments, finest: int) -> None:
        super().__init__()
        self.encoder = ("features",)
        self.stride = 32
        self.features = ResNet(arguments.encoder, arguments.in_channels)
        strides = [stride for stride in (32, 16, 8) if stride >= finest]
        channels = dict(zip(self.features.strides, self.features.channels, strict=True))
        self.score = nn.ModuleList(nn.Conv2d(channels[stride], arguments.num_classes, 1) for stride in strides)
        for finer in self.score[1:]:  # as in the paper: a finer net begins as the coarser one
            assert isinstance(finer, nn.Conv2d)
            assert finer.bias is not None
            nn.init.zeros_(finer.weight)
            nn.init.zeros_(finer.bias)
        self.up = nn.ModuleList(_doubling(arguments.num_classes) for _ in strides[1:])

    def forward(self, tiles_ncyx: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, Y, X) of normalised tiles (N, C, Y, X); y and x must be multiples of 32."""
        coarse_first = self.features(tiles_ncyx)[::-1]
        scores: torch.Tensor = self.score[0](coarse_first[0])
        for up, score, features in zip(self.up, self.score[1:], coarse_first[1:], strict=False):
            scores = up(scores) + score(features)
        return enlarged(scores, tiles_ncyx.shape[2:])


def _doubling(num_classes: int) -> nn.ConvTranspose2d:
    """Begins as bilinear interpolation, class by class."""
    up = nn.ConvTranspose2d(num_classes, num_classes, 4, stride=2, padding=1, bias=False)
    ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        up.weight.zero_()
        for k in range(num_classes):
            up.weight[k, k] = ramp[:, None] * ramp
    return up
