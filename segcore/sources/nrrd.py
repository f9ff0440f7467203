"""NRRD (.nrrd, and .nhdr with its data beside it): the header through pynrrd (extra `volumes`), voxels in windows.

Axes are stored fastest first: those in space are x, y, z in that order; one that is not (a list, colours, time) is the
channels. Source: the NRRD format definition (teem.sourceforge.net/nrrd/format.html).
"""

import io
import math
import warnings
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources.anatomy import Matrix, affine_of, matrix_of, spacing_of
from segcore.sources.base import (
    Companions,
    Format,
    Limits,
    Opening,
    Pixels,
    Reader,
    Source,
    SourceInfo,
    check_shape,
    default_channels,
)
from segcore.sources.files import SourceFile
from segcore.sources.raw import NARROWED, Codec, Layout, RawArray, check_size, narrowed
from segcore.spatial import METERS_PER_UNIT, UNIT_NAMES

MAGIC = b"NRRD000"

CODECS: dict[str, Codec] = {"raw": "plain", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}

TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
"""Type codes, and the names that a header may give them."""

IN_SPACE = ("domain", "space")
COLORS = {"rgb-color": ("red", "green", "blue"), "rgba-color": ("red", "green", "blue", "alpha")}

SPACE_LETTERS = {"right": "R", "left": "L", "anterior": "A", "posterior": "P", "superior": "S", "inferior": "I"}


class NrrdSource(Source):
    """A volume, or a picture."""

    def __init__(self, file: SourceFile, limits: Limits) -> None:
        self.uri = file.uri
        library = _library(file.uri)
        header, num_bytes = _header(file, library, limits)
        dtype = _dtype(file.uri, header)
        stored = _axes(file.uri, header)
        axes = ("c", "z", "y", "x") if "z" in stored.axes else ("c", "y", "x")
        sides = dict(zip(stored.axes, stored.shape, strict=True))
        shape = tuple(sides[axis] for axis in axes)
        result = np.dtype(NARROWED.get(dtype.name, dtype.name))
        check_shape(file.uri, axes, shape, result, limits)
        data, layout = _data(file, header, num_bytes, dtype, stored)
        check_size(file.uri, layout, data.num_bytes, limits)
        self._data = data
        self._array = RawArray(data, layout, axes)
        directions, details = _directions(header, stored)
        matrix = _to_ras(header, directions)
        scale = _mm(header)
        if matrix is not None:
            matrix[:3] *= scale or 1.0
        affine = None if matrix is None else affine_of(matrix)
        spacing = None
        if scale is not None:
            spacing = spacing_of([side * scale for side in _sides(header, directions, stored)], axes)
        names = COLORS.get(stored.kind)
        self.info = SourceInfo(
            uri=file.uri,
            reader="nrrd",
            reader_version=f"pynrrd {library.__version__}",
            axes=axes,
            shape=shape,
            dtype=result.name,
            channels=names if names and len(names) == shape[0] else _names(shape[0]),
            spacing=spacing,
            affine=affine,
            num_bytes=file.num_bytes if data is file else file.num_bytes + data.num_bytes,
            details=details | {"stored": dtype.str, "encoding": layout.codec},
        )

    def _read(self, window: Window) -> Pixels:
        pixels = self._array.read(window)
        return narrowed(pixels, self.info.dtype) if pixels.dtype.name in NARROWED else pixels

    def close(self) -> None:
        self._array.close()


@dataclass(frozen=True)
class _Stored:
    """How the axes of the file are those of the image."""

    axes: tuple[str, ...]
    """Slowest first, as in `Layout`."""
    shape: tuple[int, ...]
    in_space: tuple[int, ...]
    """Numbers of the axes x, y and z in the header."""
    kind: str
    """What the header calls the axis of the channels; "" where there is none."""


def _library(uri: str) -> Any:
    """pynrrd, or the line that says what to install."""
    try:
        import nrrd
    except ImportError as error:
        raise SourceError(f"{uri}: NRRD needs the extra `volumes`: pip install 'segcore[volumes]'") from error
    return nrrd


