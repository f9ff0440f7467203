"""Grow: foreground and depth of a window -> *its pixels by object*, each decided by what lies near.

    seeds        pixels that lie deep in an object, connected
    growth       seeds take their neighbours step by step, from the deep to the shallow
    left over    what no seed reaches: its connected pixels are objects too

It is a watershed by immersion (Vincent & Soille, "Watersheds in digital spaces", 1991) on the depth, with as many steps
at each level as `Rule.levels` says. So a pixel's object depends on nothing farther away than `Rule.context_px`, however
large the object or the foreground is: what windows make of their own pixels is what the whole image would, and seeds
that lie in several are joined by the pixels at their faces (`segcore.instances.stitch`). Neighbours are the 4 that
share a side.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segcore.instances.rule import SEED_DEPTH, Rule

Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fragments:
    """The parts of objects that lie in one window, numbered from 1 in the order of their first pixels."""

    first: Int64s
    """(n,): raster index of the first pixel in the whole array."""
    area: Int64s
    """(n,): px in the window."""
    top: Labels
    """(X,): numbers in the window's first row; 0 = no object."""
    left: Labels
    """(Y,): in its first column."""
    below: Labels
    """(X,): of the objects that go on in the row below the window: in that row; empty at the array's end."""
    right: Labels
    """(Y,): likewise in the column right of it."""


def fragments_of(
    foreground: Bools, depth: Bytes, rule: Rule, place: tuple[slice, slice], first_px: Int64s
) -> tuple[Labels, Fragments]:
    """The fragments of a window.

    Args:
        foreground: (Y, X) of the window and its context, which is as wide as `rule.context_px` or ends with the array.
        depth: likewise; 255 = deep in an object.
        rule: what decides.
        place: of the window in them.
        first_px: (Y,), raster index of each of the window's rows in the whole array.

    Returns:
        Numbers (Y, X) of the window's pixels, 0 = none, and the fragments; without those that are whole and too small.
    """
    rows, columns = (side.stop - side.start for side in place)
    nearby = tuple(slice(side.start, side.stop + 1) for side in place)
    found = _with_left_over(grown(foreground, depth, rule)[nearby], foreground[nearby])
    own = found[:rows, :columns]
    where = np.flatnonzero(own)
    numbers = own.ravel()[where]
    first = np.full(int(found.max(initial=0)) + 1, own.size, np.int64)
    np.minimum.at(first, numbers, where)
    area = np.bincount(numbers, minlength=len(first))
    # One that lies wholly inside the window and is too small is no object; of noise there are many.
    is_part = area >= rule.min_px
    for face in (own[0], own[-1], own[:, 0], own[:, -1]):
        is_part[face] = True
    present = np.flatnonzero((first < own.size) & is_part)
    present = present[np.argsort(first[present])]
    renumbered = np.zeros(len(first), np.int32)
    renumbered[present] = np.arange(1, len(present) + 1, dtype=np.int32)
    y, x = np.divmod(first[present], columns)
    found = renumbered[found]
    own = found[:rows, :columns]
    return own, Fragments(
        first=first_px[y] + x,
        area=area[present].astype(np.int64),
        top=own[0],
        left=own[:, 0],
        below=found[rows:, :columns].ravel(),
        right=found[:rows, columns:].ravel(),
    )


def _with_left_over(labels: Labels, foreground: Bools) -> Labels:
    """Connected pixels of the foreground that no seed has reached get a number of their own."""
    left, _ = ndimage.label(foreground & (labels == 0))
    return np.where(left > 0, left + labels.max(initial=0), labels).astype(np.int32)


def grown(foreground: Bools, depth: Bytes, rule: Rule) -> Labels:
    """Numbers (Y, X) of the seeds and of what grows from them; 0 where none does."""
    labels = _seeds(foreground & (depth >= SEED_DEPTH), rule.min_seed_px)
    width = labels.shape[1] + 2
    numbers, depths = np.pad(labels, 1).ravel(), np.pad(depth, 1).astype(np.int16).ravel()
    is_open = np.pad(foreground & (labels == 0), 1).ravel()
    around = np.array((-width, -1, 1, width))
    edge = ndimage.binary_dilation(labels > 0) & foreground & (labels == 0)
    waiting = np.flatnonzero(np.pad(edge, 1))
    is_waiting = np.zeros_like(is_open)
    is_waiting[waiting] = True
    place = np.empty(len(numbers), np.int32)
    for least, steps in rule.levels:
        for _ in range(steps):
            is_deep = depths[waiting] >= least
            taken = waiting[is_deep]
            if not taken.size:
                break
            beside = taken[:, None] + around
            # The deepest neighbour that has a number, the first of several; a sum of 0 is one without.
            deepest = ((numbers[beside] > 0) * (depths[beside] + 1)).argmax(axis=1)
            numbers[taken] = numbers[beside[np.arange(len(taken)), deepest]]
            is_open[taken] = False
            found = beside[is_open[beside] & ~is_waiting[beside]]
            is_waiting[found] = True
            place[found] = np.arange(len(found), dtype=np.int32)
            once = found[place[found] == np.arange(len(found))]  # a pixel beside several was found several times
            waiting = np.concatenate([waiting[~is_deep], once])
    return numbers.reshape(-1, width)[1:-1, 1:-1]


def _seeds(deep: Bools, min_px: int) -> Labels:
    """Connected deep pixels, without those of too few that end inside."""
    labels: Labels
    labels, _ = ndimage.label(deep)
    is_kept = np.bincount(labels.ravel()) >= min_px
    for rim in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        is_kept[rim] = True
    return np.where(is_kept[labels], labels, 0).astype(np.int32)
