"""Models: every architecture behind one signature, tiles (N, C, [T|Z,] Y, X) -> logits (N, K, [T|Z,] Y, X)."""

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from segcore.errors import ConfigError
from segcore.models.architecture import Architecture
from segcore.models.arguments import ModelArguments
from segcore.models.catalog import ARCHITECTURES
from segcore.models.zoo import in_zoo, zoo_entry

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "ModelConfig",
    "axes_of",
    "build_model",
    "checked_arguments",
    "find_architecture",
    "has_weights",
    "planes_of",
    "strides_of",
    "takes",
    "weightless",
]


class ModelConfig(BaseModel):
    """Which architecture, and its arguments: enough to build the model again."""

    model_config = ConfigDict(frozen=True)

    architecture: str
    """A key of `ARCHITECTURES`, or a name of the zoo."""
    arguments: dict[str, Any] = {}
    """Always `in_channels` and `num_classes`; the rest is the architecture's own."""


def find_architecture(name: str) -> Architecture:
    """The entry of a name.

    Raises:
        ConfigError: if there is none, with the nearest; or its extra is missing.
    """
    if in_zoo(name):
        return zoo_entry(name)
    if name not in ARCHITECTURES:
        nearest = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(ARCHITECTURES)}"
        raise ConfigError(f"architecture: no network is called '{name}'; {hint}")
    return ARCHITECTURES[name]


def takes(name: str, argument: str) -> bool:
    """Whether an architecture has such an argument.

    Raises:
        ConfigError: if there is no such architecture.
    """
    return argument in find_architecture(name).arguments.model_fields


def planes_of(name: str, arguments: Mapping[str, Any]) -> tuple[str, int] | None:
    """Of a network of volumes or sequences the axis of its planes, z or t, and its stride along it; None of another.

    Args:
        name: of the architecture.
        arguments: its own; `in_channels` too where it asks for certain bands.

    Raises:
        ConfigError: if there is no such architecture, or it does not take one of the arguments.
    """
    model = weightless(ModelConfig(architecture=name, arguments={"in_channels": 1, "num_classes": 2, **arguments}))
    axes = axes_of(model)
    return None if len(axes) == 2 else (axes[0], strides_of(model)[1])


def axes_of(model: nn.Module) -> tuple[str, ...]:
    """Axes of a model's tiles, without c: y and x, with z or t before them."""
    axes: tuple[str, ...] = getattr(model, "axes", ("y", "x"))
    return axes


def strides_of(model: nn.Module) -> tuple[int, int]:
    """Of what the sides of a tile are multiples: in y and x, and in planes, of which a model of planes takes one."""
    planes = getattr(model, "stride_planes", 1) if len(axes_of(model)) > 2 else 1
    return int(model.stride), int(planes)  # type: ignore[arg-type]


def has_weights(model: nn.Module) -> bool:
    """False of a classic method, which has nothing to learn."""
    return next(model.parameters(), None) is not None


def checked_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of an architecture, JSON: those given, checked, and the defaults of the others.

    Raises:
        ConfigError: if there is no such architecture, or it does not take one of them.
    """
    return _validated(name, arguments).model_dump(mode="json")


def build_model(config: ModelConfig) -> nn.Module:
    """A new model with random weights, drawn from torch's global generator.

    Raises:
        ConfigError: if there is no such architecture, or it does not take these arguments.
    """
    arguments = _validated(config.architecture, config.arguments)
    try:
        return find_architecture(config.architecture).build(arguments)
    except ValueError as error:
        raise ConfigError(f"architecture {config.architecture}: {error}") from error


def weightless(config: ModelConfig) -> nn.Module:
    """The model on the meta device: its shape alone. Random weights would cost time, and shift the seed.

    Raises:
        ConfigError: as `build_model`.
    """
    with torch.device("meta"):
        return build_model(config)


def _validated(name: str, arguments: Mapping[str, Any]) -> BaseModel:
    kind = find_architecture(name).arguments
    for argument in arguments:
        if argument not in kind.model_fields:
            known = ", ".join(field for field in kind.model_fields if field not in ModelArguments.model_fields)
            nearest = difflib.get_close_matches(argument, kind.model_fields, n=1)
            hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
            raise ConfigError(
                f"architecture {name}: it has no argument '{argument}'; its own are {known or 'none'}{hint}"
            )
    try:
        return kind.model_validate(dict(arguments))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"architecture {name}: argument {place}: {first['msg']}") from error
