"""conv1: one convolution, the smallest model there is.

It shows what the engine around a model costs (memory, time), and its right answer can be worked out by hand.
"""

from typing import cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn


class Conv1Arguments(BaseModel):
    """What a one-layer model is built from."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    in_channels: int = Field(ge=1)
    """Bands of the image."""
    num_classes: int = Field(ge=1)
    kernel_px: int = Field(default=1, ge=1, le=31)
    """Side of the kernel; odd, so that logits lie over their pixels. The receptive-field radius is half of it."""


class Conv1(nn.Module):
    """A single convolution, padded by zeros."""

    def __init__(self, arguments: Conv1Arguments) -> None:
        super().__init__()
        if arguments.kernel_px % 2 == 0:
            raise ValueError(f"kernel_px must be odd, got {arguments.kernel_px}")
        self.stride = 1
        self.conv = nn.Conv2d(
            arguments.in_channels, arguments.num_classes, arguments.kernel_px, padding=arguments.kernel_px // 2
        )

    def forward(self, tiles_ncyx: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, Y, X) of normalised tiles (N, C, Y, X)."""
        return cast(torch.Tensor, self.conv(tiles_ncyx))
