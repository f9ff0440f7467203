"""Stitch: the fragments of all shards -> *the objects they are parts of*, in the order of their first pixels.

+-------+-------+
|   1  2|2  1   |    the left shard's 2 goes on in the first column of the right one, where it is 2:
+-------+-------+    both are one object
"""

import io
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from segcore.geometry import Ints
from segcore.instances.grow import Bools, Bytes, Fragments, Int64s, fragments_of
from segcore.instances.rule import Rule

Ids = npt.NDArray[np.uint32 | np.uint64]

_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Numbering:
    """The objects of an array, by the first pixels of their fragments, which no two share.

    In memory are 8 bytes for each object that lies inside a shard, and 16 while it is made; and of those that reach a
    face, which are few, about 100 for each fragment.
    """

    _inside: Int64s
    """First pixels of the objects that lie inside a shard, sorted."""
    _anchors: Int64s
    """Those of the objects that reach a face, sorted."""
    _first: Int64s
    """Those of their fragments, sorted."""
    _ids: Int64s
    """Of these fragments; 0 = too small."""

    @property
    def count(self) -> int:
        return len(self._inside) + len(self._anchors)

    def ids(self, first: Int64s, dtype: npt.DTypeLike) -> Ids:
        """Of the fragments of a shard, (n + 1,): the object of each by its number; 0 (no fragment) is none.

        Args:
            first: (n,), first pixel of each of them in the whole array.
            dtype: of the ids.
        """
        own = np.zeros(len(first) + 1, dtype)
        rank, is_inside = _found(self._inside, first)
        own[1:][is_inside] = (rank + np.searchsorted(self._anchors, first) + 1)[is_inside]
        place, is_at_face = _found(self._first, first)
        own[1:][is_at_face] = self._ids[place[is_at_face]]
        return own


def _found(values: Int64s, wanted: Int64s) -> tuple[Int64s, Bools]:
    """How many of sorted values are smaller than each one wanted, and whether it is among them."""
    place = np.searchsorted(values, wanted)
    is_there = place < len(values)
    is_there[is_there] = values[place[is_there]] == wanted[is_there]
    return place, is_there


def stitched(shards: Iterable[tuple[Ints, Fragments]], min_px: int) -> Numbering:
    """Join what goes on over a face, and number it in the order of the first pixels of the objects.

    Args:
        shards: index and fragments of every shard of the array, in raster order.
        min_px: objects of fewer pixels are left out.
    """
    expected: dict[Ints, list[tuple[str, Int64s]]] = {}
    inside, firsts, areas, joints = [_NONE], [_NONE], [_NONE], [np.zeros((0, 2), np.int64)]
    total = 0
    for shard, own in shards:
        at_face = np.unique(np.concatenate([own.top, own.left, own.below, own.right]))
        at_face = at_face[at_face > 0]
        node = np.full(len(own.first) + 1, -1, np.int64)
        node[at_face] = total + np.arange(len(at_face))
        for side, over in expected.pop(shard, []):
            here = node[getattr(own, side)]
            both = (over >= 0) & (here >= 0)
            joints.append(np.unique(np.stack([over[both], here[both]], axis=1), axis=0))
        *planes, y, x = shard
        for following, side, face in (((y + 1, x), "top", own.below), ((y, x + 1), "left", own.right)):
            if face.any():
                expected.setdefault((*planes, *following), []).append((side, node[face]))
        inside.append(own.first[(node[1:] < 0) & (own.area >= min_px)])
        firsts.append(own.first[at_face - 1])
        areas.append(own.area[at_face - 1])
        total += len(at_face)
    assert not expected, f"nothing came for the faces of {sorted(expected)}"
    all_inside = np.concatenate(inside)
    all_inside.sort()
    return _numbered(all_inside, np.concatenate(firsts), np.concatenate(areas), np.concatenate(joints), min_px)


def _numbered(inside: Int64s, first: Int64s, area: Int64s, joints: Int64s, min_px: int) -> Numbering:
    """With the fragments at faces as the objects that they are parts of."""
    ones = np.ones(len(joints), np.bool_)
    graph = coo_array((ones, (joints[:, 0], joints[:, 1])), shape=(len(first), len(first)))
    count, owner = connected_components(graph, directed=False) if len(first) else (0, np.zeros(0, np.int32))
    anchor, size = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
    np.minimum.at(anchor, owner, first)
    np.add.at(size, owner, area)
    kept = np.flatnonzero(size >= min_px)
    kept = kept[np.argsort(anchor[kept])]
    ids = np.zeros(count, np.int64)
    ids[kept] = np.searchsorted(inside, anchor[kept]) + np.arange(1, len(kept) + 1)
    order = np.argsort(first)
    return Numbering(inside, anchor[kept], first[order], ids[owner][order])


def objects_of(foreground: Bools, depth: Bytes, rule: Rule) -> Ids:
    """Ids (Y, X) of a plane that is cut nowhere."""
    height, width = foreground.shape
    first_px = np.arange(height, dtype=np.int64) * width
    labels, own = fragments_of(foreground, depth, rule, (slice(0, height), slice(0, width)), first_px)
    return stitched([((0, 0), own)], rule.min_px).ids(own.first, np.uint32)[labels]


def packed(fragments: Fragments) -> bytes:
    """Fragments as bytes with checksums (a zip of arrays)."""
    out = io.BytesIO()
    np.savez_compressed(out, **asdict(fragments))
    return out.getvalue()


def unpacked(data: bytes | None) -> Fragments | None:
    """Fragments out of bytes; None if there are none, or they are damaged: they are made again."""
    try:
        return Fragments(**(unzipped(data) or {}))
    except TypeError:
        return None


def unzipped(data: bytes | None) -> dict[str, npt.NDArray[Any]] | None:
    """Arrays by name out of a zip of them; None if there is none, or it is damaged."""
    try:
        with np.load(io.BytesIO(data or b""), allow_pickle=False) as found:
            return {name: found[name] for name in found}
    except (ValueError, TypeError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error):
        # RuntimeError: a flipped bit says that the zip is encrypted, or packed in a way that is not known.
        return None
