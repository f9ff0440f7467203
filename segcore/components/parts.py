"""Parts: the codes of a cell -> *its components*, of which those at its faces may go on in the next cell.

    +-----------+
    |  1     2  |     1 lies inside and is whole: what becomes of it is known here
    |      +----+     2 reaches a face: its numbers are kept, to be added to those of its other parts
    |  ... | 2 ..
    +------+----+

Pixels are connected by their sides.
"""

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segcore.components.cells import Codes
from segcore.store import Objects

Labels = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

ScalarT = TypeVar("ScalarT", bound=np.generic)

Face = tuple[int, int]
"""An axis, and the side: 0 = its first layer, -1 = its last one."""


@dataclass(frozen=True)
class Parts:
    """The components of one cell, by number - 1."""

    labels: Labels
    """Of the cell's pixels, from 1; 0 = of none of the codes that were asked for."""
    code: Codes
    """(n,)"""
    area: Int64s
    """(n,): px."""
    on_face: Bools
    """(n,): reaches a face of the cell that pixels are connected over."""
    axes: tuple[int, ...]
    """Along which they are."""

    @classmethod
    def find(cls, codes: Codes, wanted: Sequence[int], axes: tuple[int, ...]) -> "Parts":
        """The components of a cell.

        Args:
            codes: of the cell.
            wanted: the codes whose components are looked for.
            axes: along which pixels are connected; the others have one layer.
        """
        labels, found = np.zeros(codes.shape, np.int32), list[int]()
        structure = _structure(codes.ndim, axes)
        for code in wanted:
            selected = codes == code
            if selected.any():
                own, count = ndimage.label(selected, structure)
                labels[selected] = own[selected] + len(found)
                found += [code] * count
        area = np.bincount(labels.reshape(-1), minlength=len(found) + 1)[1:].astype(np.int64)
        on_face = np.zeros(len(found) + 1, np.bool_)
        for face in faces_of(axes):
            on_face[layer(labels, face)] = True
        return cls(labels, np.array(found, codes.dtype), area, on_face[1:], axes)

    def firsts(self, place: Int64s) -> Int64s:
        """(n,): the least place of each component.

        Args:
            place: of every pixel, in raster order: (num_px,).
        """
        flat = self.labels.reshape(-1)
        where = np.flatnonzero(flat)[::-1]
        first = np.zeros(len(self.code) + 1, np.int64)
        first[flat[where]] = where  # the last one that is assigned stays: the first pixel
        return np.asarray(place[first[1:]])

    def edges(self, codes: Codes, num_codes: int, beside: Mapping[Face, Codes | None]) -> Int64s:
        """(n, num_codes): sides that a component has in common with pixels of each class, and of the last code.

        Args:
            codes: of the cell.
            num_codes: how many are told apart; those beyond are left out.
            beside: codes of the layer beyond each face; None = the array ends there, which counts as the last code.
        """
        total = np.zeros((len(self.code) + 1) * num_codes, np.int64)

        def count(labels: Labels, others: Codes) -> None:
            counted = (labels > 0) & (others < num_codes)
            pairs = labels[counted].astype(np.int64) * num_codes + others[counted]
            total[:] += np.bincount(pairs, minlength=len(total))

        for axis in self.axes:
            low, high = (tuple(cut if at == axis else slice(None) for at in range(codes.ndim))
                         for cut in (slice(None, -1), slice(1, None)))  # fmt: skip
            differ = codes[low] != codes[high]
            for one, other in ((low, high), (high, low)):
                count(self.labels[one][differ], codes[other][differ])
        for face, others in beside.items():
            own, own_codes = layer(self.labels, face), layer(codes, face)
            if others is None:
                count(own, np.full_like(own_codes, num_codes - 1))
            else:
                differ = own_codes != others
                count(own[differ], others[differ])
        return total.reshape(-1, num_codes)[1:]

    def borders(self, codes: Codes, first: Int64s, edges: Int64s, whole: Int64s | None) -> "Borders":
        """What is kept of them.

        Args:
            codes: of the cell.
            first: as `firsts` gives it; or of no elements.
            edges: likewise.
            whole: what is to be known of those inside.
        """
        at = np.flatnonzero(self.on_face)
        renumbered = np.zeros(len(self.code) + 1, np.int32)
        renumbered[1 + at] = np.arange(1, len(at) + 1)
        faces = faces_of(self.axes)
        return Borders(
            code=self.code[at],
            area=self.area[at],
            first=first[at] if len(first) else first,
            edges=edges[at],
            whole=np.zeros(0, np.int64) if whole is None else whole,
            numbers={face: renumbered[layer(self.labels, face)] for face in faces},
            colours={face: layer(codes, face) for face in faces},
        )


def _structure(ndim: int, axes: Sequence[int]) -> Bools:
    """Neighbours along some axes alone."""
    structure = ndimage.generate_binary_structure(ndim, 1)
    for axis in set(range(ndim)) - set(axes):
        for side in (0, 2):
            structure[tuple(side if at == axis else slice(None) for at in range(ndim))] = False
    return np.asarray(structure)


def faces_of(axes: Sequence[int]) -> list[Face]:
    """Both faces of each axis."""
    return [(axis, side) for axis in axes for side in (0, -1)]


def layer(values: npt.NDArray[ScalarT], face: Face) -> npt.NDArray[ScalarT]:
    """The layer of a cell at one of its faces."""
    axis, side = face
    return values[(slice(None),) * axis + (side,)]


@dataclass(frozen=True)
class Borders:
    """What is kept of a cell: its parts at the faces, which may go on, and what the others come to."""

    code: Codes
    """(n,): of the parts at the faces."""
    area: Int64s
    """(n,)"""
    first: Int64s
    """(n,): raster index of the first pixel in the whole array; of no elements where nobody asks."""
    edges: Int64s
    """(n, codes): as `Parts.edges`; likewise."""
    whole: Int64s
    """What is to be known of components inside the cell, one after the other."""
    numbers: dict[Face, Labels]
    """By face: part of each pixel, from 1; 0 = none."""
    colours: dict[Face, Codes]
    """By face: code of each pixel."""

    def packed(self) -> bytes:
        """Bytes with checksums (a zip of arrays)."""
        out = io.BytesIO()
        arrays = {name: getattr(self, name) for name in ("code", "area", "first", "edges", "whole")}
        for name in ("numbers", "colours"):
            arrays |= {f"{name} {axis} {side}": values for (axis, side), values in getattr(self, name).items()}
        np.savez_compressed(out, **arrays)
        return out.getvalue()

    @classmethod
    def unpacked(cls, data: bytes | None) -> "Borders | None":
        """Out of bytes; None if there are none, or they are damaged: they are made again."""
        try:
            with np.load(io.BytesIO(data or b""), allow_pickle=False) as found:
                faces: dict[str, dict[Face, Codes]] = {"numbers": {}, "colours": {}}
                for key in found:
                    if " " in key:
                        name, axis, side = key.split()
                        faces[name][int(axis), int(side)] = found[key]
                plain = {key: found[key] for key in found if " " not in key}
                return cls(**plain, **faces)  # type: ignore[arg-type]
        except (ValueError, TypeError, KeyError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error):
            return None


def kept(objects: Objects, key: str, make: Callable[[], Borders]) -> Borders:
    """What an earlier call kept under a key; or else made now, and kept."""
    found = Borders.unpacked(objects.get(key))
    if found is None:
        found = make()
        objects.put(key, found.packed())
    return found
