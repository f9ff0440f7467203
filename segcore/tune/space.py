"""Space: what is searched, as the architecture has it; config -> *space*, before any trial.

A config knows the settings alone, since it loads no torch: of `arguments.sigma=0..4` it cannot tell whether 0.5 is one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from segcore.config import TuneConfig
from segcore.config.tune import Choices, Range, Space
from segcore.models import find_architecture


def space_of(config: TuneConfig) -> Space:
    """By setting or entry of one: what it may be; ranges of arguments are whole where those of the architecture are.

    Raises:
        ConfigError: if there is no such architecture.
    """
    architectures = _architectures(config.space, config.architecture)
    return {name: _placed(name, place, architectures) for name, place in config.space.items()}


def _architectures(space: Space, given: str) -> tuple[str, ...]:
    """Names of those that trials are of."""
    place = space.get("architecture")
    return place.texts if isinstance(place, Choices) else (given,)


def _placed(name: str, place: Range | Choices, architectures: Sequence[str]) -> Range | Choices:
    field, _, argument = name.partition(".")
    if field != "arguments" or not isinstance(place, Range):
        return place
    kinds = {kind for architecture in architectures for kind in _kinds(architecture, argument)}
    is_number = bool(kinds & {int, float})
    return replace(place, whole=int in kinds) if is_number else place


def _kinds(architecture: str, argument: str) -> set[object]:
    """Types of an argument, `None` among them; none of one that there is not."""
    field = find_architecture(architecture).arguments.model_fields.get(argument)
    return set() if field is None else {field.annotation, *get_args(field.annotation)}