def _header(file: SourceFile, library: Any, limits: Limits) -> tuple[dict[str, Any], int]:
    """The fields, and the length of the header: all before the first empty line."""
    with file.open() as opened:
        text = _header_text(file.uri, opened, limits.max_metadata_bytes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = dict(library.read_header(io.BytesIO(text)))
    missing = [name for name in ("type", "dimension", "sizes", "encoding") if name not in header]
    if missing or len(header["sizes"]) != header["dimension"]:
        what = f"has no field '{missing[0]}'" if missing else "has another number of sizes than of dimensions"
        raise SourceError(f"{file.uri}: its header {what}; the file is damaged")
    return header, len(text)


def _header_text(uri: str, opened: IO[bytes], max_bytes: int) -> bytes:
    lines: list[bytes] = []
    num_bytes = 0
    while line := opened.readline(max_bytes - num_bytes):
        lines.append(line)
        num_bytes += len(line)
        if not line.strip():
            break
        if num_bytes >= max_bytes:
            raise SourceError(f"{uri}: its header is over the limit max_metadata_bytes = {max_bytes}")
    return b"".join(lines)


def _dtype(uri: str, header: dict[str, Any]) -> np.dtype[Any]:
    """The type of a stored value, with its byte order."""
    code = next((code for code, names in TYPES.items() if header["type"].lower() in names), None)
    if code is None:
        raise SourceError(
            f"{uri}: values of type '{header['type'][:40]}' are not read; expected whole numbers or floats"
        )
    order = {"little": "<", "big": ">"}.get(str(header.get("endian", "")).lower())
    if order is None and code[1] != "1":
        raise SourceError(f"{uri}: its header does not say the byte order ('endian: little' or 'endian: big')")
    return np.dtype(f"{order or '<'}{code}")


def _axes(uri: str, header: dict[str, Any]) -> _Stored:
    """Which axis is which; an axis of one pixel outside space counts for nothing."""
    sizes = [int(n) for n in header["sizes"]]
    kinds = [str(kind).lower() for kind in header.get("kinds", [])]
    directions = header.get("space directions")
    if directions is not None and len(directions) == len(sizes):
        in_space = [i for i, row in enumerate(directions) if row is not None and np.isfinite(row).all()]
    elif len(kinds) == len(sizes):
        in_space = [i for i, kind in enumerate(kinds) if kind in IN_SPACE]
    else:
        in_space = list(range(len(sizes)))
    others = [i for i in range(len(sizes)) if i not in in_space]
    channels = [i for i in others if sizes[i] != 1]
    if len(in_space) not in (2, 3) or len(channels) > 1:
        said = " x ".join(f"{n} ({kinds[i] if i < len(kinds) else '?'})" for i, n in enumerate(sizes))
        raise SourceError(
            f"{uri}: expected two or three axes in space and at most one of channels, got {said[:200]}; "
            "name them in the field 'kinds'"
        )
    flat = len(in_space) == 3 and sizes[in_space[2]] == 1
    names = dict(zip(in_space, ("x", "y") if flat else ("x", "y", "z"), strict=False))
    names |= dict.fromkeys(channels, "c")
    # Axes of one pixel lie nowhere: they can be left out, and a channel put in front.
    stored = [i for i in reversed(range(len(sizes))) if i in names]
    axes, shape = tuple(names[i] for i in stored), tuple(sizes[i] for i in stored)
    if not channels:
        axes, shape = ("c", *axes), (1, *shape)
    kind = kinds[channels[0]] if channels and channels[0] < len(kinds) else ""
    return _Stored(axes, shape, tuple(in_space), kind)


def _data(
    file: SourceFile, header: dict[str, Any], header_bytes: int, dtype: np.dtype[Any], stored: _Stored
) -> tuple[SourceFile, Layout]:
    """The file that holds the values, and how they lie in it."""
    encoding = str(header["encoding"]).lower()
    if encoding not in CODECS:
        raise SourceError(f"{file.uri}: the encoding '{encoding[:40]}' is not read; expected raw, gzip or bzip2")
    if int(header.get("line skip", header.get("lineskip", 0))):
        raise SourceError(f"{file.uri}: data behind skipped lines ('line skip') is not read; save it as one .nrrd")
    name = header.get("data file", header.get("datafile"))
    data, begin = (file, header_bytes) if name is None else (_beside(file, str(name)), 0)
    skip, size = int(header.get("byte skip", header.get("byteskip", 0))), math.prod(stored.shape) * dtype.itemsize
    codec = CODECS[encoding]
    if skip < 0 and (skip != -1 or codec != "plain"):
        raise SourceError(f"{file.uri}: its header is damaged: 'byte skip: {skip}'")
    if codec != "plain":
        return data, Layout(stored.axes, stored.shape, dtype, skip, codec, begin)
    offset = data.num_bytes - size if skip == -1 else begin + skip  # -1: the values end with the file
    if offset < begin:
        raise SourceError(f"{file.uri}: its header asks for {size} bytes, the file has {data.num_bytes}; it is cut off")
    return data, Layout(stored.axes, stored.shape, dtype, offset)


def _beside(file: SourceFile, name: str) -> SourceFile:
    """The data file of a detached header: a plain name in the same folder, nothing else."""
    if name.upper().startswith("LIST") or "%" in name:
        raise SourceError(f"{file.uri}: data in several files is not read; save it as one .nrrd")
    if not name.strip(".") or any(sign in name for sign in "/\\:\0"):
        raise SourceError(f"{file.uri}: its data file must lie beside it under a plain name, got '{name[:100]}'")
    return file.beside(name)


def _directions(header: dict[str, Any], stored: _Stored) -> tuple[list[Any] | None, dict[str, Any]]:
    """Steps along x, y (and z) in the header's space, if it gives them; and what `inspect` shows."""
    details: dict[str, Any] = {"kind": "NRRD", "space": str(header.get("space", ""))[:40] or None}
    rows = header.get("space directions")
    if rows is None or len(rows) != header["dimension"]:
        details["note"] = "no 'space directions': the file does not say how the volume lies in the patient"
        return None, details
    return [np.asarray(rows[i], dtype=np.float64) for i in stored.in_space], details


def _to_ras(header: dict[str, Any], directions: list[Any] | None) -> Matrix | None:
    """Matrix to RAS in the header's unit; None where the space is not the patient's, or not of three dimensions."""
    space = str(header.get("space", "")).lower().removesuffix("-time")
    letters = "".join(SPACE_LETTERS.get(word, "?") for word in space.split("-")) if "-" in space else space.upper()
    origin = header.get("space origin")
    if directions is None or origin is None or len(origin) != 3 or any(len(row) != 3 for row in directions):
        return None
    if letters not in ("RAS", "LAS", "LPS"):
        return None
    columns = [*directions]
    if len(columns) == 2:
        normal = np.cross(columns[0], columns[1])
        columns.append(normal / (np.linalg.norm(normal) or 1.0))
    flips = np.diag([1.0 if letter == ras else -1.0 for letter, ras in zip(letters, "RAS", strict=True)] + [1.0])
    return np.asarray(flips @ matrix_of(columns, origin))


def _sides(header: dict[str, Any], directions: list[Any] | None, stored: _Stored) -> list[float]:
    """Length of a step along x, y and z."""
    if directions is not None:
        return [float(np.linalg.norm(row)) for row in directions]
    given = header.get("spacings", [])
    return [float(given[i]) if i < len(given) else math.nan for i in stored.in_space]


def _mm(header: dict[str, Any]) -> float | None:
    """Millimetres in the header's unit; in the patient's space mm where none is given, else unknown."""
    units = {str(unit) for unit in header.get("space units", header.get("units", [])) if str(unit)}
    if not units:
        return 1.0 if "space" in header else None
    metres = METERS_PER_UNIT.get(UNIT_NAMES.get(units.pop(), ""))
    return None if metres is None or units else metres * 1e3


def _names(count: int) -> tuple[str, ...]:
    """Channel names: three volumes are no colours."""
    return default_channels(1) if count == 1 else tuple(f"channel {i}" for i in range(count))


def _data_files(file: SourceFile) -> list[str]:
    """The data file that a detached header names, found in its text; only the first bytes are looked at."""
    lines = (line.partition(":") for line in file.head.decode("latin-1").splitlines())
    names = (value.strip() for field, _, value in lines if field.strip().lower() in ("data file", "datafile"))
    return [_beside(file, name).uri for name in names]


def _open(file: SourceFile, opening: Opening) -> Source:
    if file.member is not None:
        raise SourceError(f"{file.uri}: an NRRD is one image; name it without ::{file.member}")
    return NrrdSource(file, opening.limits)


READER = Reader(
    name="NRRD",
    rank=15,
    matches=lambda file: file.head.startswith(MAGIC),
    open=_open,
    companions=Companions((".nhdr",), _data_files),
    formats=(Format("NRRD", (".nrrd", ".nhdr"), "raw, gzip, bzip2; the data file of a .nhdr has to lie beside it"),),
    extra="volumes",
)
