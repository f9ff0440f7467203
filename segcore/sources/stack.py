"""Stack: many files of one place become the channels of one image, on the grid of the finest of them.

A pixel is usable where no part is missing: a model that reads all channels needs all of them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.nodata import fitting_nodata
from segcore.sources.base import Opening, Pixels, Source, SourceInfo, Valid, check_shape
from segcore.sources.bilinear import AxisMap, bilinear, bilinear_of_usable, coarse_window, nearest
from segcore.sources.joined import Joined, OpenSource
from segcore.sources.parts import (
    Parts,
    check_same_crs,
    combined_details,
    common_nodata,
    fill_value,
    has_value,
    in_whole,
    matrix_of,
    tells_missing,
    usable,
    versions,
)

SAME_PX = 0.01
"""Grids that differ by less than this share of a pixel are one."""
SAME_SPACING = 0.01
"""Spacings that differ by no more than this part are one."""
SAME_VOXEL = 0.1
"""Corners of volumes that lie no further apart, in voxels, are one: scanners and programs round."""


@dataclass(frozen=True)
class _Placed:
    """One part in the stack: its channels, and how it lies on the stack's grid."""

    number: int
    first: int
    count: int
    maps: tuple[AxisMap, AxisMap] | None
    """For y and x; None where it has that very grid."""


class StackSource(Source):
    """Files of one place, their channels one behind the other."""

    def __init__(
        self,
        joined: Joined,
        opening: Opening,
        open_source: OpenSource,
        names: Sequence[Sequence[str] | None] | None = None,
    ) -> None:
        """`names`: per part those of its channels, where they are known from elsewhere."""
        self.uri = joined.uri
        if not joined.parts:
            raise SourceError(f"{joined.uri}: no files to stack")
        self._parts = Parts(joined.parts, opening, open_source)
        try:
            self._prepare(joined, opening, names or [None] * len(joined.parts))
        except BaseException:
            self._parts.close()
            raise

    def _prepare(self, joined: Joined, opening: Opening, names: Sequence[Sequence[str] | None]) -> None:
        """Everything that the headers tell."""
        infos = self._parts.infos
        maps, grid = _grids(infos)
        firsts = np.cumsum([0, *(info.shape[0] for info in infos)]).tolist()
        self._placed = [_Placed(i, firsts[i], infos[i].shape[0], maps[i]) for i in range(len(infos))]
        self._is_class = [opening.indexed or "palette" in info.details for info in infos]
        self._telling = [tells_missing(info) for info in infos]
        self._dtype = _common_dtype(infos)
        shape = (firsts[-1], *grid.shape[1:])
        check_shape(self.uri, grid.axes, shape, self._dtype, opening.limits)
        self.info = SourceInfo(
            uri=joined.uri,
            reader="stack",
            reader_version=versions(infos),
            axes=grid.axes,
            shape=shape,
            dtype=self._dtype.name,
            channels=_channel_names(joined.parts, infos, names),
            spacing=grid.spacing,
            georef=grid.georef,
            affine=grid.affine,
            nodata=common_nodata(infos),
            has_valid=any(self._telling),
            num_bytes=sum(info.num_bytes for info in infos),
            details=combined_details(infos, "stack"),
        )

    def _read(self, window: Window) -> Pixels:
        out = np.empty(window.shape, dtype=self._dtype)
        for part in self._placed:
            start, stop = max(part.first, window.start[0]), min(part.first + part.count, window.stop[0])
            if start < stop:
                chosen = Window((start - part.first, *window.start[1:]), (stop - start, *window.shape[1:]))
                out[start - window.start[0] : stop - window.start[0]] = in_whole(
                    self._part_pixels(part, chosen), self._parts.infos[part.number], self.info.nodata
                )
        return out

    def _part_pixels(self, part: _Placed, window: Window) -> Pixels:
        """Channels of a part in a window of the stack."""
        source = self._parts[part.number]
        if part.maps is None:
            return source.read(window)
        rows, columns = (axis.around(*side) for axis, side in zip(part.maps, _sides(window), strict=True))
        plane = coarse_window(rows, columns)
        pixels = source.read(Window((0, *plane.start), (part.count, *plane.shape)))
        chosen = pixels[window.start[0] : window.stop[0]]
        if self._is_class[part.number]:
            return nearest(chosen, rows, columns)
        if not self._telling[part.number]:
            return bilinear(chosen, rows, columns)
        known = has_value(source, Window((0, *plane.start), pixels.shape), pixels)[window.start[0] : window.stop[0]]
        info = source.info
        nodata = fitting_nodata(info.nodata, info.dtype)
        return bilinear_of_usable(chosen, known, rows, columns, fill_value(info), nodata)

    def _read_valid(self, window: Window) -> Valid:
        valid = np.ones(window.shape, dtype=np.bool_)
        for part in self._placed:
            if self._telling[part.number]:
                valid &= self._part_valid(part, window)
        return valid

    def _part_valid(self, part: _Placed, window: Window) -> Valid:
        """Where a part is not missing, in a window over the axes without c."""
        source = self._parts[part.number]
        if part.maps is None:
            whole = Window((0, *window.start), (part.count, *window.shape))
            return usable(source, whole, source.read(whole))
        rows, columns = (axis.around(*side) for axis, side in zip(part.maps, _sides(window), strict=True))
        plane = coarse_window(rows, columns)
        whole = Window((0, *plane.start), (part.count, *plane.shape))
        return nearest(usable(source, whole, source.read(whole)), rows, columns)

    def close(self) -> None:
        self._parts.close()


