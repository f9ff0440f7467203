"""Work: the codes of a mask, cell by cell -> *those of the refined mask*; rules are asked one after the other.

    rule 1    every cell -> its components; what is kept of them -> added up over the faces -> what becomes of those
    rule 2    every cell after rule 1 -> ...
    write     every cell after all rules -> store

What is kept of a cell lies beside the plan until the mask is complete, so that a killed call goes on. No pixel depends
on cells, shards, threads or their order: components that lie inside a cell are whole, all others are added up.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from segcore.components.cells import Cells, Codes, Ids, ahead
from segcore.components.joined import Joined, joined
from segcore.components.parts import Borders, Face, Int64s, Parts, kept
from segcore.geometry import Ints, Window
from segcore.progress import Progress
from segcore.refine.rules import Rule, Seen
from segcore.refine.steps import Steps
from segcore.store import Objects

KEPT_CELLS = 8
"""The first cells, whose codes wait for the next rule in memory: all of a small image."""
NO_NUMBERS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Settled:
    """A rule, and what it makes of the components that reach faces."""

    rule: Rule
    joined: Joined
    after: Codes
    """(n,)"""
    largest: Mapping[int, int]

    def of_parts(self, cell: Ints, count: int) -> Codes:
        """(count,): what the parts at the faces of a cell become."""
        return self.after[self.joined.owners(cell, count)]


class Refining:
    """One mask; safe to ask from many threads.

    Args:
        cells: of the mask.
        steps: what is done.
        objects: of the workspace.
        prefix: where the borders of cells are kept.
    """

    def __init__(self, cells: Cells, steps: Steps, objects: Objects, prefix: str) -> None:
        self._cells, self._steps, self._objects, self._prefix = cells, steps, objects, prefix
        self._rules = steps.rules(cells.coder)
        self._settled: list[Settled] = []
        self._first_cells = frozenset(islice(cells.grid.indices(), KEPT_CELLS))
        self._early: dict[Ints, tuple[int, Codes]] = {}

    def settle(self, threads: ThreadPoolExecutor, progress: Progress) -> None:
        """Ask every rule of all cells."""
        for number, rule in enumerate(self._rules):

            def borders(cell: Ints, number: int = number) -> Borders:
                found = self._borders(number, cell)
                progress.advance()
                return found

            grid, axes = self._cells.grid, self._cells.axes
            whole = joined(grid, ahead(threads, borders, grid.indices()), axes)
            largest = _largest(whole) if rule.asks_first else {}
            after = rule.after(Seen(whole.code, whole.area, whole.first, whole.edges, largest))
            self._settled.append(Settled(rule, whole, after, largest))

    def ids(self, cell: Ints) -> Ids:
        """The pixels of a cell of the refined mask."""
        codes = self._codes(len(self._rules), cell)
        self._early.pop(cell, None)
        return self._cells.coder.ids(codes)

    def _borders(self, number: int, cell: Ints) -> Borders:
        """What is kept of a cell for a rule: by an earlier call, or made now."""
        key = f"{self._prefix}/{number}/{'.'.join(map(str, cell))}"
        return kept(self._objects, key, lambda: self._made(number, cell))

    def _made(self, number: int, cell: Ints) -> Borders:
        rule, beside = self._rules[number], dict[Face, Codes | None]()
        if rule.asks_edges and number > 0:
            codes, beside = self._codes(number, cell), self._beside(number, cell)
        elif rule.asks_edges:
            codes, beside = self._with_rim(cell)
        else:
            codes = self._codes(number, cell)
        parts = Parts.find(codes, rule.codes, self._cells.axes)
        seen = self._seen(rule, parts, codes, cell, beside, {})
        return parts.borders(codes, seen.first, seen.edges, _largest_inside(parts, seen) if rule.asks_first else None)

    def _seen(
        self,
        rule: Rule,
        parts: Parts,
        codes: Codes,
        cell: Ints,
        beside: Mapping[Face, Codes | None],
        largest: Mapping[int, int],
    ) -> Seen:
        num_codes = self._cells.coder.num_classes + 1
        edges = parts.edges(codes, num_codes, beside) if rule.asks_edges else np.zeros((len(parts.code), 0), np.int64)
        first = parts.firsts(self._cells.places(cell)) if rule.asks_first else NO_NUMBERS
        return Seen(parts.code, parts.area, first, edges, largest)

    def _codes(self, number: int, cell: Ints) -> Codes:
        """The codes of a cell before a rule."""
        known, codes = self._early.get(cell, (0, None))
        if codes is None or known > number:  # an earlier rule is asked once more: what was kept of the cell is gone
            known, codes = 0, self._local(self._cells.window(cell))
        for settled in self._settled[known:number]:
            codes = self._after(settled, cell, codes)
        if cell in self._first_cells:
            self._early[cell] = (number, codes)
        return codes

    def _local(self, window: Window) -> Codes:
        """The codes of a window before all rules."""
        read = self._cells.around(window, self._steps.context(window.ndim))
        codes = self._steps.local(self._cells.coder.read(read), self._cells.coder)
        return codes[window.relative_to(read.start).slices]

    def _after(self, settled: Settled, cell: Ints, codes: Codes) -> Codes:
        """The codes of a cell after a rule."""
        rule = settled.rule
        parts = Parts.find(codes, rule.codes, self._cells.axes)
        # Those inside need no rim: they lie off the faces.
        new = np.zeros(len(parts.code) + 1, codes.dtype)
        new[1:] = rule.after(self._seen(rule, parts, codes, cell, {}, settled.largest))
        at_faces = np.flatnonzero(parts.on_face)
        new[1 + at_faces] = settled.of_parts(cell, len(at_faces))
        return np.where(parts.labels > 0, new[parts.labels], codes)

    def _with_rim(self, cell: Ints) -> tuple[Codes, dict[Face, Codes | None]]:
        """The codes of a cell before all rules, and those of the layers beyond its faces."""
        window, axes = self._cells.window(cell), self._cells.axes
        rim = self._cells.around(window, tuple(int(axis in axes) for axis in range(window.ndim)))
        codes, inside = self._local(rim), window.relative_to(rim.start)
        beside: dict[Face, Codes | None] = {}
        for axis, side in self._cells.faces:
            at = inside.start[axis] - 1 if side == 0 else inside.stop[axis]
            cut = tuple(at if number == axis else part for number, part in enumerate(inside.slices))
            beside[axis, side] = codes[cut] if 0 <= at < codes.shape[axis] else None
        own = codes[inside.slices]
        if cell in self._first_cells:
            self._early[cell] = (0, own)
        return own, beside

    def _beside(self, number: int, cell: Ints) -> dict[Face, Codes | None]:
        """Codes, before a rule that is not the first, of the layers beyond the faces of a cell."""
        return {(axis, side): self._face(number, cell, (axis, side)) for axis, side in self._cells.faces}

    def _face(self, number: int, cell: Ints, face: Face) -> Codes | None:
        axis, side = face
        other = tuple(at + (-1 if side == 0 else 1) * (number == axis) for number, at in enumerate(cell))
        if not 0 <= other[axis] < self._cells.grid.counts[axis]:
            return None
        borders, opposite = self._borders(number - 1, other), (axis, -1 - side)
        after = np.zeros(len(borders.code) + 1, borders.code.dtype)
        after[1:] = self._settled[number - 1].of_parts(other, len(borders.code))
        numbers = borders.numbers[opposite]
        return np.where(numbers > 0, after[numbers], borders.colours[opposite])


def _largest_inside(parts: Parts, seen: Seen) -> Int64s:
    """(codes, 3): code, area and first pixel of the largest component of each code that reaches no face."""
    rows = np.stack([seen.code.astype(np.int64), seen.area, seen.first], axis=1)[~parts.on_face]
    return _largest_rows(rows)


def _largest(whole: Joined) -> dict[int, int]:
    """First pixel of the largest component of each code; the first of several."""
    rows = np.stack([whole.code.astype(np.int64), whole.area, whole.first], axis=1)
    found = _largest_rows(np.concatenate([whole.whole, rows]))
    return {int(code): int(first) for code, _, first in found}


def _largest_rows(rows: Int64s) -> Int64s:
    """Of rows (code, area, first pixel) the largest of each code."""
    rows = rows[np.lexsort((rows[:, 2], -rows[:, 1], rows[:, 0]))]
    return rows[np.flatnonzero(np.diff(rows[:, 0], prepend=-1))]
