"""Space: what is searched, as the architecture has it; config -> *space*, before any trial.

A config knows the settings alone, since it loads no torch: of `arguments.sigma=0..4` it cannot tell whether there is
such an argument, nor whether 0.5 is one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from segcore.config import TrainConfig, TuneConfig, build_config
from segcore.config.tune import Choices, Range, Space
from segcore.errors import ConfigError
from segcore.models import checked_arguments, find_architecture
from segcore.training.settle import check_nothing_learns

DATA = {"in_channels": 1, "num_classes": 2}
"""In place of what the images decide: an argument is checked before they are looked at."""


def with_own_search(config: TuneConfig) -> TuneConfig:
    """The same study; of a method without weights, where nothing is named, the arguments that its entry names.

    Raises:
        ConfigError: if there is no such architecture, or all of these arguments have a value.
    """
    own = find_architecture(config.architecture).searched
    if config.search or not own:
        return config
    texts = {name: text for name, _, text in (line.partition("=") for line in own)}
    left = {name: text for name, text in texts.items() if name.removeprefix("arguments.") not in config.arguments}
    if not left:
        raise ConfigError("search: every argument that is searched by default has a value; name what to search")
    return build_config(TuneConfig, config.model_dump(exclude_unset=True) | {"search": left})


def checked_space(config: TuneConfig) -> Space:
    """By setting or entry of one: what it may be; ranges of arguments are whole where those of the architecture are.

    Raises:
        ConfigError: if there is no such architecture, it does not take an end of a range or one of the choices, or has
            nothing to learn with a setting that is given or searched.
    """
    space = config.space
    architectures = _architectures(space, config.architecture)
    for architecture in architectures:
        for name, place in space.items():
            if name.startswith("arguments."):
                _check_taken(architecture, name, place)
    ends = {name: _ends(place)[0] for name, place in space.items()}
    if all(find_architecture(architecture).searched for architecture in architectures):
        check_nothing_learns(build_config(TrainConfig, config.train_settings(ends, {"loss": {"ce": 1.0}})))
    return {name: _placed(name, place, architectures) for name, place in space.items()}


def _architectures(space: Space, given: str) -> tuple[str, ...]:
    """Names of those that trials are of."""
    place = space.get("architecture")
    return place.texts if isinstance(place, Choices) else (given,)


def _ends(place: Range | Choices) -> tuple[float, ...] | tuple[str, ...]:
    return (place.low, place.high) if isinstance(place, Range) else place.texts


def _check_taken(architecture: str, name: str, place: Range | Choices) -> None:
    argument = name.removeprefix("arguments.")
    for value in _ends(place):
        try:
            checked_arguments(architecture, DATA | {argument: value})
        except ConfigError as error:
            raise ConfigError(f"search: {name}={value}: {error}") from error


def _placed(name: str, place: Range | Choices, architectures: Sequence[str]) -> Range | Choices:
    if not name.startswith("arguments.") or not isinstance(place, Range):
        return place
    kinds = {kind for each in architectures for kind in _kinds(each, name.removeprefix("arguments."))}
    return replace(place, whole=int in kinds) if kinds & {int, float} else place


def _kinds(architecture: str, argument: str) -> set[object]:
    """Types of an argument, `None` among them."""
    annotation = find_architecture(architecture).arguments.model_fields[argument].annotation
    return {annotation, *get_args(annotation)}
