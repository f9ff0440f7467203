"""OME-Zarr 0.4 (Zarr v2) and 0.5 (Zarr v3) made by others: a folder, or a prefix of an object store or web server.

group --> multiscales --> the array of each level, checked (`segcore.store.foreign`) --> window

A chunk that is missing reads as the fill value: Zarr means it so, and nothing tells it from a lost one.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcore.errors import SourceError
from segcore.geometry import Ints, Window
from segcore.sources import omezarr_metadata as metadata
from segcore.sources.base import (
    AXES,
    Format,
    Limits,
    Opening,
    Pixels,
    Reader,
    Source,
    SourceInfo,
    check_shape,
)
from segcore.sources.files import MEMBER, SourceFile, split_member
from segcore.sources.omezarr_metadata import Group
from segcore.store.foreign import READER_VERSION, ForeignArray, check_array, open_foreign


class OmeZarrSource(Source):
    """One multiscale image: all levels that are the finest one made smaller."""

    def __init__(self, file: SourceFile, group: Group, limits: Limits) -> None:
        self.uri = file.uri
        scales = metadata.multiscales_of(self.uri, group)
        names = tuple(axis.name.lower() for axis in scales.axes)
        paths = [_joined(group.path, metadata.checked_path(self.uri, level.path)) for level in scales.datasets]
        arrays = [_array(file, path, group.zarr_format, len(names), limits) for path in paths]
        stored = np.dtype(arrays[0].dtype)
        self._dtype = np.dtype(np.uint8) if stored == np.bool_ else stored.newbyteorder("=")
        self._stored_axes = names
        axes = _image_axes(self.uri, dict(zip(names, arrays[0].shape, strict=True)))
        shapes = [_shape(axes, names, array.shape) for array in arrays]
        check_shape(self.uri, axes, shapes[0], self._dtype, limits)
        kept = _levels(arrays, shapes)
        root = split_member(self.uri)[0] if file.local_path is None else str(file.local_path)
        self._readers = [open_foreign(arrays[at], root, paths[at]) for at in kept]
        own_spacing, nodata = metadata.own_words(group.attributes)
        self.info = SourceInfo(
            uri=self.uri,
            reader="ome-zarr",
            reader_version=READER_VERSION,
            axes=axes,
            shape=shapes[0],
            dtype=self._dtype.name,
            channels=metadata.channels_of(group.ome, shapes[0][axes.index("c")]),
            spacing=metadata.spacing_of(scales) or own_spacing,
            georef=metadata.georef_of(group.attributes),
            nodata=nodata,
            levels=tuple((shapes[at][-2], shapes[at][-1]) for at in kept),
            num_bytes=_num_bytes(file, group.path),
            details=_details(group, names, arrays[0], [list(shapes[at][-2:]) for at in kept]),
        )

    def _read(self, window: Window) -> Pixels:
        return self._read_level(window, 0)

    def _read_level(self, window: Window, level: int) -> Pixels:
        """The window in the axes as stored; then those in our order, the ones of length 1 left out or put in."""
        start = dict(zip(self.info.axes, window.start, strict=True))
        sides = dict(zip(self.info.axes, window.shape, strict=True))
        asked = tuple(start.get(axis, 0) for axis in self._stored_axes)
        pixels = self._readers[level].read(Window(asked, tuple(sides.get(axis, 1) for axis in self._stored_axes)))
        order = [self._stored_axes.index(axis) for axis in self.info.axes if axis in self._stored_axes]
        order += [at for at in range(pixels.ndim) if at not in order]  # of length 1
        return np.transpose(pixels, order).reshape(window.shape).astype(self._dtype, copy=False)

    def close(self) -> None:
        self._readers.clear()


def _joined(group: str, path: str) -> str:
    return f"{group}/{path}" if group else path


def _array(file: SourceFile, path: str, zarr_format: int, num_axes: int, limits: Limits) -> ForeignArray:
    """The metadata of one level's array, checked."""
    name = f"{path}/{'.zarray' if zarr_format == 2 else 'zarr.json'}"
    if not file.has(name):
        raise SourceError(f"{file.uri}: its metadata names the level {path}, but there is no {name}; copy it whole")
    array = check_array(metadata.read_json(file, name, limits), f"{file.uri}: {name}", limits.max_tile_bytes)
    if len(array.shape) != num_axes:
        raise SourceError(f"{file.uri}: {path} has {len(array.shape)} axes, but its metadata names {num_axes}")
    return array


