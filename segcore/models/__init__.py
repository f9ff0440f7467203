"""Models: every architecture behind one signature, tiles (N, C, Y, X) -> logits (N, K, Y, X).

A new architecture is a file here and a line in `ARCHITECTURES`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from segcore.errors import ConfigError
from segcore.models.conv1 import Conv1, Conv1Arguments
from segcore.models.unet import UNet, UNetArguments

__all__ = ["ARCHITECTURES", "Architecture", "ModelConfig", "build_model"]


class Architecture(NamedTuple):
    """The arguments that a model takes, and what builds it from them.

    The model has an attribute `stride`: sides of a tile must be multiples of it. One with an encoder names its
    parts in `encoder`: what training can leave as it is for a while.
    """

    arguments: type[BaseModel]
    build: Callable[[Any], nn.Module]


ARCHITECTURES: dict[str, Architecture] = {
    "unet": Architecture(UNetArguments, UNet),
    "conv1": Architecture(Conv1Arguments, Conv1),
}


class ModelConfig(BaseModel):
    """Which architecture, and its arguments: enough to build the model again."""

    model_config = ConfigDict(frozen=True)

    architecture: str
    """A key of `ARCHITECTURES`."""
    arguments: dict[str, Any] = {}
    """Always `in_channels` and `num_classes`; the rest is the architecture's own."""


def build_model(config: ModelConfig) -> nn.Module:
    """A new model with random weights, drawn from torch's global generator.

    Raises:
        ConfigError: if there is no such architecture, or it does not take these arguments.
    """
    architecture = ARCHITECTURES.get(config.architecture)
    if architecture is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ConfigError(f"model: expected one of the architectures {known}, got '{config.architecture}'")
    try:
        return architecture.build(architecture.arguments.model_validate(config.arguments))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"model '{config.architecture}': argument {place}: {first['msg']}") from error
    except ValueError as error:
        raise ConfigError(f"model '{config.architecture}': {error}") from error
