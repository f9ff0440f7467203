"""Rules: what becomes of a component, by its size and by what lies around it.

    Holes     components of the background that are small and closed -> the class around them
    Small     components of classes that are too small, or not the largest -> background, or undecided
    Settle    connected undecided pixels -> the class around them

The class around a component is the one with which it has the most sides in common; of several, the first in the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from segcore.components.cells import Codes
from segcore.components.parts import Int64s


@dataclass(frozen=True)
class Seen:
    """What is known of some components, of each (n,)."""

    code: Codes
    area: Int64s
    first: Int64s
    """Raster index of the first pixel; of no elements where the rule `asks_first` not."""
    edges: Int64s
    """(n, K + 1): sides shared with each class, and with ignore or the array's end; likewise by `asks_edges`."""
    largest: Mapping[int, int]
    """By code: first pixel of the largest component there is."""


class Rule(Protocol):
    """What is done to the components of some codes."""

    @property
    def codes(self) -> tuple[int, ...]:
        """Whose components it is about."""

    @property
    def asks_edges(self) -> bool:
        """True if it looks at what lies around."""

    @property
    def asks_first(self) -> bool:
        """True if it looks at first pixels, and at the largest of all."""

    def after(self, seen: Seen) -> Codes:
        """(n,): the codes that components get."""


@dataclass(frozen=True)
class Holes:
    """Fill holes of the classes."""

    background: int
    max_px: int
    asks_edges = True
    asks_first = False

    @property
    def codes(self) -> tuple[int, ...]:
        return (self.background,)

    def after(self, seen: Seen) -> Codes:
        classes = seen.edges[:, :-1]
        is_hole = (seen.area <= self.max_px) & (seen.edges[:, -1] == 0) & classes.any(axis=1)
        return np.where(is_hole, classes.argmax(axis=1), seen.code).astype(seen.code.dtype)


@dataclass(frozen=True)
class Small:
    """Take away what is too small, or not the largest of its class; the first of several is."""

    codes: tuple[int, ...]
    min_px: int
    keep_largest: bool
    instead: int
    asks_edges: bool
    """True where what no class borders has to stay: there is no background that it could become."""

    @property
    def asks_first(self) -> bool:
        return self.keep_largest

    def after(self, seen: Seen) -> Codes:
        goes = seen.area < self.min_px
        if self.keep_largest:
            goes |= seen.first != np.array([seen.largest.get(int(code), -1) for code in seen.code], np.int64)
        if self.asks_edges:
            goes &= seen.edges[:, :-1].any(axis=1)
        return np.where(goes, self.instead, seen.code).astype(seen.code.dtype)


@dataclass(frozen=True)
class Settle:
    """Give what is undecided to the class around it."""

    undecided: int
    otherwise: int
    """The code where no class is around."""
    asks_edges = True
    asks_first = False

    @property
    def codes(self) -> tuple[int, ...]:
        return (self.undecided,)

    def after(self, seen: Seen) -> Codes:
        classes = seen.edges[:, :-1]
        found = np.where(classes.any(axis=1), classes.argmax(axis=1), self.otherwise)
        return found.astype(seen.code.dtype)
