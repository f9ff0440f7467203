"""conv1: one convolution, the smallest model there is.

It shows what the engine around a model costs (memory, time), and its right answer can be worked out by hand.
"""

from typing import cast

import torch
from pydantic import Field
from torch import nn

from segcore.models.arguments import ModelArguments


class Conv1Arguments(ModelArguments):
    """What a one-layer model is built from."""

    kernel_px: int = Field(default=1, ge=1, le=31)
    """Side of the kernel; odd, so that logits lie over their pixels. The receptive-field radius is half of it."""
    kernel_planes: int | None = Field(default=None, ge=1, le=31)
    """Its planes of z or t, odd too; None = a model of single planes."""


class Conv1(nn.Module):
    """A single convolution, padded by zeros."""

    def __init__(self, arguments: Conv1Arguments) -> None:
        super().__init__()
        planes = () if arguments.kernel_planes is None else (arguments.kernel_planes,)
        kernel = (*planes, arguments.kernel_px, arguments.kernel_px)
        if any(side % 2 == 0 for side in kernel):
            raise ValueError(f"sides of the kernel must be odd, got {kernel}")
        self.stride = 1
        convolution: type[nn.Conv2d | nn.Conv3d] = nn.Conv3d if planes else nn.Conv2d
        self.conv = convolution(arguments.in_channels, arguments.num_classes, kernel, padding="same")

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, ...) of normalised tiles (N, C, ...)."""
        return cast(torch.Tensor, self.conv(tiles))
