"""Image norm: every layer normalises an image by its own statistics; model + sample of an image -> *its model*.

    training    a tile's own mean and deviation, channel by channel: instance norm (Ulyanov et al., 2016)
    prediction  those of a sample of the whole image, the same for all of its tiles

Images of one set differ in light, stain and scanner more than a normalisation by the set can take in. Instance norm
does, but gives a pixel other logits in every tile. With the statistics of the image in their places they stand still:
what is left is a batch norm, which is folded into its convolution, and a mask that is the same however it is cut.
Statistics taken at the time of prediction: Nado et al., "Evaluating Prediction-Time Batch Normalization" (2020).
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

EPS = 1e-5


class ImageNorm(nn.Module):
    """Instance norm with a weight and a bias for each channel, until `adapted` gives it the statistics of an image."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.dims = dims
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, channels, ...) -> the same shape."""
        if self.training and features.device.type == "cpu":
            # Group norm's backward pass is three times slower there, with the channels last.
            tiles = torch.split(features, 1)
            return torch.cat([F.batch_norm(tile, None, None, self.weight, self.bias, True, 0.0, EPS) for tile in tiles])
        return F.group_norm(features, len(self.weight), self.weight, self.bias, EPS)

    def standing(self) -> nn.BatchNorm2d | nn.BatchNorm3d:
        """A batch norm with the same weights, in evaluation mode; its statistics are to be given."""
        kind = nn.BatchNorm3d if self.dims == 3 else nn.BatchNorm2d
        norm = kind(len(self.weight), EPS, device=self.weight.device, dtype=self.weight.dtype)
        norm.weight, norm.bias = self.weight, self.bias
        return norm.requires_grad_(self.weight.requires_grad).eval()


def has_image_norm(model: nn.Module) -> bool:
    """Whether it can be adapted."""
    return any(isinstance(module, ImageNorm) for module in model.modules())


def standing(model: nn.Module) -> nn.Module:
    """The model as it is for some image, with statistics that stand still; a copy, or itself without image norms."""
    return _with_batch_norms(model)[0] if has_image_norm(model) else model


@torch.no_grad()
def adapted(model: nn.Module, sample: torch.Tensor) -> nn.Module:
    """The model for one image; a copy that shares no weights.

    Args:
        model: in evaluation mode.
        sample: normalised tiles (K, C, ...) of the image, on the model's device, in its precision.
    """
    own, norms = _with_batch_norms(model)
    handles = [norm.register_forward_pre_hook(_measured) for norm in norms]
    own(sample)
    for handle in handles:
        handle.remove()
    return own


def _measured(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    """Give a batch norm the statistics of what it is about to normalise."""
    features = inputs[0]
    variance, mean = torch.var_mean(features, (0, *range(2, features.ndim)), correction=0)
    norm.get_buffer("running_mean").copy_(mean)
    norm.get_buffer("running_var").copy_(variance)


def _with_batch_norms(model: nn.Module) -> tuple[nn.Module, list[nn.BatchNorm2d | nn.BatchNorm3d]]:
    own = copy.deepcopy(model)
    found = []
    for parent in list(own.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ImageNorm):
                found.append(child.standing())
                setattr(parent, name, found[-1])
    return own, found
