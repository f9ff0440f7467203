"""TIFF and OME-TIFF, through tifffile. Only the tiles or strips that a window touches are decoded.

series (axes such as CZYX) --> pages --> segments (tiles, strips) --> window
"""

import logging
import math
from typing import Any

import numpy as np
import tifffile

from segcore.errors import SourceError
from segcore.geometry import Window, is_level
from segcore.sources import tiff_metadata as metadata
from segcore.sources.base import AXES, Limits, Opening, Pixels, Source, SourceInfo, Valid, check_shape
from segcore.sources.files import SourceFile
from segcore.sources.tiff_colors import RGB, YCBCR, Colors
from segcore.sources.tiff_header import PageForm
from segcore.sources.tiff_limits import check_directories, check_xml
from segcore.sources.tiff_orientation import Orientation
from segcore.sources.tiff_segments import Layout, SegmentReader, Storage

OUTER = {"C": "c", "Z": "z", "T": "t", "I": "z", "Q": "z"}
"""Axes over pages, in tifffile's letters, and ours; pages of which nothing is said are planes of a stack."""

VENDOR_KINDS = {
    "qpi": "PerkinElmer QPTIFF",
    "avs": "Argos AVS",
    "eer": "EER",
    "ndtiff": "NDTiff",
}
"""Kinds that need more than their pages, other files or XML of their own, and that OpenSlide does not read."""

UNTURNED_KINDS = ("ome", "imagej")
"""Their metadata tell the sides as they are stored; their own programs show them so, whatever the orientation tag."""


