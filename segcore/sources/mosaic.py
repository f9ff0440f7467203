"""Mosaic: neighbouring tiles on one grid become one image over their union; a read opens only what it touches.

+----+----+      where tiles overlap, the first by name that has a value there wins;
| a  |  b |      what no tile covers is nodata, or not usable
+----+--+-+--+
        |  c |
        +----+
"""

from collections.abc import Sequence

import numpy as np

from segcore.errors import SourceError
from segcore.geometry import Ints, Window
from segcore.sources.base import Opening, Pixels, Source, SourceInfo, Valid, check_shape
from segcore.sources.joined import Joined, OpenSource
from segcore.sources.parts import (
    Parts,
    check_same_crs,
    common_nodata,
    fill_value,
    in_whole,
    matrix_of,
    usable,
    versions,
)

SAME_PX = 0.01
"""Tiles lie on one grid if they are whole pixels apart, up to this share of one."""


class MosaicSource(Source):
    """Tiles of one CRS, pixel size and band layout."""

    def __init__(self, joined: Joined, opening: Opening, open_source: OpenSource) -> None:
        self.uri = joined.uri
        if not joined.parts:
            raise SourceError(f"{joined.uri}: no files for a mosaic")
        self._parts = Parts(joined.parts, opening, open_source)
        try:
            self._prepare(joined, opening)
        except BaseException:
            self._parts.close()
            raise

    def _prepare(self, joined: Joined, opening: Opening) -> None:
        """Everything that the headers tell."""
        infos = self._parts.infos
        first = infos[0]
        check_same_crs(infos)
        _check_same_layout(infos)
        starts = np.array([_start_px(first, info) for info in infos])
        stops = starts + np.array([info.shape[1:] for info in infos])
        origin = starts.min(axis=0)
        self._starts, self._stops = starts - origin, stops - origin
        height, width = (int(n) for n in self._stops.max(axis=0))
        shape = (first.shape[0], height, width)
        check_shape(self.uri, first.axes, shape, np.dtype(first.dtype), opening.limits)
        nodata = common_nodata(infos)
        self._fill = fill_value(first.model_copy(update={"nodata": nodata}))
        assert first.georef is not None
        x, y, _ = (matrix_of(first) @ np.array([origin[1], origin[0], 1.0])).tolist()
        a, b, _, d, e, _ = first.georef.transform
        covered = sum(info.shape[1] * info.shape[2] for info in infos)
        told = any(info.has_valid for info in infos) or any(info.nodata is not None for info in infos)
        self.info = SourceInfo(
            uri=joined.uri,
            reader="mosaic",
            reader_version=versions(infos),
            axes=first.axes,
            shape=shape,
            dtype=first.dtype,
            channels=first.channels,
            spacing=first.spacing,
            georef=first.georef.model_copy(update={"transform": (a, b, x, d, e, y)}),
            nodata=nodata,
            # Nodata that all tiles have says it all; overlaps can only hide gaps, not make them.
            has_valid=any(info.has_valid for info in infos)
            or (nodata is None and (told or covered != height * width or self._overlaps())),
            num_bytes=sum(info.num_bytes for info in infos),
            details={name: first.details[name] for name in _SHARED if name in first.details}
            | {"kind": "mosaic", "parts": len(infos)},
        )

    def _overlaps(self) -> bool:
        """True if two tiles share a pixel: then their areas do not tell whether there are gaps."""
        for i in range(len(self._starts)):
            later = slice(i + 1, None)
            meets = (self._starts[later] < self._stops[i]) & (self._stops[later] > self._starts[i])
            if meets.all(axis=1).any():
                return True
        return False

    def _touching(self, plane: Window) -> list[tuple[int, Window]]:
        """The tiles in a window by number, each with what it covers of it, in pixels of the mosaic."""
        meets = (self._starts < np.array(plane.stop)) & (self._stops > np.array(plane.start))
        found = []
        for number in np.flatnonzero(meets.all(axis=1)).tolist():
            tile = Window(self._start(number), self._parts.infos[number].shape[1:])
            found.append((number, tile.intersected(plane)))
        return found

    def _start(self, number: int) -> Ints:
        y, x = self._starts[number].tolist()
        return y, x

    def _tile_pixels(self, number: int, shared: Window) -> tuple[Pixels, Valid]:
        """All channels of a tile, and where they have a value."""
        source = self._parts[number]
        plane = shared.relative_to(self._start(number))
        window = Window((0, *plane.start), (self.info.shape[0], *plane.shape))
        pixels = source.read(window)
        return in_whole(pixels, source.info, self.info.nodata), usable(source, window, pixels)

    def _read(self, window: Window) -> Pixels:
        plane = Window(window.start[1:], window.shape[1:])
        channels = slice(window.start[0], window.stop[0])
        out = np.full(window.shape, self._fill, dtype=self.info.dtype)
        covered, settled = np.zeros(plane.shape, np.bool_), np.zeros(plane.shape, np.bool_)
        for number, shared in self._touching(plane):
            here = shared.relative_to(plane.start).slices
            if settled[here].all():
                continue
            pixels, known = self._tile_pixels(number, shared)
            # A tile's own nodata gives way to another tile's value, but not to another's nodata.
            taken = ~settled[here] & (known | ~covered[here])
            np.copyto(out[:, *here], pixels[channels], where=taken)
            covered[here] = True
            settled[here] |= known
        return out

    def _read_valid(self, window: Window) -> Valid:
        valid = np.zeros(window.shape, dtype=np.bool_)
        for number, shared in self._touching(window):
            here = shared.relative_to(window.start).slices
            if not valid[here].all():
                valid[here] |= self._tile_pixels(number, shared)[1]
        return valid

    def close(self) -> None:
        self._parts.close()


