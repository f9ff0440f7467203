"""Base: what the configs of all stages share, and how the values that a user gave become one."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from segcore.errors import ConfigError
from segcore.spatial import WantedSpacing

StageT = TypeVar("StageT", bound="StageConfig")


class StageConfig(BaseModel):
    """Base of all stage configs: frozen, and a key it does not know is refused with the nearest match."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    workspace: str
    """Folder or object-store prefix (`s3://...`) that holds images, masks, models and reports."""

    @model_validator(mode="before")
    @classmethod
    def _take_on_and_off_for_words(cls, values: Any) -> Any:
        """YAML 1.1 reads a bare `on` or `off` as a bool; a field that knows these words gets them back."""
        if not isinstance(values, Mapping):
            return values
        worded = {
            name
            for name, field in cls.model_fields.items()
            if get_origin(field.annotation) is Literal and {"on", "off"} & set(get_args(field.annotation))
        }
        return {
            key: ("off", "on")[value] if key in worded and isinstance(value, bool) else value
            for key, value in values.items()
        }

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(unknown_key(str(key), list(cls.model_fields)))
        return values


class SpreadConfig(StageConfig):
    """Base of the configs of stages whose work can be spread over dask workers."""

    dask: str | None = None
    """Do the work on dask workers: `LOCAL:n` = so many on this machine, or the address of a scheduler
    (tcp://host:8786)."""

    @field_validator("dask")
    @classmethod
    def _is_a_place(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(r"LOCAL:[1-9]\d*|[a-z]+://\S+", text, re.IGNORECASE):
            raise ValueError(f"expected LOCAL:n or a scheduler's address such as tcp://host:8786, got '{text}'")
        return text


def checked_spacing(text: str | None) -> str | None:
    """For `field_validator`: a spacing that can be read, such as 0.5um; or none.

    Raises:
        ValueError: if it cannot.
    """
    if text is not None:
        WantedSpacing.parse(text)
    return text


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a key that a config does not have, with the nearest one it has."""
    nearest = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key '{key}': {hint}"


def build_config(stage: type[StageT], values: Mapping[str, Any], where: str = "the options") -> StageT:
    """Check the values of one stage.

    Args:
        stage: the config's class.
        values: keys and values as the user gave them.
        where: what to name in an error (a file, "the options").

    Raises:
        ConfigError: one line with the first thing that is wrong.
    """
    try:
        return stage.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "string_pattern_mismatch":
            message = _unfit(first["ctx"]["pattern"], first["msg"], first["input"])
        raise ConfigError(f"{where}: {f'{place}: ' if place else ''}{message}") from error


def _unfit(pattern: str, message: str, given: str) -> str:
    """The message for text that does not fit; what a name may be is told in words."""
    name = re.fullmatch(r"\^\[A-Za-z0-9\]\[A-Za-z0-9(.*?)\]\{0,(\d+)\}\$", pattern)
    if name is None:
        return f"{message}, got '{given}'"
    most, others = int(name[2]) + 1, " ".join(name[1])
    return f"expected up to {most} letters, digits and {others}, a letter or digit first, got '{given}'"


def load_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: if it cannot be read, is not YAML, or is not a mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    return values
