"""What every reader shares: the Source it gives, its SourceInfo, and the Limits it keeps to."""

import abc
import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from segcore.config import unknown_key
from segcore.errors import ConfigError, SegcoreError, SourceError
from segcore.geometry import Ints, Window
from segcore.sources.files import SourceFile
from segcore.spatial import Affine, Georef, Spacing, WantedSpacing

if TYPE_CHECKING:
    from segcore.sources.joined import Joined

Pixels = npt.NDArray[Any]
Valid = npt.NDArray[np.bool_]

AXES = (("c", "y", "x"), ("c", "z", "y", "x"), ("t", "c", "y", "x"))
"""Axis orders that an image may have."""

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
"""Pixel types that an image may have."""


class Limits(BaseModel):
    """What a source may ask for at most. Checked against its header, before any memory is taken for pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_px: int = Field(default=2**38, ge=1)
    """Pixels of one y-x plane."""
    max_channels: int = Field(default=2048, ge=1)
    max_pages: int = Field(default=100_000, ge=1)
    """Planes or pages (z, t and those of a TIFF)."""
    max_tile_bytes: int = Field(default=2**28, ge=1)
    """Decoded size of one tile or strip of a file that is read piece by piece."""
    max_whole_px: int = Field(default=2**28, ge=1)
    """Pixels of a picture whose format can only be decoded whole (PNG, JPEG, GIF...)."""
    max_ratio: int = Field(default=50_000, ge=1)
    """Bytes of the pixels of a TIFF over those of its file. Of zeros Deflate makes 1,000, Zstandard 33,000 to one."""
    max_metadata_bytes: int = Field(default=2**24, ge=1)
    """Length of metadata that has to be parsed (OME-XML)."""
    max_download_bytes: int = Field(default=2**36, ge=1)
    """Size of a remote file whose format library needs a local copy; and of a packed volume, once unpacked."""
    max_shapes_bytes: int = Field(default=2**28, ge=1)
    """Size of a file of shapes (GeoJSON, GeoPackage, shapefile), which is read whole."""

    @classmethod
    def parse(cls, settings: Sequence[str]) -> Self:
        """Limits from `NAME=NUMBER`; the others as they are.

        Raises:
            ConfigError: naming the one that is not known or no number.
        """
        values: dict[str, int] = {}
        for setting in settings:
            name, _, number = setting.partition("=")
            if name not in cls.model_fields:
                raise ConfigError(f"limits: {unknown_key(name, list(cls.model_fields))}")
            try:
                values[name] = int(float(number))
                cls.model_validate(values)
            except (ValueError, OverflowError) as error:
                raise ConfigError(f"limits: expected {name}=NUMBER of at least 1, got '{setting}'") from error
        return cls(**values)


class Opening(BaseModel):
    """How sources are opened: what the user asked for beside their names; the same for all files of one call."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    limits: Limits = Limits()
    indexed: bool = False
    """Give what is stored, as masks need it: a palette picture as its indices (one channel), with the palette as RGB
    triples in `info.details["palette"]`, and a TIFF in which 0 is white as it is. Otherwise palettes come as their
    colours, and 0 is dark."""
    spacing: WantedSpacing | None = None
    """Resample to this spacing; of a source without one, take it as the source's own (origin "user")."""
    warp: bool = False
    """Warp files with ground-control points to their own CRS; otherwise they are refused."""
    axes: str | None = None
    """Axes of arrays whose file does not name them (NPY, HDF5), e.g. "zyx" or "yxc"; guessed where not given."""


DEFAULT_OPENING = Opening()


