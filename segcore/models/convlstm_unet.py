"""ConvLSTM U-Net: sequences (N, C, T, Y, X) -> logits (N, K, T, Y, X), each frame in the light of those before it.

    frame t    -> [conv conv] pool ... -> coarsest features --> ConvLSTM --> up, merge ... -> logits of frame t
                                                               ^      |
                                              state of t - 1 --+      +--> state of t

A U-Net (Ronneberger et al., 2015) for each frame, with a convolutional LSTM at its coarsest stage: Shi et al.,
"Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting" (2015), without its peepholes.
The state begins empty with each window of frames and is carried over all of it. Names of the weights are those of
`unet.py`: with a U-Net's (`segcore train --init`) it begins as that U-Net of single frames.
"""

from typing import cast

import torch
from pydantic import Field
from torch import nn

from segcore.models.arguments import ModelArguments
from segcore.models.blocks import Norm, double_conv


class ConvLSTMUNetArguments(ModelArguments):
    """What a ConvLSTM U-Net is built from."""

    channels: tuple[int, ...] = Field(default=(16, 32, 64, 128, 128), min_length=2, max_length=8)
    """Feature channels of each stage, finest first; the stride is 2^(stages - 1)."""
    norm: Norm = "batch"
    """As in a U-Net."""


class ConvLSTM(nn.Module):
    """A recurrent layer whose gates are 3x3 convolutions. It shows nothing until it has learnt what to remember."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 4 * channels, 3, padding=1)
        with torch.no_grad():
            bias = self.gates.bias
            assert bias is not None, "the gates have a bias"
            bias.zero_()
            self.gates.weight[2 * channels : 3 * channels] = 0.0  # nothing new enters
            bias[channels : 2 * channels] = 1.0  # remembers at first: Jozefowicz et al. (2015)

    def forward(self, frames_ntcyx: torch.Tensor) -> torch.Tensor:
        """(N, T, C, y, x) -> the hidden state after each frame, same shape."""
        hidden = cell = torch.zeros_like(frames_ntcyx[:, 0])
        found = []
        for frame in frames_ntcyx.unbind(1):
            take, keep, new, show = self.gates(torch.cat((frame, hidden), dim=1)).chunk(4, dim=1)
            cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
            hidden = show.sigmoid() * cell.tanh()
            found.append(hidden)
        return torch.stack(found, dim=1)


class ConvLSTMUNet(nn.Module):
    """Encoder and decoder frame by frame, a ConvLSTM between them."""

    def __init__(self, arguments: ConvLSTMUNetArguments) -> None:
        super().__init__()
        channels = arguments.channels
        self.encoder = ("down",)
        self.axes = ("t", "y", "x")
        self.stride, self.stride_planes = 2 ** (len(channels) - 1), 1
        before, finer = (arguments.in_channels, *channels), channels[-2::-1]
        self.down = nn.ModuleList(
            double_conv(n_in, n_out, norm=arguments.norm) for n_in, n_out in zip(before, channels, strict=False)
        )
        self.memory = ConvLSTM(channels[-1])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in zip(channels[:0:-1], finer, strict=True)
        )
        self.merge = nn.ModuleList(double_conv(2 * n, n, norm=arguments.norm) for n in finer)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(channels[0], arguments.num_classes, 1)

    def forward(self, tiles_nctyx: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, T, Y, X) of normalised windows (N, C, T, Y, X); y and x must be multiples of `stride`."""
        number, _, length = tiles_nctyx.shape[:3]
        features, skips = self.down[0](tiles_nctyx.transpose(1, 2).flatten(0, 1)), []
        for stage in self.down[1:]:
            skips.append(features)
            features = stage(self.pool(features))
        # What was seen now stays beside what is remembered.
        sequence = features.reshape(number, length, *features.shape[1:])
        features = (sequence + self.memory(sequence)).flatten(0, 1)
        for up, merge in zip(self.up, self.merge, strict=True):
            features = merge(torch.cat((skips.pop(), up(features)), dim=1))
        logits = self.head(features)
        return cast(torch.Tensor, logits.reshape(number, length, *logits.shape[1:]).transpose(1, 2))
