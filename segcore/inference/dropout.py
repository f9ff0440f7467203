"""Dropout: the sub-networks that a model with dropout layers holds; model -> *samples* of it (Monte-Carlo dropout).

After Gal and Ghahramani, "Dropout as a Bayesian Approximation" (2016): the probabilities of passes with dropout on are
averaged, and their variance tells what the model does not know. Drawn anew for every pass, a mask would depend on how
the work was cut. So a sample is one fixed sub-network: which channels each layer drops is drawn once from the seed, the
sample's number and the layer's name, and is the same for all tiles and at all places of a tile, as in "Masksembles"
(Durasov et al., 2021). Elementwise dropout drops channels here too: a place in a tile is none in the image.
"""

import copy

import numpy as np
import torch
from torch import nn

SEED = 0
"""Frozen in the plan: another seed is other sub-networks."""

DropoutLayer = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d


def has_dropout(model: nn.Module) -> bool:
    """True if the model has sub-networks that differ."""
    return any(_drops(layer) for layer in model.modules())


def sub_network(model: nn.Module, sample: int) -> nn.Module:
    """One sub-network, which shares the model's weights; may be called from several threads.

    Args:
        model: in evaluation mode.
        sample: its number.
    """
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    own = copy.deepcopy(model, weights)
    for name, layer in own.named_modules():
        if isinstance(layer, DropoutLayer) and _drops(layer):
            layer.register_forward_hook(_Kept(name, layer, sample))
    return own


def kept_channels(name: str, sample: int, share: float, num_channels: int) -> torch.Tensor:
    """What a layer's channels are multiplied by (channels,), float32: 0, or what makes up for those that are dropped.

    Args:
        name: of the layer in the model.
        sample: number of the sub-network.
        share: of the channels that are dropped, on average.
        num_channels: of the layer's input.
    """
    drawn = np.random.default_rng([SEED, sample, *name.encode()]).random(num_channels)
    return torch.from_numpy((drawn >= share) / max(1 - share, 1e-6)).float()


def _drops(layer: nn.Module) -> bool:
    return isinstance(layer, DropoutLayer) and layer.p > 0


class _Kept:
    """Forward hook of a dropout layer, which by itself does nothing in evaluation mode."""

    def __init__(self, name: str, layer: DropoutLayer, sample: int) -> None:
        self._name, self._share, self._sample = name, layer.p, sample
        self._axis_of_tokens = -1 if isinstance(layer, nn.Dropout) else 1
        self._factors: dict[int, torch.Tensor] = {}

    def __call__(self, layer: nn.Module, inputs: tuple[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
        """Features (N, channels, ...), or tokens (N, tokens, channels), without the dropped channels."""
        axis = 1 if features.ndim > 3 else self._axis_of_tokens
        num_channels = features.shape[axis]
        factors = self._factors.get(num_channels)
        if factors is None:
            factors = kept_channels(self._name, self._sample, self._share, num_channels).to(features)
            if not torch.compiler.is_compiling():  # what a compiler sees are no values
                self._factors[num_channels] = factors  # two threads would draw the same
        behind = features.ndim - 1 - axis % features.ndim
        return features * factors.reshape(-1, *(1,) * behind)