class SourceInfo(BaseModel):
    """What a source is, from its header."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    uri: str
    reader: str
    """Which reader: "tiff", "geotiff", "slide", "picture"."""
    reader_version: str
    """The format library and its version."""
    axes: tuple[str, ...]
    """Channel first: ("c", "y", "x"), ("c", "z", "y", "x") or ("t", "c", "y", "x"); grey has one channel."""
    shape: tuple[int, ...]
    dtype: str
    channels: tuple[str, ...]
    """A name per channel."""
    spacing: Spacing | None = None
    georef: Georef | None = None
    nodata: float | None = None
    affine: Affine | None = None
    """Of volumes: where their voxels lie in the patient."""
    has_valid: bool = False
    """True if the file itself says which pixels are usable (alpha, a mask band, missing tiles)."""
    levels: tuple[tuple[int, int], ...] = ()
    """(y, x) of every level that the file stores, finest (the image itself) first; empty = that one alone."""
    num_bytes: int
    """Size of the file, or of all files."""
    details: dict[str, Any] = {}
    """What `segcore inspect` shows besides: compression, tile, levels, kind. JSON only."""


class Source(abc.ABC):
    """A user's own image, read window by window; a context manager, for one thread.

    A reader sets `info` and `uri`, and implements `_read` and `close`; `_read_level` where `info.levels` lists coarser
    levels, and `_read_valid` where `info.has_valid`; `_read_valid_level` with `levels_have_valid`, where it knows both.
    """

    uri: str
    info: SourceInfo
    levels_have_valid: bool = False
    """True where `read_valid` can be asked of coarser levels too."""

    @property
    def plane_axes(self) -> tuple[str, ...]:
        """The axes without `c`: those of validity and of targets."""
        return tuple(axis for axis in self.info.axes if axis != "c")

    def shape(self, level: int = 0) -> Ints:
        """Sides of a level that the file stores, in the order of `info.axes`."""
        return (*self.info.shape[:-2], *self.info.levels[level]) if self.info.levels else self.info.shape

    def read(self, window: Window, level: int = 0) -> Pixels:
        """Pixels of a window over all axes, inside the level.

        Returns:
            An array of the window's shape and the source's dtype, axes as in `info.axes`; in memory in whatever order
            the decoder gave them.

        Raises:
            SourceError: one line with the file, if it is damaged or cannot be decoded.
        """
        assert Window.whole(self.shape(level)).contains(window), f"{window} is not inside {self.shape(level)}"
        with decoding(self.uri, f"at {_place(self.info.axes, window)}{f' of level {level}' if level else ''}"):
            pixels = self._read(window) if level == 0 else self._read_level(window, level)
        assert pixels.shape == window.shape, f"{self.info.reader} read {pixels.shape} for {window}"
        assert pixels.dtype == np.dtype(self.info.dtype), f"{pixels.dtype} is not {self.info.dtype}"
        return pixels

    def read_valid(self, window: Window, level: int = 0) -> Valid:
        """Which pixels of a window over `plane_axes` are usable; of coarser levels only where `levels_have_valid`.

        Returns:
            Boolean, of the window's shape, True = usable; all True where the file says nothing (`info.has_valid` is
            False).
        """
        sides = tuple(n for n, axis in zip(self.shape(level), self.info.axes, strict=True) if axis != "c")
        assert Window.whole(sides).contains(window), f"{window} is not inside {sides}"
        if not self.info.has_valid:
            return np.ones(window.shape, dtype=np.bool_)
        with decoding(self.uri, f"at {_place(self.plane_axes, window)}{f' of level {level}' if level else ''}"):
            found = self._read_valid(window) if level == 0 else self._read_valid_level(window, level)
            valid = np.asarray(found, dtype=np.bool_)
        assert valid.shape == window.shape, f"{self.info.reader} read validity {valid.shape} for {window}"
        return valid

    @abc.abstractmethod
    def _read(self, window: Window) -> Pixels:
        """The pixels of the finest level; any exception becomes a SourceError."""

    def _read_level(self, window: Window, level: int) -> Pixels:
        """The pixels of a coarser level; called only where `info.levels` lists it."""
        raise NotImplementedError

    def _read_valid(self, window: Window) -> Valid:
        """Usable pixels; called only where `info.has_valid`."""
        raise NotImplementedError

    def _read_valid_level(self, window: Window, level: int) -> Valid:
        """Usable pixels of a coarser level; called only with `levels_have_valid`."""
        raise NotImplementedError

    @abc.abstractmethod
    def close(self) -> None:
        """Give back files and memory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Reader:
    """How formats register: as the `READER` of a module that `segcore.sources` lists. It loads no format library."""

    name: str
    rank: int
    """Readers are asked in rising order, the special before the general; 0 only refuses."""
    matches: "Matcher"
    """Does this file or folder look like ours? Judges by content, opens nothing with a format library."""
    open: "Opener"
    members: "Lister | None" = None
    """Of a file or folder that can hold several images: the parts; none = it is one."""
    formats: tuple["Format", ...] = ()
    """What is read, for the table of formats."""
    companions: "Companions | None" = None
    """Of a format whose files name others."""
    extra: str | None = None
    """The extra of segcore that has the format library; None = it is always there."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Names that are taken from a folder, lower case."""
        return tuple(suffix for found in self.formats for suffix in found.suffixes)