class TiffSource(Source):
    """One image of a TIFF: the first, or the one whose number stands behind `::`."""

    levels_have_valid = True

    def __init__(self, file: SourceFile, opening: Opening) -> None:
        self.uri = file.uri
        self._forms = check_directories(file, opening.limits)
        logging.getLogger("tifffile").addHandler(logging.NullHandler())
        self._limits = opening.limits
        self._num_bytes = file.num_bytes
        self._opened = file.open()
        try:
            # Under another name, and one file only: metadata must not make tifffile open what lies beside it.
            # It takes pages for alike after a look at a few of them: of pictures that differ it has to be told.
            uniform = None if _are_alike(self._forms) else False
            self._tiff = tifffile.TiffFile(self._opened, name="source.tif", _multifile=False, is_uniform=uniform)
            self._prepare(file.member, opening)
        except BaseException:
            self._opened.close()
            raise

    def _prepare(self, member: str | None, opening: Opening) -> None:
        """Everything that the header tells."""
        first = self._tiff.pages.first
        check_xml(self.uri, first.description, self._limits)
        _refuse_vendor_kinds(self.uri, self._tiff)
        if metadata.is_ome(self._tiff):
            metadata.check_ome(self.uri, first.description, int(first.samplesperpixel), self._limits)
        series = _chosen(self.uri, self._tiff, member)
        page = series.keyframe
        self._colors = Colors.of(self.uri, page, opening.indexed)
        self._outer = _outer_axes(self.uri, series, page)
        self._orientation = _orientation(series)
        sides = self._orientation.shown((int(page.imagelength), int(page.imagewidth)))
        axes, shape = _image_axes(self.uri, self._outer, self._colors.num_channels, sides)
        check_shape(self.uri, axes, shape, self._colors.dtype, self._limits)
        _check_pages(self.uri, series, self._outer, self._limits)
        _check_forms(self.uri, series, self._forms)
        self._levels = [series, *_coarser(series, self._forms)]
        self._readers: dict[int, SegmentReader] = {}
        self._segments(0)
        pixels = metadata.ome_pixels(self._tiff, series)
        sizes = [(int(found.keyframe.imagelength), int(found.keyframe.imagewidth)) for found in self._levels]
        self.info = SourceInfo(
            uri=self.uri,
            reader="tiff",
            reader_version=f"tifffile {tifffile.__version__}",
            axes=axes,
            shape=shape,
            dtype=self._colors.dtype.name,
            channels=metadata.channel_names(pixels, shape[axes.index("c")], self._colors),
            spacing=metadata.spacing(self._tiff, page, pixels, self._orientation),
            nodata=metadata.nodata(page),
            has_valid=self._colors.alpha is not None,
            levels=tuple(self._orientation.shown(size) for size in sizes) if len(sizes) > 1 else (),
            num_bytes=self._num_bytes,
            details=metadata.details(self._tiff, series, self._colors),
        )

    def _segments(self, level: int) -> SegmentReader:
        """The reader of a level. Of the coarser ones only the last is kept: each holds decoded tiles."""
        if level not in self._readers:
            self._readers = {kept: reader for kept, reader in self._readers.items() if kept == 0}
            series = self._levels[level]
            layout = Layout.of(self.uri, series.keyframe, self._limits)
            self._readers[level] = SegmentReader(self._opened, self._num_bytes, layout, Storage.of(series, layout))
        return self._readers[level]

    def _read(self, window: Window) -> Pixels:
        return self._read_level(window, 0)

    def _read_level(self, window: Window, level: int) -> Pixels:
        """Plane by plane, and of each plane the samples that are asked for."""
        axes = self.info.axes
        plane = Window(window.start[-2:], window.shape[-2:])
        if not self._outer:  # the common case costs no copy: samples stay side by side, as they are decoded
            samples = self._colors.channels(self._stored(0, plane, level, self._colors.wanted))
            return np.moveaxis(samples[..., window.start[0] : window.stop[0]], -1, 0)
        out = np.empty(window.shape, dtype=self._colors.dtype)
        start, stop = dict(zip(axes, window.start, strict=True)), dict(zip(axes, window.stop, strict=True))
        per_page = self._colors.num_channels
        for outer in np.ndindex(*(stop[axis] - start[axis] for axis in axes if axis in "tz")):
            place = {axis: start[axis] + at for axis, at in zip((a for a in axes if a in "tz"), outer, strict=True)}
            for group in range(start["c"] // per_page, -(-stop["c"] // per_page)):
                first, last = max(start["c"], group * per_page), min(stop["c"], (group + 1) * per_page)
                stored = self._stored(self._page_index(place | {"c": group}), plane, level, self._colors.wanted)
                chosen = self._colors.channels(stored)[..., first - group * per_page : last - group * per_page]
                index: dict[str, Any] = {axis: place[axis] - start[axis] for axis in place}
                index["c"] = slice(first - start["c"], last - start["c"])
                target = out[tuple(index[axis] for axis in axes[:-2])]
                target[...] = np.moveaxis(chosen, -1, 0)
        return out

    def _page_index(self, place: dict[str, int]) -> int:
        """Which page of the series holds a plane: its outer axes in C order."""
        index = 0
        for axis, size in self._outer:
            index = index * size + place.get(axis, 0)
        return index

    def _stored(self, page: int, plane: Window, level: int, samples: tuple[int, ...]) -> Pixels:
        """(Y, X, samples) of a window over (y, x) of one page, turned upright, as they are stored."""
        keyframe = self._levels[level].keyframe
        sides = int(keyframe.imagelength), int(keyframe.imagewidth)
        window = self._orientation.stored_window(plane, sides)
        return self._orientation.turned(self._segments(level).read(page, window, samples))

    def _read_valid(self, window: Window) -> Valid:
        return self._read_valid_level(window, 0)

    def _read_valid_level(self, window: Window, level: int) -> Valid:
        """Alpha over 0, in all channels of a pixel."""
        assert self._colors.alpha is not None, "has_valid without alpha"
        plane = Window(window.start[-2:], window.shape[-2:])
        valid = np.ones(window.shape, dtype=np.bool_)
        groups = math.prod(size for axis, size in self._outer if axis == "c")
        for at in np.ndindex(window.shape[:-2]):
            axes = zip(self.plane_axes[:-2], window.start[:-2], at, strict=True)
            place = {axis: start + offset for axis, start, offset in axes}
            for group in range(groups):
                page = self._page_index(place | {"c": group})
                valid[at] &= self._stored(page, plane, level, (self._colors.alpha,))[..., 0] > 0
        return valid

    def close(self) -> None:
        self._readers.clear()
        self._tiff.close()
        self._opened.close()


def _refuse_vendor_kinds(uri: str, tiff: tifffile.TiffFile) -> None:
    for kind, name in VENDOR_KINDS.items():
        if getattr(tiff, f"is_{kind}", False):
            raise SourceError(f"{uri}: {name} is not a format that segcore reads yet; convert it to OME-TIFF")


def _chosen(uri: str, tiff: tifffile.TiffFile, member: str | None) -> Any:
    """The series that is meant: by its number behind `::`, else the first."""
    try:
        count = len(tiff.series)
    except RuntimeError as error:  # "incompatible keyframe"
        raise _mixed(uri) from error
    if count == 0:
        raise SourceError(f"{uri}: holds no image; the file is damaged")
    if member is not None and not (member.isascii() and member.isdigit() and int(member) < count):
        expected = "expected ::0, or nothing" if count == 1 else f"expected ::0 to ::{count - 1}"
        raise SourceError(f"{uri}: has no image '{member}': it holds {count}; {expected}")
    series = tiff.series[int(member or 0)]
    if metadata.is_ome(tiff) and series.kind != "ome":
        raise SourceError(f"{uri}: its OME-XML tells of planes that are not in this file; join them in one")
    return series


def _orientation(series: Any) -> Orientation:
    """How the pictures of a series are stored."""
    value = series.keyframe.tags.valueof(metadata.ORIENTATION, 1)
    if series.kind in UNTURNED_KINDS or not isinstance(value, int) or not 1 <= value <= 8:
        return Orientation()
    return Orientation(int(value))


def _are_alike(forms: dict[int, PageForm]) -> bool:
    """True if all pages are of one size and kind."""
    return len({form.picture for form in forms.values() if form.is_page}) == 1


def _is_one_form(pages: Any, forms: dict[int, PageForm]) -> bool:
    """True if all pages of a series are cut and compressed like its first: they are decoded like that one."""
    return len({forms.get(page.offset) for page in pages}) == 1


def _check_forms(uri: str, series: Any, forms: dict[int, PageForm]) -> None:
    """Refuse a stack whose planes are stored in different ways."""
    own = forms.get(series.keyframe.offset)
    # Where nothing but their sides makes a stack of pages, all those of the same sides belong to it.
    others = {form for form in forms.values() if own and form.is_page and form.picture == own.picture}
    is_told = series.kind not in ("uniform", "generic")
    if (series.dataoffset is None and not _is_one_form(series, forms)) or (not is_told and len(others) > 1):
        raise _mixed(uri)


def _mixed(uri: str) -> SourceError:
    return SourceError(
        f"{uri}: its pages are stored in different ways (compression, tiles, strips or kind of pixels); "
        "save it again as one OME-TIFF"
    )


def _coarser(series: Any, forms: dict[int, PageForm]) -> list[Any]:
    """The levels below the finest that hold the same planes whole, each smaller than the one before."""

    def kind(page: Any) -> tuple[Any, ...]:
        space = RGB if page.photometric == YCBCR else page.photometric  # decoding JPEG makes the one of the other
        return space, page.dtype, page.samplesperpixel, page.extrasamples, page.bitspersample

    def sides(page: Any) -> tuple[int, int]:
        return int(page.imagelength), int(page.imagewidth)

    levels: list[Any] = []
    full = last = series.keyframe
    for level in series.levels[1:]:
        page = level.keyframe
        whole = len(level) == len(series) and all(found is not None for found in level) and _is_one_form(level, forms)
        same = kind(page) == kind(series.keyframe) and level.axes == series.axes
        if not (same and whole and is_level(sides(full), sides(last), sides(page))):
            break
        levels.append(level)
        last = page
    return levels


def _outer_axes(uri: str, series: Any, page: Any) -> tuple[tuple[str, int], ...]:
    """Axes over the pages of a series, in their order: (our name, size)."""
    if not series.axes.endswith(page.axes) or page.axes not in ("YX", "YXS", "SYX"):
        raise SourceError(f"{uri}: axes {series.axes} with pages of {page.axes} are not read; save it as OME-TIFF")
    letters = series.axes[: len(series.axes) - len(page.axes)]
    names = [OUTER.get(letter, "?") for letter in letters]
    if "?" in names or len(set(names)) < len(names):
        raise SourceError(
            f"{uri}: the meaning of its axes {series.axes} is unclear; save it as OME-TIFF with named axes"
        )
    return tuple(zip(names, (int(n) for n in series.shape), strict=False))


def _image_axes(
    uri: str, outer: tuple[tuple[str, int], ...], num_channels: int, sides_px: tuple[int, int]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Axes and shape of the image, channel first; `sides_px` are y and x."""
    sizes = dict(outer)
    sides = {"c": sizes.get("c", 1) * num_channels, "y": sides_px[0], "x": sides_px[1]} | {
        axis: sizes[axis] for axis in "tz" if axis in sizes
    }
    axes = next((axes for axes in AXES if set(axes) == set(sides)), None)
    if axes is None:
        raise SourceError(
            f"{uri}: a sequence of volumes (t {sizes['t']}, z {sizes['z']}) is not read; save one file per time point"
        )
    return axes, tuple(sides[axis] for axis in axes)


def _check_pages(uri: str, series: Any, outer: tuple[tuple[str, int], ...], limits: Limits) -> None:
    """Refuse series with too many planes, or with planes that are missing."""
    wanted = math.prod(size for _, size in outer)
    if wanted > limits.max_pages:
        raise SourceError(f"{uri}: {wanted} pages are over the limit max_pages = {limits.max_pages}")
    if series.dataoffset is not None:
        return  # plain planes, one behind the other, with or without directories of their own
    if len(series) != wanted or any(page is None for page in series):
        raise SourceError(f"{uri}: its metadata tells of {wanted} planes, but some are not in the file")


def open_file(file: SourceFile, opening: Opening) -> Source:
    """The image that is meant; its first directory is checked before tifffile sees it."""
    assert file.tiff is not None, "asked to open what is no TIFF"
    check_shape(file.uri, ("c", "y", "x"), file.tiff.shape, np.dtype(np.uint8), opening.limits)
    return TiffSource(file, opening)
