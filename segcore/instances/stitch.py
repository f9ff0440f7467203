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

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from segcore.geometry import Ints
from segcore.instances.grow import Fragments, Int64s, Labels


@dataclass(frozen=True)
class Numbering:
    """The objects of an array; in memory are 8 bytes for each fragment, and while it is made about 80."""

    count: int
    _ids: Int64s
    """Of every fragment, shard by shard; 0 = too small."""
    _before: dict[Ints, int]
    """By shard: fragments of those before it."""

    def ids(self, shard: Ints, labels: Labels, dtype: npt.DTypeLike) -> npt.NDArray[np.uint32 | np.uint64]:
        """A shard's pixels by object.

        Args:
            shard: its index.
            labels: numbers of its fragments, 0 = none.
            dtype: of the ids.
        """
        start = self._before[shard]
        own = np.zeros(int(labels.max(initial=0)) + 1, dtype)
        own[1:] = self._ids[start : start + len(own) - 1]
        return own[labels]


def stitched(shards: Iterable[tuple[Ints, Fragments]], min_px: int) -> Numbering:
    """Join what goes on over a face, and number it.

    Args:
        shards: index and fragments of every shard of the array, in raster order.
        min_px: objects of fewer pixels are left out.
    """
    before: dict[Ints, int] = {}
    expected: dict[Ints, list[tuple[str, Int64s]]] = {}
    firsts, areas, joints = [], [], [np.zeros((0, 2), np.int64)]
    total = 0
    for shard, own in shards:
        before[shard] = total
        for side, over in expected.pop(shard, []):
            here = getattr(own, side)
            both = (over > 0) & (here > 0)
            joints.append(np.unique(np.stack([over[both] - 1, here[both] - 1 + total], axis=1), axis=0))
        *planes, y, x = shard
        for following, side, face in (((y + 1, x), "top", own.below), ((y, x + 1), "left", own.right)):
            if face.any():
                shifted = np.where(face > 0, face.astype(np.int64) + total, 0)
                expected.setdefault((*planes, *following), []).append((side, shifted))
        firsts.append(own.first)
        areas.append(own.area)
        total += len(own.first)
    assert not expected, f"nothing came for the faces of {sorted(expected)}"
    if not total:
        return Numbering(0, np.zeros(0, np.int64), before)
    ids = _numbered(np.concatenate(firsts), np.concatenate(areas), np.concatenate(joints), min_px)
    return Numbering(int(ids.max()), ids, before)


def _numbered(first: Int64s, area: Int64s, joints: Int64s, min_px: int) -> Int64s:
    """Ids of fragments, from 1 in the order of the first pixels of the objects; 0 for objects that are too small."""
    ones = np.ones(len(joints), np.bool_)
    graph = coo_array((ones, (joints[:, 0], joints[:, 1])), shape=(len(first), len(first)))
    count, owner = connected_components(graph, directed=False)
    anchor, size = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
    np.minimum.at(anchor, owner, first)
    np.add.at(size, owner, area)
    kept = np.flatnonzero(size >= min_px)
    ids = np.zeros(count, np.int64)
    ids[kept[np.argsort(anchor[kept])]] = np.arange(1, len(kept) + 1)
    return np.asarray(ids[owner])


def packed(fragments: Fragments) -> bytes:
    """Fragments as bytes with checksums (a zip of arrays)."""
    out = io.BytesIO()
    np.savez_compressed(out, **asdict(fragments))
    return out.getvalue()


def unpacked(data: bytes | None) -> Fragments | None:
    """Fragments out of bytes; None if there are none, or they are damaged: they are made again."""
    try:
        with np.load(io.BytesIO(data or b""), allow_pickle=False) as found:
            return Fragments(**{name: found[name] for name in found})
    except (ValueError, TypeError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error):
        # RuntimeError: a flipped bit says that the zip is encrypted, or packed in a way that is not known.
        return None