def _image_axes(uri: str, sides: dict[str, int]) -> tuple[str, ...]:
    """Our axes for those of a file, of which the ones of length 1 count as none."""
    long = {axis for axis, n in sides.items() if n > 1} | {"c", "y", "x"}
    axes = next((axes for axes in AXES if set(axes) == long), None)
    if axes is not None and {"y", "x"} <= set(sides):
        return axes
    said = ", ".join(f"{axis} {n}" for axis, n in sides.items())
    if {"t", "z"} <= long:
        raise SourceError(f"{uri}: a sequence of volumes ({said}) is not read; save one file per time point")
    raise SourceError(f"{uri}: axes {said} are not read; expected y and x, with c and one of z and t")


def _shape(axes: tuple[str, ...], names: tuple[str, ...], shape: Ints) -> Ints:
    sides = dict(zip(names, shape, strict=True))
    return tuple(sides.get(axis, 1) for axis in axes)


def _levels(arrays: Sequence[ForeignArray], shapes: Sequence[Ints]) -> list[int]:
    """Which arrays are the first one with y and x made smaller, by one factor up to rounding, in falling order.

    Args:
        arrays: finest first.
        shapes: theirs, in our axes.
    """
    (*outer, y0, x0), kept = shapes[0], [0]
    for at, (*others, y, x) in enumerate(shapes[1:], start=1):
        last_y, last_x = shapes[kept[-1]][-2:]
        is_smaller = y <= last_y and x <= last_x and (y, x) != (last_y, last_x)
        is_alike = others == outer and np.dtype(arrays[at].dtype) == np.dtype(arrays[0].dtype)
        if is_smaller and is_alike and abs(y / y0 - x / x0) <= 1 / min(y0, x0):
            kept.append(at)
    return kept


def _num_bytes(file: SourceFile, path: str) -> int:
    """Size of all files of the image; 0 where they are not local: listing them could take minutes."""
    if file.local_path is None:
        return 0
    return sum((Path(at) / name).stat().st_size for at, _, names in os.walk(file.local_path / path) for name in names)


def _details(group: Group, names: tuple[str, ...], array: ForeignArray, levels: list[list[int]]) -> dict[str, Any]:
    """What `inspect` shows besides."""
    return {
        "kind": f"OME-Zarr {group.version}",
        "zarr_format": group.zarr_format,
        "stored_axes": list(names),
        "chunk": list(array.chunk),
        "sharded": array.sharded,
        "compression": ", ".join(codec for codec in array.codecs if codec not in ("bytes", "transpose")) or "none",
        "levels": levels,
    }


def _group(file: SourceFile, limits: Limits) -> Group:
    """The image that is meant: the part behind `::`, the folder itself, or its only series.

    Raises:
        SourceError: if the folder holds several, naming the first ones.
    """
    root = metadata.read_group(file, "", limits)
    if file.member is not None:
        return metadata.read_group(file, metadata.checked_path(file.uri, file.member), limits)
    series = metadata.series_of(file, root, limits)
    if not series or "multiscales" in root.ome:
        return root
    if len(series) == 1:
        return metadata.read_group(file, series[0], limits)
    named = ", ".join(f"{file.uri}{MEMBER}{name}" for name in series[:3])
    raise SourceError(f"{file.uri}: it holds {len(series)} images; name the one that is meant: {named}...")


def _members(file: SourceFile, opening: Opening) -> tuple[str, ...]:
    """The series of the layout that bioformats2raw writes; a plate has to be asked for field by field."""
    return metadata.series_of(file, metadata.read_group(file, "", opening.limits), opening.limits)


def _matches(file: SourceFile) -> bool:
    is_zarr = file.name.endswith(".zarr")  # of a web server, all that there is to go by
    return file.is_folder and (is_zarr or any(file.has(mark) for mark in (*metadata.MARKS, ".zarray")))


READER = Reader(
    name="OME-Zarr",
    rank=15,
    matches=_matches,
    open=lambda file, opening: OmeZarrSource(file, _group(file, opening.limits), opening.limits),
    members=_members,
    formats=(
        Format(
            "OME-Zarr 0.4, 0.5",
            (),
            "a folder, or a prefix that ends in .zarr on a web server; series as `x.zarr::0`, fields of a plate as "
            "`x.zarr::A/1/0`; labels in it are not read as images",
        ),
    ),
)
