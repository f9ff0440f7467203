"""Layers: classes that come one by one and may overlap, laid over each other in an order; the later one wins."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from segcore.classes import ClassInfo, default_color
from segcore.errors import SourceError
from segcore.sources.base import Pixels, Valid
from segcore.targets.class_table import ClassTable

MAX_NOTED = 3
"""How many pairs of overlapping classes are named; the rest is summed."""


@dataclass(frozen=True)
class Naming:
    """The classes of named layers.

    Attributes:
        classes: all of them, the background too.
        ids: one per layer, in the order of the layers.
        fill: the id of pixels that no layer covers: 0, or `ignore` where a table gives 0 to a layer, or to nothing.
    """

    table: ClassTable
    ids: tuple[int, ...]
    fill: int

    def name_of(self, number: int) -> str:
        return next(found.name for found in self.table.classes if found.id == number)


def named_layers(uri: str, names: Sequence[str], table: ClassTable | None, numbers: Sequence[int] = ()) -> Naming:
    """Ids of layers: by their names in the table; without one, 1, 2, 3... in their order.

    Args:
        uri: what errors name.
        names: of the layers; a name that comes again is the same class.
        table: class table.
        numbers: ids that the file itself gives, where there is no table.

    Raises:
        SourceError: if the table lacks a name.
    """
    if table is not None:
        found = [(name, table.id_named(name)) for name in names]
        unknown = [name for name, number in found if number is None]
        if unknown:
            known = ", ".join(info.name for info in table.classes)
            raise SourceError(f"{uri}: the class table has no '{unknown[0]}'; its classes are {known}")
        ids = tuple(number for _, number in found if number is not None)
        return Naming(table, ids, 0 if 0 in table.ids and 0 not in ids else table.ignore)
    order = {name: at for at, name in enumerate(dict.fromkeys(names), 1)}
    ids = tuple(numbers) or tuple(order[name] for name in names)
    own = dict(zip(ids, names, strict=True))
    classes = [ClassInfo(id=0, name="background", color=default_color(0, "background"))]
    classes += [ClassInfo(id=n, name=own[n], color=default_color(n, own[n])) for n in sorted(own)]
    return Naming(ClassTable(classes=tuple(classes)), ids, 0)


@dataclass(eq=False)
class Overlaps:
    """Pixels that belong to two classes, counted pair by pair: (the earlier, the later that has them now)."""

    counts: Counter[tuple[int, int]] = field(default_factory=Counter)

    def lay(self, ids: Pixels, where: Valid, number: int, fill: int) -> None:
        """Give a class its pixels, and count whose they were."""
        taken, counts = np.unique(ids[where & (ids != fill) & (ids != number)], return_counts=True)
        for earlier, count in zip(taken.tolist(), counts.tolist(), strict=True):
            self.counts[earlier, number] += count
        ids[where] = number

    def notes(self, naming: Naming) -> tuple[str, ...]:
        """What overlaps, the most first."""
        ordered = self.counts.most_common()
        said = [
            f"'{naming.name_of(earlier)}' and '{naming.name_of(later)}' overlap on {count} px; '"
            f"{naming.name_of(later)}', the later one, has them"
            for (earlier, later), count in ordered[:MAX_NOTED]
        ]
        rest = ordered[MAX_NOTED:]
        if rest:
            said.append(f"{len(rest)} more pairs of classes overlap on {sum(count for _, count in rest)} px")
        return tuple(said)
