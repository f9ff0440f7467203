"""NPY and NPZ: NumPy's own files. Arrays are mapped, so that a window costs its pages alone; nothing is unpickled."""

import math
import tempfile
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy_format

from segcore.alive import alive
from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources.array_axes import Arrangement, arrange, converted, read_as
from segcore.sources.base import Format, Limits, Opening, Pixels, Reader, Source, SourceInfo, default_channels
from segcore.sources.files import MEMBER, SourceFile

MAX_HEADER_BYTES = 10_000
"""As in NumPy: a header is Python text, whose parsing could otherwise take much memory."""
BLOCK_BYTES = 2**20
MAX_NAMES_SHOWN = 20
ZIP_LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True)
class Header:
    """What stands before the values of an array, checked."""

    arrangement: Arrangement
    dtype: np.dtype[Any]
    fortran_order: bool
    num_bytes: int
    """Length of the header itself."""

    @property
    def num_values(self) -> int:
        return math.prod(self.arrangement.stored_shape)


class ArraySource(Source):
    """An array of a .npy file, or of a member of a .npz."""

    def __init__(self, file: SourceFile, opening: Opening) -> None:
        self.uri = file.uri
        self._file = file
        with ExitStack() as opened:
            opened.callback(file.discard)
            header, self._values, kind = (_of_npz if is_npz(file.head) else _of_npy)(file, opening, opened)
            self._close = opened.pop_all().close
        self._arrangement = header.arrangement
        channels = self._arrangement.shape[self._arrangement.axes.index("c")]
        self.info = SourceInfo(
            uri=file.uri,
            reader="npy",
            reader_version=f"NumPy {np.__version__}",
            axes=self._arrangement.axes,
            shape=self._arrangement.shape,
            dtype=read_as(header.dtype),
            channels=default_channels(channels),
            num_bytes=file.num_bytes,
            details={
                "kind": kind,
                "axes_from": self._arrangement.axes_from,
                "stored_axes": self._arrangement.stored,
                "stored_dtype": header.dtype.name,
                "order": "F" if header.fortran_order else "C",
            },
        )

    def _read(self, window: Window) -> Pixels:
        stored = np.asarray(self._values[self._arrangement.slices(window)])
        return converted(self.uri, self._arrangement.arranged(np.array(stored), window.shape))

    def close(self) -> None:
        del self._values
        self._close()


def _of_npy(file: SourceFile, opening: Opening, opened: ExitStack) -> tuple[Header, Pixels, str]:
    """Header and values of a .npy file, whose length has to be that of its array."""
    if file.member is not None:
        raise SourceError(f"{file.uri}: a .npy file holds one array; leave out what follows {MEMBER}")
    with file.open() as stream:
        header = _read_header(file.uri, stream, opening)
    _check_length(file.uri, header, file.num_bytes)
    return header, _mapped(file.fetched(opening.limits.max_download_bytes), header, header.num_bytes), "NPY"


def _of_npz(file: SourceFile, opening: Opening, opened: ExitStack) -> tuple[Header, Pixels, str]:
    """Header and values of the member that is meant: mapped where it lies if it is stored, else unpacked to a file."""
    stream = opened.enter_context(file.open())
    archive = opened.enter_context(zipfile.ZipFile(stream))
    member = archive.getinfo(_member_name(file, archive))
    with archive.open(member) as unpacked:
        header = _read_header(file.uri, unpacked, opening)
    _check_length(file.uri, header, member.file_size)
    if member.compress_type == zipfile.ZIP_STORED and file.local_path is not None:
        stream.seek(member.header_offset)
        local = stream.read(ZIP_LOCAL_HEADER_BYTES)
        begin = member.header_offset + len(local) + sum(int.from_bytes(local[i : i + 2], "little") for i in (26, 28))
        return header, _mapped(file.local_path, header, begin + header.num_bytes), "NPZ, stored"
    _check_whole(file.uri, header, opening.limits)
    copy = tempfile.NamedTemporaryFile(prefix="segcore-source-", suffix=".npy")  # noqa: SIM115 - the stack closes it
    opened.enter_context(copy)
    left = member.file_size
    with archive.open(member) as unpacked:
        while left and (block := unpacked.read(min(BLOCK_BYTES, left))):
            copy.write(block)
            alive()
            left -= len(block)
    copy.flush()
    if left:
        raise SourceError(f"{file.uri}: the array is cut off, {left} of {member.file_size} bytes are missing")
    return header, _mapped(Path(copy.name), header, header.num_bytes), "NPZ, compressed"


