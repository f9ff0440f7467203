"""ResNet files: weights of an encoder, by torchvision's names -> whether they are *this* ResNet's, and whose they are.

ResNets of different depth share names and shapes: two thirds of one's weights fit into another, and teach it nothing.
So a ResNet takes all of a file or none of it, where other networks take what fits.
"""

import re
from collections.abc import Mapping
from typing import get_args

import torch

from segcore.errors import ConfigError
from segcore.models.resnet import ResNet, ResNetName

Tensors = Mapping[str, torch.Tensor]

_FIRST = "conv1.weight"
"""The one weight that may be of another number of bands."""
_IN_STAGE = re.compile(r"layer\d+\.\d+\.")


def check_same_resnet(encoder: ResNet, tensors: Tensors, where: str) -> None:
    """Refuse weights of another ResNet; weights of no ResNet are none of its business.

    Args:
        encoder: what would take them.
        tensors: by their names in it; also others, such as those of the last layer.
        where: names them in errors.

    Raises:
        ConfigError: if a weight of the encoder has none that fits, or one of a stage has no place in it.
    """
    if not any(_IN_STAGE.match(name) for name in tensors):
        return
    difference = _difference(encoder, tensors)
    if difference is None:
        return
    what = f"{where}: expected the weights of a {encoder.name}, the model's encoder, got those of"
    for name in get_args(ResNetName):
        with torch.device("meta"):
            is_it = _difference(ResNet(name, 3), tensors) is None
        if is_it:
            raise ConfigError(f"{what} a {name}; give --arguments encoder={name}, or a file of a {encoder.name}")
    raise ConfigError(f"{what} another network: {difference}; give a file of a {encoder.name}")


def _difference(encoder: ResNet, tensors: Tensors) -> str | None:
    """The first weight that tells the two apart, and how; None where all fit, whatever the bands."""
    own = {name: value for name, value in encoder.state_dict().items() if value.is_floating_point()}
    for name, value in own.items():
        other = tensors.get(name)
        if other is None:
            return f"{name} is not there"
        if not other.is_floating_point() or _shape(name, value) != _shape(name, other):
            return f"{name} has shape {tuple(other.shape)} of {other.dtype}, not {tuple(value.shape)}"
    unused = (name for name, value in tensors.items() if _IN_STAGE.match(name) and value.is_floating_point())
    return next((f"{name} has no place" for name in unused if name not in own), None)


def _shape(name: str, value: torch.Tensor) -> tuple[int, ...]:
    shape = tuple(value.shape)
    return (*shape[:1], *shape[2:]) if name == _FIRST else shape
