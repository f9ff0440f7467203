"""Layout: weights and tiles with the channels of a pixel side by side, which most kernels are fastest with."""

from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def channels_last(ndim: int) -> torch.memory_format:
    """The layout of tensors of so many axes: 4 (planes) or 5 (volumes, sequences)."""
    return torch.channels_last if ndim == 4 else torch.channels_last_3d


def laid_out(model: M) -> M:
    """The model with its convolutions' weights in that layout; in place, values stay.

    A network of sequences may have weights of either number of axes.
    """
    for weight in model.parameters():
        if weight.ndim in (4, 5):
            weight.data = weight.data.contiguous(memory_format=channels_last(weight.ndim))
    return model
