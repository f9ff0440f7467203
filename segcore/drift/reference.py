"""Reference: what a model package keeps of its training images (`drift.json`), and how an image compares with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from segcore.drift.distance import MIN_IMAGES, Floats, Spread, beyond, usual
from segcore.drift.words import unusual_in

VERSION = 1
"""Of what the statistics mean; a reference of another one is as good as none."""
LEAST_SHARE = 0.05
"""Images of one scanner can be alike to a thousandth: deviations are believed from this part of a statistic's own unit
on, the deviation of an image's pixels."""
DIGITS = 6


class Statistics(NamedTuple):
    """One group of an image's statistics."""

    names: tuple[str, ...]
    """`mean green`: what it is, and of what."""
    values: tuple[float, ...]
    units: tuple[float, ...]
    """What each is to be compared with: the deviation of the pixels, say."""


Seen = Mapping[str, Statistics]
"""By group: bands, stain, texture."""


class Group(BaseModel):
    """One group of statistics of all images of a reference."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    names: tuple[str, ...] = Field(min_length=1)
    least: tuple[float, ...]
    """The smallest deviation that is believed."""
    rows: tuple[tuple[float, ...], ...]
    """Of each image; nothing tells which."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if {len(self.names)} != {len(self.least), *map(len, self.rows)}:
            raise ValueError(f"{len(self.names)} names need as many numbers in `least` and in each row")
        if min(self.least) <= 0:
            raise ValueError(f"`least` must be positive, got {min(self.least)}")
        return self

    @cached_property
    def spread(self) -> Spread:
        return Spread(np.array(self.rows), np.array(self.least))

    @cached_property
    def left_out(self) -> Floats:
        """(images,): of each training image from the others."""
        return self.spread.left_out()

    @cached_property
    def usual(self) -> float:
        """The distance of an ordinary image."""
        return usual(self.left_out, len(self.names))


class Reference(BaseModel):
    """All of drift.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = VERSION
    module: str = ""
    """The part of the network whose features are the texture; none = it has none."""
    groups: dict[str, Group] = Field(min_length=1)

    @model_validator(mode="after")
    def _enough(self) -> Self:
        numbers = {len(group.rows) for group in self.groups.values()}
        if len(numbers) != 1 or min(numbers) < MIN_IMAGES:
            raise ValueError(f"expected the same {MIN_IMAGES} images or more in all groups, got {sorted(numbers)}")
        return self

    @classmethod
    def of(cls, seen: Sequence[Seen], module: str) -> "Reference | None":
        """Of the statistics of training images; None of fewer than `MIN_IMAGES`."""
        if len(seen) < MIN_IMAGES:
            return None
        groups = {}
        for name, first in seen[0].items():
            rows = [[float(f"{value:.{DIGITS}g}") for value in each[name].values] for each in seen]
            units = np.mean([each[name].units for each in seen], axis=0)
            least = np.maximum(LEAST_SHARE * units, 1e-12)
            groups[name] = Group(names=first.names, least=tuple(least.tolist()), rows=tuple(map(tuple, rows)))
        return cls(module=module, groups=groups)

    @classmethod
    def read(cls, data: bytes | None) -> "Reference | None":
        """What a package holds; None where it is of an older version, or there is none."""
        try:
            found = cls.model_validate_json(data or b"{}")
        except ValidationError:
            return None
        return found if found.version == VERSION else None

    @property
    def num_images(self) -> int:
        return len(next(iter(self.groups.values())).rows)

    @cached_property
    def scores(self) -> Floats:
        """(images,): of the training images, each against the others."""
        return np.asarray(np.max([group.left_out / group.usual for group in self.groups.values()], axis=0))

    def compared(self, seen: Seen) -> "Found":
        """How unusual an image is."""
        groups, words = {}, []
        for name, group in self.groups.items():
            row = np.array(seen[name].values)
            distance = group.spread.distance(row)
            times = distance / group.usual
            percentile = 100 * float((group.left_out < distance).mean())
            groups[name] = {"distance": distance, "times_usual": times, "percentile": percentile}
            words += [(times, text) for text in unusual_in(name, group.names, group.spread.deviations(row), times)]
        score = max(group["times_usual"] for group in groups.values())
        words.sort(key=lambda word: -word[0])
        return Found(
            score=score,
            percentile=100 * float((self.scores < score).mean()),
            unusual=score > beyond(self.scores),
            words=[text for _, text in words],
            groups=groups,
        )


@dataclass(frozen=True)
class Found:
    """How an image compares with the training images."""

    score: float
    """Times as far from them as one of them is from the others as a rule, in the group where it is farthest."""
    percentile: float
    """Percent of the training images that are nearer to the others than it is."""
    unusual: bool
    words: list[str]
    """In what, the most unusual group first."""
    groups: dict[str, dict[str, float]]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, rounded."""
        groups = {name: {key: round(value, 3) for key, value in group.items()} for name, group in self.groups.items()}
        return {
            "score": round(self.score, 3),
            "percentile": round(self.percentile, 2),
            "unusual": self.unusual,
            "words": self.words,
            "groups": groups,
        }