def open_joined(joined: Joined, opening: Opening, open_source: OpenSource) -> Source:
    """The files as one image.

    Raises:
        SourceError: if one of them cannot be read, or they do not belong to one place.
    """
    return StackSource(joined, opening, open_source)


def _sides(window: Window) -> list[tuple[int, int]]:
    """(start, count) of y and of x."""
    return list(zip(window.start[-2:], window.shape[-2:], strict=True))


def _grids(infos: Sequence[SourceInfo]) -> tuple[list[tuple[AxisMap, AxisMap] | None], SourceInfo]:
    """How each part lies on the grid of the finest (the first of several), and which that is."""
    for info in infos:
        if info.axes[0] != "c" or info.axes != infos[0].axes:
            raise SourceError(
                f"{info.uri}: expected axes {' '.join(infos[0].axes)} as in {infos[0].uri}, with c first, "
                f"got {' '.join(info.axes)}"
            )
    if all(info.georef is None for info in infos):
        _check_same_size(infos)
        return [None] * len(infos), infos[0]
    check_same_crs(infos)
    areas = [abs(np.linalg.det(matrix_of(info))) for info in infos]
    # Pixel sizes that differ by rounding alone are one, and the first file's grid is taken.
    finest = next(i for i, area in enumerate(areas) if area <= min(areas) * (1 + 1e-6))
    grid = infos[finest]
    return [_maps(grid, info) for info in infos], grid


def _check_same_size(infos: Sequence[SourceInfo]) -> None:
    """Refuse parts without a georeference whose sizes differ: nothing says how they lie on each other."""
    first = infos[0]
    for info in infos:
        if info.shape[1:] != first.shape[1:]:
            expected, got = (" x ".join(map(str, found.shape[1:])) for found in (first, info))
            raise SourceError(
                f"{info.uri}: expected {expected} px as {first.uri} has, got {got}; "
                "files without a georeference are stacked pixel by pixel"
            )
        _check_same_spacing(first, info)
        _check_same_affine(first, info)


def _check_same_spacing(first: SourceInfo, info: SourceInfo) -> None:
    """Refuse a part whose pixels have another size, where both tell theirs."""
    if first.spacing is None or info.spacing is None or first.spacing.unit != info.spacing.unit:
        return
    expected, got = first.spacing.values, info.spacing.values
    if any(abs(got[axis] / expected[axis] - 1) > SAME_SPACING for axis in "yx"):
        raise SourceError(
            f"{info.uri}: expected the spacing of {first.uri} (y {expected['y']:.6g}, x {expected['x']:.6g} "
            f"{first.spacing.unit}), got y {got['y']:.6g}, x {got['x']:.6g}; resample it to that grid first"
        )


def _check_same_affine(first: SourceInfo, info: SourceInfo) -> None:
    """Refuse a volume that lies elsewhere in the patient, where both tell where they lie."""
    if first.affine is None or info.affine is None:
        return
    ours, other = np.asarray(info.affine.matrix), np.asarray(first.affine.matrix)
    sides = first.shape[:0:-1]  # x, y and z, as the columns of an affine
    corners = np.array(list(np.ndindex((2,) * len(sides)))) * (np.array(sides) - 1)
    places = np.pad(corners, [(0, 0), (0, 3 - len(sides))]) @ (ours - other)[:3, :3].T + (ours - other)[:3, 3]
    apart = np.linalg.norm(places, axis=1).max()
    voxel = np.linalg.norm(other[:3, :3], axis=0).min()
    if not apart <= SAME_VOXEL * voxel:
        raise SourceError(
            f"{info.uri}: expected to lie where {first.uri} does, got a volume that lies up to {apart:.3g} mm from it; "
            "resample it to that grid first, or register it"
        )


