"""Masks: one file of pixels that says what the pixels of an image are, laid on the image's grid."""

import numpy as np

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Joined, Opening, Source, SourceInfo, open_source
from segcore.sources.base import Pixels, Valid
from segcore.targets.base import Target, TargetOpening
from segcore.targets.meaning import Meaning, by_colors, by_threshold, by_values, refuse_object_numbers
from segcore.targets.regridded import Regrid, plane_shape, read_planes, read_regridded, regrid_between
from segcore.targets.scan import Scan, scan


class MaskFile:
    """A mask file on its image's grid.

    Raises:
        SourceError: if it cannot be read, has other channels than one of values or three of colour, or does not lie
            on its image.
    """

    def __init__(self, source: Source, image: SourceInfo) -> None:
        self.source = source
        self.regrid: Regrid | None = regrid_between(source.info, image)
        info = source.info
        if info.shape[info.axes.index("c")] not in (1, 3):
            said = " x ".join(f"{axis} {n}" for axis, n in zip(info.axes, info.shape, strict=True))
            raise SourceError(
                f"{source.uri}: a mask has one channel of values or three of colour, this file has {said}"
            )

    @classmethod
    def open(cls, uri: str | Joined, image: SourceInfo, opening: Opening) -> "MaskFile":
        """Open the mask of an image."""
        source = open_source(uri, opening)
        try:
            return cls(source, image)
        except BaseException:
            source.close()
            raise

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """Pixels (C, *window.shape) under a window of the image, and which of them the file knows."""
        if self.regrid is not None:
            return read_regridded(self.source, self.regrid, window)
        return read_planes(self.source, window), self.source.read_valid(window)

    def close(self) -> None:
        """Give back files and memory."""
        self.source.close()


class MaskTarget(Target):
    """A target from one mask file."""

    def __init__(self, uri: str | Joined, image: SourceInfo, how: TargetOpening) -> None:
        # A threshold is for what is seen: bright or dark, whatever a palette or a TIFF's photometric calls it.
        indexed = how.threshold is None
        self._file = MaskFile.open(uri, image, how.opening.model_copy(update={"indexed": indexed}))
        try:
            self._meaning = self._decide(how)
        except BaseException:
            self._file.close()
            raise
        self.kind, self.classes = self._meaning.kind, self._meaning.classes
        self.dtype, self.ignore = np.dtype(self._meaning.dtype), self._meaning.ignore

    def _decide(self, how: TargetOpening) -> Meaning:
        """What the pixels mean, by a look at all of them; notes what is lost."""
        source = self._file.source
        uri, info = source.uri, source.info
        if self._file.regrid is not None:
            self.notes += (f"{uri}: labels of another grid, brought to the image's by nearest",)
        if how.threshold is not None:
            return by_threshold(uri, how.threshold, how.table, info.nodata)
        found = scan(source, self._file.regrid)
        if found.values is None:
            meaning = by_colors(uri, found.colors, how.table, how.tolerance)
        else:
            palette = info.details.get("first", info.details).get("palette")  # of frames, that of the first
            if how.table is None and how.values is None and palette is None and len(info.axes) == 3:
                refuse_object_numbers(uri, found.values, info.dtype)
            meaning = by_values(uri, found.values, how.table, palette, info.nodata, how.tolerance)
        self._note_lost(meaning, found)
        return meaning

    def _note_lost(self, meaning: Meaning, found: Scan) -> None:
        """Labels that lie beside the image: background apart, as far as 0 is the background."""
        lost = sum(count for code, count in found.outside.items() if meaning.id_of(code) not in (0, meaning.ignore))
        if lost:
            self.notes += (f"{self._file.source.uri}: {lost} labelled px lie outside the image",)

    def read(self, window: Window) -> Pixels:
        pixels, known = self._file.read(window)
        if known.all():
            return np.ascontiguousarray(self._meaning.ids(pixels), dtype=self.dtype)
        ids = np.full(window.shape, self.ignore, dtype=self.dtype)
        ids[known] = self._meaning.ids(pixels[:, known])
        return ids

    def close(self) -> None:
        self._file.close()


class ValidMask:
    """A mask file that says which pixels are usable: those that are not 0 (black), and not transparent.

    A mask of one plane holds for all planes of a volume or sequence.
    """

    def __init__(self, uri: str, image: SourceInfo, opening: Opening) -> None:
        source = open_source(uri, opening.model_copy(update={"indexed": True, "spacing": None}))
        try:
            self.is_plane = len(source.info.axes) == 3 and len(image.axes) == 4
            self._file = MaskFile(source, one_plane(image) if self.is_plane else image)
        except BaseException:
            source.close()
            raise
        self.info = source.info
        palette = source.info.details.get("palette")
        self._is_colored: Valid | None = None if palette is None else np.asarray(np.any(palette, axis=1))

    def read(self, window: Window) -> Valid:
        """Boolean, True = usable, of a window over (y, x), or over (z, y, x) or (t, y, x)."""
        plane = Window(window.start[-2:], window.shape[-2:]) if self.is_plane else window
        pixels, known = self._file.read(plane)
        usable = (pixels != 0).any(axis=0) if self._is_colored is None else self._is_colored[pixels[0]]
        return np.broadcast_to(usable & known, window.shape)

    def close(self) -> None:
        """Give back files and memory."""
        self._file.close()

    def __enter__(self) -> "ValidMask":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def one_plane(image: SourceInfo) -> SourceInfo:
    """A volume or sequence as if it had one plane."""
    sides = dict(zip(image.axes, image.shape, strict=True))
    shape = (sides["c"], sides["y"], sides["x"])
    return image.model_copy(update={"axes": ("c", "y", "x"), "shape": shape, "affine": None})


def check_whole(uri: str, image: SourceInfo, max_px: int) -> None:
    """Refuse an image whose target would have to be held whole, if it is too large for that.

    Raises:
        SourceError: with both numbers.
    """
    shape = plane_shape(image)
    num_px = int(np.prod(shape, dtype=np.int64))
    if num_px > max_px:
        raise SourceError(
            f"{uri}: one file per object is read for images of up to max_whole_px = {max_px} px, "
            f"this one has {' x '.join(map(str, shape))}; join the masks in one file"
        )
