"""Joined: what is kept of all cells -> *components of the whole array*, added up over the faces of cells."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from segcore.components.cells import Codes
from segcore.components.parts import Borders, Face, Int64s, Labels
from segcore.geometry import Grid, Ints


@dataclass(frozen=True)
class Joined:
    """The components that reach a face of a cell, by number; each of `n` has `m` parts."""

    owner: Int64s
    """(m,): component of every part, cell by cell."""
    before: dict[Ints, int]
    """By cell: parts of those before it."""
    code: Codes
    """(n,)"""
    area: Int64s
    """(n,)"""
    first: Int64s
    """(n,), or of no elements."""
    edges: Int64s
    """(n, codes)"""
    whole: Int64s
    """What was kept of components inside cells, one after the other."""

    def owners(self, cell: Ints, count: int) -> Int64s:
        """(count,): components of the parts of a cell."""
        start = self.before[cell]
        return self.owner[start : start + count]


def joined(grid: Grid, borders: Iterable[Borders], axes: Sequence[int]) -> Joined:
    """Add up what goes on over faces; in memory are some 60 bytes for each part at a face.

    Args:
        grid: the cells.
        borders: of every cell, in raster order.
        axes: along which pixels are connected.
    """
    before: dict[Ints, int] = {}
    expected: dict[tuple[Ints, int], tuple[Labels, Codes]] = {}
    kept: list[Borders] = []
    joints = [np.zeros((0, 2), np.int64)]
    total = 0
    for cell, own in zip(grid.indices(), borders, strict=True):
        before[cell] = total
        for axis in axes:
            if (cell, axis) in expected:
                joints.append(_joints(expected.pop((cell, axis)), own, (axis, 0), total))
            following = tuple(at + (number == axis) for number, at in enumerate(cell))
            if following[axis] < grid.counts[axis] and own.numbers[axis, -1].any():
                numbers = own.numbers[axis, -1].astype(np.int64)
                expected[following, axis] = np.where(numbers > 0, numbers + total, 0), own.colours[axis, -1]
        total += len(own.code)
        kept.append(replace(own, numbers={}, colours={}))
    return _added(kept, np.concatenate(joints), before)


def _joints(over: tuple[Labels, Codes], own: Borders, face: Face, total: int) -> Int64s:
    """Pairs of parts, from 0, that are one component."""
    (there, there_codes), here = over, own.numbers[face]
    both = (there > 0) & (here > 0) & (there_codes == own.colours[face])
    pairs = np.stack([there[both] - 1, here[both].astype(np.int64) - 1 + total], axis=1)
    return np.unique(pairs, axis=0)


def _added(kept: list[Borders], joints: Int64s, before: dict[Ints, int]) -> Joined:
    parts = {name: np.concatenate([getattr(own, name) for own in kept]) for name in ("code", "area", "first", "edges")}
    num_parts = len(parts["code"])
    whole = np.concatenate([own.whole for own in kept])
    if not num_parts:
        return Joined(np.zeros(0, np.int64), before, whole=whole, **parts)
    graph = coo_array((np.ones(len(joints), np.bool_), (joints[:, 0], joints[:, 1])), shape=(num_parts, num_parts))
    count, owner = connected_components(graph, directed=False)
    code = np.zeros(count, parts["code"].dtype)
    code[owner] = parts["code"]
    area, edges = np.zeros(count, np.int64), np.zeros((count, parts["edges"].shape[1]), np.int64)
    np.add.at(area, owner, parts["area"])
    np.add.at(edges, owner, parts["edges"])
    first = np.full(count if len(parts["first"]) else 0, np.iinfo(np.int64).max)
    if len(first):
        np.minimum.at(first, owner, parts["first"])
    return Joined(owner.astype(np.int64), before, code, area, first, edges, whole)