def _maps(grid: SourceInfo, info: SourceInfo) -> tuple[AxisMap, AxisMap] | None:
    """Places of the grid in pixels of a part; None where the two are one.

    Raises:
        SourceError: if the part is turned against the grid, or covers another area.
    """
    (height, width), (part_height, part_width) = grid.shape[-2:], info.shape[-2:]
    matrix = np.linalg.inv(matrix_of(info)) @ matrix_of(grid)
    (x_scale, x_turn, x_offset), (y_turn, y_scale, y_offset) = matrix[:2].tolist()
    turned = max(abs(x_turn) * height, abs(y_turn) * width) > 0.1
    if turned or x_scale <= 0 or y_scale <= 0:
        raise SourceError(f"{info.uri}: its grid is turned or mirrored against that of {grid.uri}; warp it to that one")
    maps = AxisMap(y_scale, y_offset, part_height), AxisMap(x_scale, x_offset, part_width)
    for axis, count in zip(maps, (height, width), strict=True):
        # In pixels of the part; the coarser of the two has the longer ones.
        apart = max(abs(axis.offset), abs(axis.scale * count + axis.offset - axis.size))
        if apart > max(1.0, axis.scale) + SAME_PX:
            raise SourceError(
                f"{info.uri}: expected the area of {grid.uri}, got one whose border lies {apart:.1f} of its pixels "
                "elsewhere; cut both to one area"
            )
    same = all(
        abs(axis.offset) < SAME_PX and abs(axis.scale * n + axis.offset - n) < SAME_PX and n == axis.size
        for axis, n in zip(maps, (height, width), strict=True)
    )
    return None if same else maps


def _common_dtype(infos: Sequence[SourceInfo]) -> np.dtype[Any]:
    """The smallest type that holds all parts; integers with a sign, without one, and floats do not mix."""
    first = infos[0]
    for info in infos:
        if np.dtype(info.dtype).kind != np.dtype(first.dtype).kind:
            raise SourceError(
                f"{info.uri}: expected a type like {first.dtype} of {first.uri}, got {info.dtype}; "
                "save all files with one type"
            )
    return np.result_type(*(np.dtype(info.dtype) for info in infos))


def _channel_names(
    uris: Sequence[str], infos: Sequence[SourceInfo], names: Sequence[Sequence[str] | None]
) -> tuple[str, ...]:
    """Names that the files give; where they give none, or the same twice, what differs between the files' names."""
    files = distinct_names([PurePosixPath(uri.partition("?")[0]).name for uri in uris])
    told: list[list[str]] = []
    for info, given, file in zip(infos, names, files, strict=True):
        if given is not None and len(given) == len(info.channels):
            told.append(list(given))
        elif len(info.channels) == 1 and _is_default(info.channels[0]):
            told.append([file])
        else:
            told.append(list(info.channels))
    counts: dict[str, int] = {}
    for name in (name for part in told for name in part):
        counts[name] = counts.get(name, 0) + 1
    unique: list[str] = []
    for part, file in zip(told, files, strict=True):
        for name in part:
            wanted = f"{file} {name}" if counts[name] > 1 else name
            unique.append(wanted if wanted not in unique else f"{wanted} ({len(unique) + 1})")
    return tuple(unique)


def _is_default(name: str) -> bool:
    """True for a name that a reader gives to a channel without one."""
    return re.fullmatch(r"grey|index|(band|channel) \d+", name) is not None


def distinct_names(files: Sequence[str]) -> list[str]:
    """What tells file names apart: the first word in which all differ, else all words that are not common to all.

    `T31UFS_B02_10m.jp2` and `T31UFS_B05_20m.jp2` are B02 and B05.
    """
    stems = [name[: name.rfind(".")] if "." in name[1:] else name for name in files]
    words = [re.split(r"[_\-. ]+", stem) for stem in stems]
    if len(files) == 1:
        return stems
    if len({len(found) for found in words}) == 1:
        columns = list(zip(*words, strict=True))
        distinct = next((column for column in columns if len(set(column)) == len(files)), None)
        if distinct is not None:
            return list(distinct)
    common = set.intersection(*(set(found) for found in words))
    return [
        "_".join(word for word in found if word not in common) or stem for found, stem in zip(words, stems, strict=True)
    ]
