"""Tune: what the search for better settings of a training is asked for, and the small language of what is searched."""

import difflib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self, Union, get_args, get_origin

from pydantic import Field, ValidationError, model_validator

from segcore.config.train import TrainConfig

SEARCHABLE = (
    *("architecture", "arguments", "channels", "dropout", "norm_noise", "freeze"),
    *("tile_px", "tile_planes", "batch", "accumulate"),
    *("sampling", "foreground_share", "weights"),
    *("loss", "class_weighting", "class_weights", "label_smoothing"),
    *("optimizer", "learning_rate", "weight_decay", "schedule", "warm_up", "ema", "max_gradient"),
    *("augment", "augments", "stretch"),
)
"""Settings that may be searched: those that decide how well a model learns, not what it is scored on or how fast."""

DEFAULT_SEARCH = {
    "learning_rate": "3e-4..1e-2:log",
    "weight_decay": "1e-6..1e-2:log",
    "foreground_share": "0.2..0.9",
    "loss.dice": "0.25..4:log",
    "channels": "8,16,32,64,128|16,32,64,128,256|32,64,128,256,256",
    "tile_px": "64|128|256",
}
SGD_LEARNING_RATE = "5e-3..0.2:log"
"""In place of AdamW's."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool
    """Each ratio, rather than each difference, is as likely as another."""
    whole: bool
    """Integers only."""

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choices:
    """Values as they are written on the command line."""

    texts: tuple[str, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.texts


Space = dict[str, Range | Choices]
"""By setting (`learning_rate`) or entry of one (`loss.dice`): what it may be."""


class TuneConfig(TrainConfig):
    """Labelled images in the workspace -> the settings that train the best model, and that model."""

    trials: int = Field(default=20, ge=1)
    """Trainings in all, those of earlier calls and of other processes included; each gets the minutes given."""
    search: dict[str, str] = Field(default={}, validate_default=True)
    """What is searched, by setting: LOW..HIGH, LOW..HIGH:log or A|B|C, e.g. learning_rate=1e-4..1e-2:log,
    tile_px=64|128 or loss.dice=0..2. Where nothing is named: learning_rate, weight_decay, foreground_share, loss.dice,
    channels and tile_px, or the arguments of a classic method, but for those whose value is given."""
    study: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Study id; the same id goes on with its trials. Made of the settings where not given, so that the same command
    goes on too."""
    workers: int = Field(default=1, ge=1)
    """Trials at once, each in a process of its own with its share of the cores; more than one runs as a Prefect
    flow."""
    run: str | None = None
    """Not for a study, which names its runs itself: STUDY-0, STUDY-1..."""
    folds: int = 0
    """Not for a study: its trials are compared on one set of held-out images."""

    @property
    def searched(self) -> dict[str, str]:
        """What is searched, as it is written: `search`, or the default of networks for what has no value."""
        if self.search:
            return {name: text.replace(" ", "") for name, text in self.search.items()}
        rates = {"learning_rate": SGD_LEARNING_RATE} if self.optimizer == "sgd" else {}
        given = self.model_fields_set | (set() if self.architecture == "unet" else {"channels"})
        given |= {"foreground_share"} if self.sampling == "epoch" else set()
        given |= set(self.arguments) & {"channels"}
        return {name: text for name, text in (DEFAULT_SEARCH | rates).items() if name.partition(".")[0] not in given}

    @property
    def space(self) -> Space:
        """What is searched, read; ranges of arguments are whole where they are written so (tune/space.py knows)."""
        return {name: _space(name, text) for name, text in self.searched.items()}

    def train_settings(self, values: Mapping[str, Any], base: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Settings of a training: what is given here, with the values of a trial laid over.

        Args:
            values: by what is searched, as `Space` has them: numbers, or texts of choices.
            base: by setting with entries: those that stand beside the searched ones where none are given.
        """
        own = set(TuneConfig.model_fields) - set(TrainConfig.model_fields)
        settings = self.model_dump(mode="json", exclude_unset=True, exclude=own)
        for name, value in values.items():
            field, _, entry = name.partition(".")
            if entry:
                settings[field] = {**(settings.get(field) or base.get(field, {})), entry: value}
            else:
                settings[field] = value.split(",") if get_origin(_kind(field)) is tuple else value
        return settings

    @model_validator(mode="after")
    def _names_its_own_runs(self) -> Self:
        if self.run is not None:
            raise ValueError(f"run: a study names its runs itself; give study: {self.run}")
        if self.folds:
            raise ValueError("folds: trials are compared on one set of held-out images; give folds to `segcore train`")
        return self

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        if not self.searched:
            raise ValueError("search: every setting that is searched by default has a value; name what to search")
        for name, place in self.space.items():
            for value in (place.low, place.high) if isinstance(place, Range) else place.texts:
                try:
                    TrainConfig.model_validate(self.train_settings({name: value}, {"loss": {"ce": 1.0}}))
                except ValidationError as error:
                    reason = error.errors()[0]["msg"].removeprefix("Value error, ")
                    raise ValueError(f"search: {name}={value}: {reason}") from error
        return self


def _kind(field: str) -> Any:
    """The type of a setting without `None`; of one with entries that of its values."""
    kind = TrainConfig.model_fields[field].annotation
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(kind) if part is not type(None))
    kind = get_args(kind)[1] if get_origin(kind) is dict else kind
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _space(name: str, text: str) -> Range | Choices:
    """One line of `search`.

    Raises:
        ValueError: if that setting may not be searched, or the text is not understood.
    """
    field, dot, entry = name.partition(".")
    if field not in SEARCHABLE:
        nearest = difflib.get_close_matches(field, SEARCHABLE, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"what can be: {', '.join(SEARCHABLE)}"
        raise ValueError(f"search: '{field}' is nothing that can be searched: {hint}")
    has_entries = get_origin(TrainConfig.model_fields[field].annotation) is dict
    if has_entries != bool(entry) or bool(dot) != bool(entry):
        expected = f"{field}.NAME" if has_entries else field
        raise ValueError(f"search: expected {expected}, got '{name}'")
    ends, _, scale = text.partition(":")
    low, dots, high = ends.partition("..")
    if not dots:
        texts = tuple(text.split("|"))
        if len(set(texts)) < len(texts) or len(texts) < 2 or not all(texts):
            raise ValueError(f"search: {name}={text}: expected LOW..HIGH, LOW..HIGH:log or A|B|C")
        return Choices(texts)
    return _range(name, text, (low, high), scale)


def _range(name: str, text: str, ends: tuple[str, str], scale: str) -> Range:
    field = name.partition(".")[0]
    kind = _kind(field)
    if field == "arguments":  # of any kind, as text: the architecture knows which
        kind = int if all(end.lstrip("-").isdecimal() for end in ends) else float
    if kind not in (int, float):
        raise ValueError(f"search: {name}={text}: expected choices, A|B|C, since it is no number")
    try:
        low, high = (kind(end) for end in ends)
    except ValueError:
        raise ValueError(f"search: {name}={text}: expected two {kind.__name__}s, LOW..HIGH or LOW..HIGH:log") from None
    if scale not in ("", "log") or not low < high or (scale and low <= 0):
        least = " above 0" if scale else ""
        raise ValueError(f"search: {name}={text}: expected LOW..HIGH or LOW..HIGH:log, with LOW{least} below HIGH")
    return Range(low, high, scale == "log", kind is int)
