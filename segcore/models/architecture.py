"""Architecture: what the catalog says of each network or method."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from segcore.models.arguments import ModelArguments


class Told(NamedTuple):
    """What a network is with its default arguments, three bands and two classes."""

    parameters: int
    stride: int
    axes: tuple[str, ...]


class Architecture(NamedTuple):
    """The arguments that a model takes, what builds it from them, and what a user reads of it.

    The model has an attribute `stride`: sides of a tile must be multiples of it. One with an encoder names its
    parts in `encoder`: what training can leave as it is for a while. One with `sees_whole_tile` is known to, so that
    nobody measures how far it looks.
    """

    arguments: type[ModelArguments]
    build: Callable[[Any], nn.Module]
    title: str
    """What the field calls it."""
    family: str
    paper: str
    """Authors, title, year; empty where there is none."""
    use: str
    """When to choose it, in one sentence."""
    context_px: int | None
    """What a tile needs to see around the part that it writes, with the default arguments: a multiple of the stride.
    None: all of it, so that no halo is enough."""
    told: Told | None = None
    """For the list, where a network takes a library that is slow to load or may be missing; else it is built."""
    is_measured: bool = False
    """Whether `context_px` is not known beforehand: it is measured when somebody asks."""
    detects: bool = False
    """Whether it finds objects one by one: for the task `instances` alone, which it learns by a `loss` of its own."""
    library: str = ""
    """A library of the extra `zoo` that it takes; none = it is always there."""
    searched: tuple[str, ...] = ()
    """Of a method without weights: what tune searches where nothing is named, as `--search` takes it."""
