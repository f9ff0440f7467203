"""Words: settings as text, in a study and on the command line."""

import shlex
from collections.abc import Mapping
from typing import Any

from segcore.config import TuneConfig
from segcore.config.tune import Choices
from segcore.training.choice import Choice


def start_values(config: TuneConfig, choice: Choice, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """By what is searched: the value that `segcore train` would take; where the first trial begins.

    What a setting with entries does not name is missing.

    Args:
        config: of the study.
        choice: what it leaves open.
        arguments: of the architecture, all.
    """
    settings = config.model_dump() | choice.as_json() | {"class_weights": config.class_weights, "arguments": arguments}
    values: dict[str, Any] = {}
    for name, place in config.space.items():
        field, _, entry = name.partition(".")
        value = settings[field].get(entry) if entry else settings[field]
        values[name] = text_of(value) if isinstance(place, Choices) else value
    return values


def text_of(value: Any) -> str:
    """A value as an option takes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def shown(values: Mapping[str, Any]) -> str:
    """Values in one line, to four digits."""
    parts = ((name, f"{value:.4g}" if isinstance(value, float) else value) for name, value in values.items())
    return ", ".join(f"{name}={value}" for name, value in parts)


def command(settings: Mapping[str, Any]) -> str:
    """The `segcore train` that trains with these settings; numbers in full, so that it repeats the trial."""
    words = ["segcore", "train"]
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool) or value in ("true", "false"):
            words.append(option if value in (True, "true") else f"--no-{option[2:]}")
        elif isinstance(value, Mapping):
            for entry, part in value.items():
                words += [option, f"{entry}={part}"]
        elif value is not None:
            words += [option, text_of(value)]
    return shlex.join(words)
