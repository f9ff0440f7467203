"""Attribution: what speaks for a class in one tile; model, tile, counted pixels -> *numbers per band, or a map*.

All explain the same: the answer for one class, summed over the pixels that count (those that got the class). A tile is
(1, C, [Z,] Y, X), normalised, so that 0 is the mean of the training set: that takes the place of what is taken away.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from segcore.errors import ConfigError
from segcore.models.blocks import enlarged

Model = Callable[[torch.Tensor], torch.Tensor]


class Occluded(NamedTuple):
    """A class over the pixels that count, without each band in turn."""

    probability: float
    """With all bands, summed over the pixels that count."""
    without: list[float]
    """Likewise without a band, by its number."""
    lost_px: list[int]
    """Pixels of those that get another class without it."""
    most: torch.Tensor
    """([Z,] Y, X): what a pixel's probability loses by the band that it needs most; 0 where it needs none."""


class Gradients(NamedTuple):
    """What each pixel of each band adds to the probability of a class, summed over the pixels that count."""

    attributions: torch.Tensor
    """(C, [Z,] Y, X); their sum is `probability - baseline`, but for the error of the steps."""
    probability: float
    baseline: float
    """What it is of a tile that is the training set's mean all over."""


@torch.no_grad()
def band_occlusion(model: Model, tile: torch.Tensor, class_id: int, counted: torch.Tensor) -> Occluded:
    """How the class fares without each band, whose values all become the mean: Zeiler and Fergus, "Visualizing and
    Understanding Convolutional Networks" (2014), of bands instead of squares.

    Args:
        model: tiles -> logits (1, K, ...) of the same sides.
        tile: normalised.
        class_id: the class.
        counted: pixels ([Z,] Y, X) that count, True = counts.
    """
    whole = model(tile)[0].softmax(dim=0)[class_id]
    without, lost_px, most = [], [], torch.zeros_like(whole)
    for band in range(tile.shape[1]):
        occluded = tile.clone()
        occluded[:, band] = 0
        logits = model(occluded)
        left = logits[0].softmax(dim=0)[class_id]
        without.append(float(left[counted].sum()))
        lost_px.append(int((logits[0].argmax(dim=0) != class_id)[counted].sum()))
        most = torch.maximum(most, whole - left)
    return Occluded(float(whole[counted].sum()), without, lost_px, most.where(counted, 0))


def integrated_gradients(
    model: Model, tile: torch.Tensor, class_id: int, counted: torch.Tensor, steps: int
) -> Gradients:
    """Sundararajan et al., "Axiomatic Attribution for Deep Networks" (2017), by the midpoint rule.

    Args:
        model: differentiable; otherwise as for `band_occlusion`.
        tile: normalised.
        class_id: the class.
        counted: pixels ([Z,] Y, X) that count.
        steps: from the baseline to the tile.
    """
    total = torch.zeros_like(tile)
    for step in range(steps):
        between = (tile * ((step + 0.5) / steps)).requires_grad_()
        total += torch.autograd.grad(_probability(model(between), class_id, counted), between)[0]
    with torch.no_grad():
        ends = [float(_probability(model(end), class_id, counted)) for end in (tile, torch.zeros_like(tile))]
    return Gradients((tile * total / steps)[0], *ends)


def grad_cam(
    model: Model, features: nn.Module, tile: torch.Tensor, class_id: int, counted: torch.Tensor
) -> torch.Tensor:
    """Where features lie that speak for the class: Selvaraju et al., "Grad-CAM" (2017), of some pixels of a mask as in
    Vinogradova et al., "Towards Interpretable Semantic Segmentation via Gradient-Weighted Class Activation Mapping"
    (2020): channels are weighed by the mean gradient of the summed logit, and what speaks against it is cut off.

    Args:
        model: differentiable.
        features: the module in it whose output (1, channels, ...) is weighed.
        tile: normalised.
        class_id: the class.
        counted: pixels ([Z,] Y, X) that count.

    Returns:
        A map ([Z,] Y, X) of 0 and more.

    Raises:
        ConfigError: if the module gives no such output.
    """
    found: list[torch.Tensor] = []
    handle = features.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    try:
        logits = model(tile.clone().requires_grad_())
    finally:
        handle.remove()
    if not found or not isinstance(found[-1], torch.Tensor) or found[-1].ndim != tile.ndim:
        raise ConfigError("features: expected a module that gives maps of channels; leave it out, or name another")
    maps = found[-1]
    (gradient,) = torch.autograd.grad(logits[0, class_id][counted].sum(), maps)
    weights = gradient.mean(dim=tuple(range(2, maps.ndim)), keepdim=True)
    weighed = (weights * maps.detach()).sum(dim=1, keepdim=True).relu()
    return enlarged(weighed, tile.shape[2:])[0, 0]


@torch.no_grad()
def coarsest_features(
    model: nn.Module, tile: torch.Tensor, strides: tuple[int, ...], kinds: tuple[type[nn.Module], ...] = (nn.Module,)
) -> str:
    """Name of the module that `grad_cam` looks at: the last that gives maps as coarse as any before the logits.

    Maps coarser than the model's stride are of pooling over parts of the tile, and say little of places. Those with as
    many channels as there are logits are scores of classes, which say nothing of what these were made of.

    Args:
        model: the network; its logits may be coarser than the tile before they are enlarged.
        tile: normalised.
        strides: of the model, by axis of a tile.
        kinds: of modules among which it is.

    Raises:
        ConfigError: if it has nothing but scores.
    """
    least = [side // step for side, step in zip(tile.shape[2:], strides, strict=True)]
    seen: list[tuple[int, str, torch.Tensor]] = []

    def listen(name: str) -> Callable[..., None]:
        def hear(_module: nn.Module, _inputs: object, output: Any) -> None:
            is_map = isinstance(output, torch.Tensor) and output.ndim == tile.ndim
            if is_map and all(side >= low for side, low in zip(output.shape[2:], least, strict=True)):
                seen.append((output[0, 0].numel(), name, output))

        return hear

    leaves = [(name, part) for name, part in model.named_modules() if name and not next(part.children(), None)]
    heard = [(name, part) for name, part in leaves if isinstance(part, kinds) and not isinstance(part, nn.Identity)]
    handles = [part.register_forward_hook(listen(name)) for name, part in heard]
    try:
        logits = model(tile)
    finally:
        for handle in handles:
            handle.remove()
    before = [(px, name) for px, name, output in seen if output.shape[1] != logits.shape[1]]
    if not before:
        raise ConfigError("grad_cam: the model has no features before its logits; take integrated_gradients")
    coarsest = min(px for px, _ in before)
    return [name for px, name in before if px == coarsest][-1]


def _probability(logits: torch.Tensor, class_id: int, counted: torch.Tensor) -> torch.Tensor:
    return logits[0].softmax(dim=0)[class_id][counted].sum()