@dataclass(frozen=True)
class Companions:
    """Which further files are one image with a file that names them; found without the format's library."""

    suffixes: tuple[str, ...]
    """Lower case; a file under another name is not looked into: most sources are one file, and there are many."""
    of: "Finder"


@dataclass(frozen=True)
class Format:
    """One row of the table of formats."""

    name: str
    suffixes: tuple[str, ...]
    """What is taken from a folder under such a name; a file that is named is taken whatever its name."""
    note: str = ""
    """What a user has to know: what is read of it, and what is not."""
    tested: bool = True
    """False where no file could be had: it goes through its library, untested here."""


class Matcher(Protocol):
    """Signature of `Reader.matches`."""

    def __call__(self, file: SourceFile) -> bool: ...


class Finder(Protocol):
    """Signature of `Companions.of`: URIs."""

    def __call__(self, file: SourceFile) -> Sequence[str]: ...


class Lister(Protocol):
    """Signature of `Reader.members`: names, which follow `::`; or the files of which each part alone is made."""

    def __call__(self, file: SourceFile, opening: Opening) -> "Sequence[str | Joined]": ...


class Opener(Protocol):
    """Signature of `Reader.open`."""

    def __call__(self, file: SourceFile, opening: Opening) -> Source: ...


def opened_by(module: str) -> Opener:
    """`Reader.open` of a format whose library is imported at the top of the module that reads it.

    Args:
        module: one of `segcore.sources` with `open_file(file, opening)`; imported with the first file.
    """

    def open_file(file: SourceFile, opening: Opening) -> Source:
        source: Source = importlib.import_module(f"segcore.sources.{module}").open_file(file, opening)
        return source

    return open_file


class decoding:  # noqa: N801 - reads as a statement: `with decoding(...)`
    """Turns whatever a format library raises into a SourceError of one line; our own errors pass, as does MemoryError.

    Format libraries raise anything on damaged files (ZeroDivisionError, struct.error, their own), hence the breadth.
    """

    def __init__(self, uri: str, where: str = "") -> None:
        self.what = f"{uri}: cannot be read{f' {where}' if where else ''}"

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None or isinstance(error, (SegcoreError, MemoryError)) or not isinstance(error, Exception):
            return
        text = " ".join(str(error.__cause__ or error).split())[:300]  # GDAL says "see previous exception"
        hint = "the file is damaged, or of a kind that the reader does not know"
        raise SourceError(f"{self.what}: {hint} ({type(error).__name__}{f': {text}' if text else ''})") from error


def check_shape(uri: str, axes: tuple[str, ...], shape: Ints, dtype: np.dtype[Any], limits: Limits) -> None:
    """Refuse an image that is empty, over the limits, or of a type that the store does not hold.

    Raises:
        SourceError: one line with the file, the limit and what it asks for.
    """
    sides = dict(zip(axes, shape, strict=True))
    said = " x ".join(f"{axis} {n}" for axis, n in sides.items())
    if any(n < 1 for n in shape):
        raise SourceError(f"{uri}: the image has no pixels ({said})")
    checks = (
        ("max_px", math.prod(shape[-2:]), limits.max_px),
        ("max_channels", sides["c"], limits.max_channels),
        ("max_pages", sides.get("z", 1) * sides.get("t", 1), limits.max_pages),
    )
    for name, got, allowed in checks:
        if got > allowed:
            raise SourceError(f"{uri}: its header asks for {said}, over the limit {name} = {allowed}; got {got}")
    if dtype.name not in DTYPES:
        raise SourceError(f"{uri}: pixels of type {dtype.name} are not read; expected one of {', '.join(DTYPES)}")


def _place(axes: tuple[str, ...], window: Window) -> str:
    """A window for a person: "y 0..256, x 512..768"."""
    parts = zip(axes, window.start, window.stop, strict=True)
    return ", ".join(f"{axis} {a}..{b}" for axis, a, b in parts if axis in "yx" or window.ndim > 2)


def default_channels(count: int) -> tuple[str, ...]:
    """Names for channels that have none: grey, red-green-blue, or numbers."""
    if count == 1:
        return ("grey",)
    return ("red", "green", "blue") if count == 3 else tuple(f"channel {i}" for i in range(count))