def _member_name(file: SourceFile, archive: zipfile.ZipFile) -> str:
    """The member that is meant, or the only array.

    Raises:
        SourceError: naming the arrays there are.
    """
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    wanted = file.member.removesuffix(".npy") if file.member is not None else names[0] if len(names) == 1 else None
    if wanted is not None and wanted in names:
        return f"{wanted}.npy"
    listed = ", ".join(names[:MAX_NAMES_SHOWN]) + (", ..." if len(names) > MAX_NAMES_SHOWN else "")
    wrong = f"has no array '{wanted}'" if wanted is not None else "holds several arrays"
    raise SourceError(f"{file.uri}: {wrong}; name one as FILE{MEMBER}NAME, of {listed or 'none'}")


def _read_header(uri: str, stream: IO[bytes], opening: Opening) -> Header:
    """Parse with NumPy, within its limit of length; axes, limits and type are checked before the values are touched."""
    version = npy_format.read_magic(stream)
    parsers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
    if version not in parsers:  # the third is for names of fields in other alphabets
        raise SourceError(f"{uri}: NPY of version {version[0]}.{version[1]} is not read; expected 1.0 or 2.0")
    shape, fortran_order, dtype = parsers[version](stream, max_header_size=MAX_HEADER_BYTES)
    if dtype.kind not in "biufc":
        raise SourceError(f"{uri}: holds {dtype.name} (objects, records or text); expected an array of numbers")
    arrangement = arrange(uri, shape, dtype, opening.axes, None, opening.limits)
    return Header(arrangement, dtype, fortran_order, stream.tell())


def _check_length(uri: str, header: Header, num_bytes: int) -> None:
    expected = header.num_bytes + header.num_values * header.dtype.itemsize
    if num_bytes < expected:
        raise SourceError(f"{uri}: the array is cut off: expected {expected} bytes, got {num_bytes}; copy it again")


def _check_whole(uri: str, header: Header, limits: Limits) -> None:
    """A compressed member has to be unpacked whole."""
    if header.num_values > limits.max_whole_px:
        raise SourceError(
            f"{uri}: a compressed array of {header.num_values} values is over the limit max_whole_px = "
            f"{limits.max_whole_px} of formats that are decoded whole; save it with numpy.savez or numpy.save"
        )


def _mapped(path: Path, header: Header, begin: int) -> Pixels:
    order: Literal["C", "F"] = "F" if header.fortran_order else "C"
    shape = header.arrangement.stored_shape
    return np.memmap(path, header.dtype, mode="r", offset=begin, shape=shape, order=order)


def is_npz(head: bytes) -> bool:
    """True for a ZIP whose first member is an array: what NumPy writes."""
    name = head[ZIP_LOCAL_HEADER_BYTES : ZIP_LOCAL_HEADER_BYTES + int.from_bytes(head[26:28], "little")]
    return head.startswith(b"PK\x03\x04") and name.endswith(b".npy")


READER = Reader(
    name="NPY, NPZ",
    rank=30,
    matches=lambda file: file.head.startswith(npy_format.MAGIC_PREFIX) or is_npz(file.head),
    open=ArraySource,
    formats=(
        Format("NumPy array", (".npy",), "axes from `--array-axes`, else guessed from the shape"),
        Format("NumPy archive", (".npz",), "`file.npz::name`, or its only array"),
    ),
)
