"""Image norm: every layer normalises an image by its own statistics; model + sample of an image -> *its model*.

    training    a tile's own mean and deviation, channel by channel: instance norm (Ulyanov et al., 2016)
    prediction  those of a sample of the whole image, the same for all of its tiles

A tile's statistics are not quite those of its image, and those of tomorrow's images are like none of today's: so in
training they are varied at random (Li et al., "Uncertainty Modeling for Out-of-Distribution Generalization", 2022, who
take the spread of the batch for the range; here it is given, since a batch is a few tiles).

Images of one set differ in light, stain and scanner more than a normalisation by the set can take in. Instance norm
does, but gives a pixel other logits in every tile. With the statistics of the image in their places they stand still:
what is left is a batch norm, which is folded into its convolution, and a mask that is the same however it is cut.
Statistics taken at the time of prediction: Nado et al., "Evaluating Prediction-Time Batch Normalization" (2020).
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EPS = 1e-5
EXACT = 0.5
"""Share of the tiles whose statistics are left as they are."""


class ImageNorm(nn.Module):
    """Instance norm with a weight and a bias for each channel, until `adapted` gives it the statistics of an image."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.dims = dims
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.noise: torch.Tensor | None = None
        """(N, 2, channels), while `varied` lasts: by how many deviations each tile's mean is off, and the logarithm of
        its deviation."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, channels, ...) -> the same shape."""
        if self.noise is None and not (self.training and features.device.type == "cpu"):
            return F.group_norm(features, len(self.weight), self.weight, self.bias, EPS)
        weights, biases = self._of_tiles(len(features))
        if self.training and features.device.type == "cpu":
            # Group norm's backward pass is three times slower there, with the channels last.
            tiles = zip(torch.split(features, 1), weights, biases, strict=True)
            return torch.cat([F.batch_norm(tile, None, None, w, b, True, 0.0, EPS) for tile, w, b in tiles])
        shape = (*weights.shape, *(1,) * self.dims)
        return F.group_norm(features, len(self.weight), eps=EPS) * weights.view(shape) + biases.view(shape)

    def _of_tiles(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias for each tile, (N, channels): statistics that are off are the same as these being so."""
        if self.noise is None:
            return self.weight.expand(number, -1), self.bias.expand(number, -1)
        assert number % len(self.noise) == 0, f"noise is for {len(self.noise)} tiles, got {number}"
        # A network of sequences takes the frames of a tile, one after the other, for tiles of their own.
        shift, scale = self.noise.repeat_interleave(number // len(self.noise), dim=0).unbind(1)
        weights = self.weight * torch.exp(scale)
        return weights, self.bias - weights * shift

    def standing(self) -> nn.BatchNorm2d | nn.BatchNorm3d:
        """A batch norm with the same weights, in evaluation mode; its statistics are to be given."""
        kind = nn.BatchNorm3d if self.dims == 3 else nn.BatchNorm2d
        norm = kind(len(self.weight), EPS, device=self.weight.device, dtype=self.weight.dtype)
        norm.weight, norm.bias = self.weight, self.bias
        return norm.requires_grad_(self.weight.requires_grad).eval()


def has_image_norm(model: nn.Module) -> bool:
    """Whether it can be adapted."""
    return any(isinstance(module, ImageNorm) for module in model.modules())


@contextmanager
def varied(model: nn.Module, amount: float, seeds: Sequence[tuple[int, ...]]) -> Iterator[None]:
    """While it lasts, image norms take the statistics of each tile to be a little other than they are.

    Args:
        model: with image norms or without.
        amount: deviation of what is drawn, in deviations of the features; 0 = nothing happens.
        seeds: one for each tile of the batch: the same draws, whichever process has the tile.
    """
    norms = [module for module in model.modules() if isinstance(module, ImageNorm)] if amount else []
    if norms:
        sizes = [2 * len(norm.weight) for norm in norms]
        drawn = np.stack([_drawn(seed, sum(sizes)) for seed in seeds])
        noise = (amount * torch.from_numpy(drawn)).to(norms[0].weight.device)
        for norm, part in zip(norms, torch.split(noise, sizes, dim=1), strict=True):
            norm.noise = part.view(len(seeds), 2, -1)
    try:
        yield
    finally:
        for norm in norms:
            norm.noise = None


def _drawn(seed: tuple[int, ...], number: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    random = np.random.default_rng(seed)
    return random.standard_normal(number, np.float32) * np.float32(random.random() >= EXACT)


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
