"""TIFF and OME-TIFF, through tifffile. Only the tiles or strips that a window touches are decoded.

series (axes such as CZYX) --> pages --> segments (tiles, strips) --> window
"""

import logging
import math
from typing import Any

import numpy as np
import tifffile

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import tiff_metadata as metadata
from segcore.sources.base import AXES, Format, Limits, Opening, Pixels, Reader, Source, SourceInfo, Valid, check_shape
from segcore.sources.files import SourceFile
from segcore.sources.tiff_segments import Layout, SegmentReader, Storage

PALETTE, MIN_IS_WHITE, MIN_IS_BLACK, RGB, YCBCR = 3, 0, 1, 2, 6
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
ALPHA = (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA)

OUTER = {"C": "c", "Z": "z", "T": "t", "I": "z", "Q": "z"}
"""Axes over pages, in tifffile's letters, and ours; pages of which nothing is said are planes of a stack."""

VENDOR_KINDS = {
    "qpi": "PerkinElmer QPTIFF",
    "avs": "Argos AVS",
    "eer": "EER",
    "ndtiff": "NDTiff",
}
"""Kinds that need more than their pages, other files or XML of their own, and that OpenSlide does not read."""


class TiffSource(Source):
    """The first image of a TIFF, at full resolution."""

    def __init__(self, file: SourceFile, limits: Limits, indexed: bool) -> None:
        self.uri = file.uri
        logging.getLogger("tifffile").addHandler(logging.NullHandler())
        self._opened = file.open()
        try:
            # Under another name, and one file only: metadata must not make tifffile open what lies beside it.
            self._tiff = tifffile.TiffFile(self._opened, name="source.tif", _multifile=False)
            self._prepare(file, limits, indexed)
        except BaseException:
            self._opened.close()
            raise

    def _prepare(self, file: SourceFile, limits: Limits, indexed: bool) -> None:
        """Everything that the header tells."""
        first = self._tiff.pages.first
        _refuse_vendor_kinds(self.uri, self._tiff)
        metadata.check_xml(self.uri, first.description, limits)
        series = self._tiff.series[0]
        page = series.keyframe
        if self._tiff.is_ome and series.kind != "ome":
            raise SourceError(f"{self.uri}: its OME-XML tells of planes that are not in this file; join them in one")
        if page.dtype is None:
            raise SourceError(
                f"{self.uri}: samples of {page.bitspersample} bits, format {page.sampleformat}, are not read"
            )
        self._outer = _outer_axes(self.uri, series, page)
        self._samples, self._alpha = _samples(self.uri, page)
        self._premultiplied = self._alpha is not None and ASSOCIATED_ALPHA in page.extrasamples
        self._palette = _palette(self.uri, page)
        self._indexed = indexed
        stored = np.dtype(np.uint8) if page.dtype == np.bool_ else np.dtype(page.dtype)
        # A mask's ids are what is stored: tifffile, for one, writes boolean arrays as "0 is white".
        self._invert = page.photometric == MIN_IS_WHITE and stored.kind == "u" and not indexed
        self._white = 2 ** int(page.bitspersample) - 1 if self._invert else 0
        expanded = self._palette is not None and not indexed
        self._dtype = np.dtype(np.uint8) if expanded else stored
        num_samples = 3 if expanded else len(self._samples)
        axes, shape = _image_axes(self.uri, self._outer, num_samples, page)
        check_shape(self.uri, axes, shape, self._dtype, limits)
        _check_pages(self.uri, series, self._outer, limits)
        layout = Layout.of(self.uri, page, limits)
        self._segments = SegmentReader(self._opened, file.num_bytes, layout, Storage.of(series, layout))
        self.info = SourceInfo(
            uri=self.uri,
            reader="tiff",
            reader_version=f"tifffile {tifffile.__version__}",
            axes=axes,
            shape=shape,
            dtype=self._dtype.name,
            channels=metadata.channel_names(self._tiff, shape[axes.index("c")], num_samples, page, expanded, indexed),
            spacing=metadata.spacing(self._tiff, page),
            nodata=metadata.nodata(page),
            has_valid=self._alpha is not None,
            num_bytes=file.num_bytes,
            details=metadata.details(self._tiff, series, page, self._palette if indexed else None),
        )

    def _read(self, window: Window) -> Pixels:
        """Plane by plane, and of each plane the samples that are asked for."""
        axes = self.info.axes
        plane = Window(window.start[-2:], window.shape[-2:])
        if not self._outer:  # the common case costs no copy: samples stay side by side, as they are decoded
            samples = self._page_samples(0, plane)[..., window.start[0] : window.stop[0]]
            return np.moveaxis(samples, -1, 0)
        out = np.empty(window.shape, dtype=self._dtype)
        start, stop = dict(zip(axes, window.start, strict=True)), dict(zip(axes, window.stop, strict=True))
        per_page = self.info.shape[axes.index("c")] // self._outer_size("c")
        for outer in np.ndindex(*(stop[axis] - start[axis] for axis in axes if axis in "tz")):
            place = {axis: start[axis] + at for axis, at in zip((a for a in axes if a in "tz"), outer, strict=True)}
            for group in range(start["c"] // per_page, -(-stop["c"] // per_page)):
                first, last = max(start["c"], group * per_page), min(stop["c"], (group + 1) * per_page)
                pixels = self._page_samples(self._page_index(place | {"c": group}), plane)
                chosen = pixels[..., first - group * per_page : last - group * per_page]
                index: dict[str, Any] = {axis: place[axis] - start[axis] for axis in place}
                index["c"] = slice(first - start["c"], last - start["c"])
                target = out[tuple(index[axis] for axis in axes[:-2])]
                target[...] = np.moveaxis(chosen, -1, 0)
        return out

    def _outer_size(self, axis: str) -> int:
        return math.prod(size for name, size in self._outer if name == axis)

    def _page_index(self, place: dict[str, int]) -> int:
        """Which page of the series holds a plane: its outer axes in C order."""
        index = 0
        for axis, size in self._outer:
            index = index * size + place.get(axis, 0)
        return index

    def _page_samples(self, page: int, plane: Window) -> Pixels:
        """(Y, X, samples) of one page: without alpha, palette looked up, 0 = dark."""
        wanted = self._samples if self._alpha is None else (*self._samples, self._alpha)
        stored = self._segments.read(page, plane, wanted)
        if stored.dtype == np.bool_:
            stored = stored.astype(np.uint8)
        if self._palette is not None and not self._indexed:
            return np.asarray(self._palette[np.minimum(stored[..., 0], len(self._palette) - 1)])
        pixels = stored if self._alpha is None else stored[..., :-1]
        if self._premultiplied:
            pixels = _divided(pixels, stored[..., -1:])
        return (self._white - pixels).astype(self._dtype) if self._invert else pixels

    def _read_valid(self, window: Window) -> Valid:
        assert self._alpha is not None, "has_valid without alpha"
        plane = Window(window.start[-2:], window.shape[-2:])
        valid = np.ones(window.shape, dtype=np.bool_)
        for at in np.ndindex(window.shape[:-2]):
            axes = zip(self.plane_axes[:-2], window.start[:-2], at, strict=True)
            place = {axis: start + offset for axis, start, offset in axes}
            for group in range(self._outer_size("c")):
                page = self._page_index(place | {"c": group})
                valid[at] &= self._segments.read(page, plane, (self._alpha,))[..., 0] > 0
        return valid

    def close(self) -> None:
        self._segments.clear()
        self._tiff.close()
        self._opened.close()


def _divided(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Colours out of premultiplied ones; 0 where alpha is 0."""
    if pixels.dtype.kind != "u":
        return pixels
    white = np.iinfo(pixels.dtype).max
    straight = np.rint(pixels.astype(np.float64) * white / np.maximum(alpha, 1))
    return np.asarray(np.minimum(straight, white).astype(pixels.dtype))


def _refuse_vendor_kinds(uri: str, tiff: tifffile.TiffFile) -> None:
    for kind, name in VENDOR_KINDS.items():
        if getattr(tiff, f"is_{kind}", False):
            raise SourceError(f"{uri}: {name} is not a format that segcore reads yet; convert it to OME-TIFF")


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
    uri: str, outer: tuple[tuple[str, int], ...], num_samples: int, page: Any
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Axes and shape of the image, channel first."""
    sizes = dict(outer)
    sides = {"c": sizes.get("c", 1) * num_samples, "y": int(page.imagelength), "x": int(page.imagewidth)} | {
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


def _samples(uri: str, page: Any) -> tuple[tuple[int, ...], int | None]:
    """Which samples of a pixel are channels, and which one is alpha."""
    extras = tuple(int(kind) for kind in page.extrasamples)
    first_extra = page.samplesperpixel - len(extras)
    alpha = None
    if page.photometric in (MIN_IS_WHITE, MIN_IS_BLACK, RGB, YCBCR) and first_extra in (1, 3):
        alpha = next((first_extra + i for i, kind in enumerate(extras) if kind in ALPHA), None)
    if first_extra < 1:
        raise SourceError(f"{uri}: {len(extras)} extra samples of {page.samplesperpixel} per pixel leave no channel")
    return tuple(i for i in range(page.samplesperpixel) if i != alpha), alpha


def _palette(uri: str, page: Any) -> Pixels | None:
    """Colour table (entries, RGB) uint8 of a palette image."""
    if page.photometric != PALETTE:
        return None
    colormap = page.colormap
    if colormap is None or page.samplesperpixel != 1 or page.dtype not in (np.bool_, np.uint8, np.uint16):
        raise SourceError(
            f"{uri}: a palette image has one sample of up to 16 bits per pixel and a colour table, "
            f"this one {page.samplesperpixel} of {page.dtype} and {'a' if colormap is not None else 'no'} table"
        )
    table = np.asarray(colormap).T
    # Some writers fill the 16 bits of an entry with 8-bit values.
    return np.asarray(table >> 8 if table.max(initial=0) > 255 else table).astype(np.uint8)


def _open(file: SourceFile, opening: Opening) -> Source:
    assert file.tiff is not None, "asked to open what is no TIFF"
    check_shape(file.uri, ("c", "y", "x"), file.tiff.shape, np.dtype(np.uint8), opening.limits)
    return TiffSource(file, opening.limits, opening.indexed)


READER = Reader(
    name="TIFF, OME-TIFF",
    rank=30,
    matches=lambda file: file.tiff is not None,
    open=_open,
    formats=(Format("TIFF, BigTIFF, OME-TIFF, ImageJ TIFF", (".tif", ".tiff")),),
)