_SHARED = ("scales", "offsets", "palette", "crs")
"""Details that all tiles have in common."""


def open_joined(joined: Joined, opening: Opening, open_source: OpenSource) -> Source:
    """The files as one image.

    Raises:
        SourceError: if one of them cannot be read, or they do not lie on one grid.
    """
    return MosaicSource(joined, opening, open_source)


def _check_same_layout(infos: Sequence[SourceInfo]) -> None:
    """Refuse tiles whose pixels mean different things."""
    first = infos[0]
    for info in infos:
        for what, ours, other in (
            ("bands", ", ".join(info.channels), ", ".join(first.channels)),
            ("type", info.dtype, first.dtype),
            *(
                (name, str(info.details.get(name)), str(first.details.get(name)))
                for name in ("scales", "offsets", "palette")
            ),
        ):
            if ours != other:
                raise SourceError(f"{info.uri}: expected the {what} of {first.uri} ({other[:80]}), got {ours[:80]}")


def _start_px(first: SourceInfo, info: SourceInfo) -> Ints:
    """(y, x) of a tile's first pixel on the grid of the first tile.

    Raises:
        SourceError: if it does not lie on that grid.
    """
    matrix = np.linalg.inv(matrix_of(first)) @ matrix_of(info)
    # How far the tile's far corner lies from where it would be with the pixels of the first one.
    stretched = np.abs(matrix[:2, :2] - np.eye(2)) @ np.array([info.shape[2], info.shape[1]])
    x, y = matrix[:2, 2].tolist()
    if (stretched > SAME_PX).any():
        raise SourceError(
            f"{info.uri}: expected pixels like those of {first.uri}, got a tile that is {matrix[0, 0]:.6g} x "
            f"{matrix[1, 1]:.6g} of their size, or turned; resample it to that grid first (gdalwarp -tr -tap)"
        )
    if max(abs(y - round(y)), abs(x - round(x))) > SAME_PX:
        raise SourceError(
            f"{info.uri}: expected to lie whole pixels from {first.uri}, got y {y:.3f}, x {x:.3f} pixels; "
            "resample it to that grid first (gdalwarp -tap)"
        )
    return round(y), round(x)
