"""Fitting: tensors of another model -> *this model*, by name and shape; what does not fit begins anew, and is named."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from segcore.errors import ConfigError
from segcore.models.resnet import ResNet
from segcore.models.resnet_files import check_same_resnet

Tensors = Mapping[str, torch.Tensor]
Shape = tuple[int, ...]

NAMED = 4
"""Layers that a report names; of more it says how many."""


@dataclass(frozen=True)
class Fitted:
    """What became of a model's weights, by their names in it."""

    taken: tuple[str, ...]
    adapted: tuple[str, ...]
    """The first convolution's weight, where it was made for another number of bands."""
    anew: dict[str, str]
    """Name -> why it keeps its random weights."""
    num_unused: int
    """Tensors of the other model that found no place."""

    def __str__(self) -> str:
        parts = [f"{len(self.taken)} of {len(self.taken) + len(self.adapted) + len(self.anew)} weights taken"]
        if self.adapted:
            parts.append(f"{', '.join(self.adapted)} adapted to the bands")
        if self.anew:
            reasons = [f"{name} ({why})" for name, why in list(self.anew.items())[:NAMED]]
            more = len(self.anew) - len(reasons)
            parts.append(f"anew: {', '.join(reasons)}{f' and {more} more' if more else ''}")
        if self.num_unused:
            parts.append(f"{self.num_unused} not used")
        return "; ".join(parts)


def fitted(model: nn.Module, tensors: Tensors, where: str = "init") -> Fitted:
    """Load what fits by name and shape into the model, in place.

    Names may have a prefix that this model lacks (`module.`, `model.`): that under which most fits is taken off. Those
    of a published ResNet (torchvision's, timm's) are found to be of the encoder, which takes all of them or none.

    A first convolution for another number of bands gets the mean over its bands, repeated and scaled so that the sum
    over bands, and with it the answer to an image that is alike in all of them, stays: as Carreira and Zisserman,
    "Quo Vadis, Action Recognition?" (2017), inflate theirs.

    Args:
        model: weights that nothing fits keep what they hold.
        tensors: by name.
        where: names them in errors.

    Raises:
        ConfigError: if no layer fits, the encoder is another ResNet, or a layer that fits holds NaN or Inf.
    """
    own = model.state_dict()
    rename = getattr(model, "renamed", None)
    if callable(rename):  # a network of another library, which publishes them under other names
        tensors = rename(tensors)
    found = _placed(own, tensors, [f"{part}." for part in getattr(model, "encoder", ())])
    first = _first_convolution(model)
    new: dict[str, torch.Tensor] = {}
    adapted: list[str] = []
    anew: dict[str, str] = {}
    for name, value in own.items():
        other = found.get(name)
        if other is not None and _fits(value, other):
            new[name] = other
        elif other is not None and name == first and _differs_in_bands(value, other):
            new[name] = _for_bands(other.float(), value.shape[1])
            adapted.append(name)
        else:
            anew[name] = "not there" if other is None else f"expected shape {_shape(value)}, got {_shape(other)}"
    if not any(own[name].ndim > 1 for name in new):
        raise ConfigError(_nothing_fits(own, tensors, where))
    for part in getattr(model, "encoder", ()):
        encoder = getattr(model, part)
        if isinstance(encoder, ResNet):
            check_same_resnet(encoder, _below(f"{part}.", found), where)
    for name, other in new.items():
        if not torch.isfinite(other).all():
            raise ConfigError(f"{where}: {name} holds NaN or Inf; give weights of a run that went well")
    model.load_state_dict({**own, **new})
    taken = tuple(name for name in new if name not in adapted)
    return Fitted(taken, tuple(adapted), anew, len(tensors) - len(found.keys() & new.keys()))


def _placed(own: Tensors, tensors: Tensors, parts: Sequence[str]) -> Tensors:
    """The tensors by the names that they have in this model: below the prefix under which most of them fit.

    Weights of an encoder alone, as they are published, belong to that part of the model. Of two ways as good the
    shorter one.
    """

    def num_fitting(way: tuple[str, str]) -> int:
        there, here = way
        others = ((value, tensors.get(there + name.removeprefix(here))) for name, value in own.items())
        inside = [name.startswith(here) for name in own]
        fitting = [other is not None and _fits(value, other) for value, other in others]
        return sum(fits and is_inside for fits, is_inside in zip(fitting, inside, strict=True))

    prefixes = {prefix for name in tensors for prefix in _prefixes(name)}
    ways = sorted(itertools.product(prefixes, ("", *parts)), key=lambda way: (len(way[0]) + len(way[1]), way))
    there, here = max(ways, key=num_fitting, default=("", ""))
    return {here + name.removeprefix(there): value for name, value in tensors.items() if name.startswith(there)}


def _below(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _prefixes(name: str) -> Iterator[str]:
    """`a.b.weight` -> ``, `a.`, `a.b.`."""
    yield ""
    for at, letter in enumerate(name):
        if letter == ".":
            yield name[: at + 1]


def _fits(value: torch.Tensor, other: torch.Tensor) -> bool:
    return value.shape == other.shape and value.is_floating_point() == other.is_floating_point()


def _first_convolution(model: nn.Module) -> str | None:
    """Name of the weight of the convolution that sees the image."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            return f"{name}.weight" if name else "weight"
    return None


def _differs_in_bands(value: torch.Tensor, other: torch.Tensor) -> bool:
    return other.is_floating_point() and _shape(value)[:1] + _shape(value)[2:] == _shape(other)[:1] + _shape(other)[2:]


def _for_bands(weight: torch.Tensor, num_bands: int) -> torch.Tensor:
    """A convolution's weight (out, C, ...) for another number of bands, of the same sum over them."""
    return weight.sum(dim=1, keepdim=True).expand(-1, num_bands, *weight.shape[2:]) / num_bands


def _nothing_fits(own: Tensors, tensors: Tensors, where: str) -> str:
    wanted, got = (next(((n, _shape(t)) for n, t in each.items() if t.ndim > 1), None) for each in (own, tensors))
    there = f"'{got[0]}' of {got[1]}" if got else "none"
    mine = f"'{wanted[0]}' of {wanted[1]}" if wanted else "none"
    return (
        f"{where}: expected weights that fit the model by name and shape, such as {mine}, got none among "
        f"{len(tensors)}, such as {there}; give weights of the same architecture and channels"
    )


def _shape(value: torch.Tensor) -> Shape:
    return tuple(value.shape)
