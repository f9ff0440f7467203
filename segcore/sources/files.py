"""Files: a source's bytes, wherever they lie: a local path, or a URL read through fsspec; and folders of them."""

import contextlib
import gzip
import io
import os
import tempfile
import weakref
import zlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import fsspec

from segcore.alive import alive
from segcore.errors import SourceError
from segcore.roots import check_source
from segcore.sources.tiff_header import TiffHeader, read_header

PROTOCOLS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"} | {
    "http": "aiohttp",
    "https": "aiohttp",
    "memory": "fsspec",
}
"""URL schemes that are opened, and the package that fsspec needs for each. Others (zip::, ssh...) are refused."""

GZIP = b"\x1f\x8b"
HEAD_BYTES = 4096
INNER_BYTES = 1024
BLOCK_BYTES = 2**20
AHEAD_BYTES = 2**18
"""Fetched of a remote file behind what is asked for: the directories of a TIFF lie all over it, and are small."""
PAGE_BYTES = io.DEFAULT_BUFFER_SIZE
"""What is read in pieces of no more than this is kept, in pages of this size."""
MAX_PAGES = 2048
"""Of a file, 16 MiB. Those that come first are kept, so that of more some are still there at the next passage."""


def is_known_scheme(uri: str) -> bool:
    """True for a URL that may be asked for at all."""
    return uri.partition("://")[0] in PROTOCOLS


def is_remote(uri: str) -> bool:
    """True for a URL that is no local file's."""
    return "://" in uri and not uri.startswith("file://")


def check_scheme(uri: str) -> None:
    """Refuse a URL whose scheme is not on the list, before anybody is asked.

    Raises:
        SourceError: naming those that are.
    """
    if not is_known_scheme(uri):
        known = ", ".join(sorted(PROTOCOLS))
        scheme = uri.partition("://")[0]
        raise SourceError(f"{uri}: '{scheme}://' is not read; expected a local path or one of {known}")


MEMBER = "::"
"""Between a file or folder and the part of it that is meant."""


def split_member(uri: str) -> tuple[str, str | None]:
    """`stack.h5::/volumes/raw` as file and part; a file whose very name holds the sign is no such pair."""
    place, sign, member = uri.partition(MEMBER)
    if not sign or "://" in member or ("://" not in uri and Path(uri).exists()):  # `zip://a::https://b` is refused
        return uri, None
    return place, member


def copy_stream(opened: IO[bytes], copy: IO[bytes]) -> None:
    """Copy all that is left of a file, with a sign of life after each block."""
    while block := opened.read(BLOCK_BYTES):
        copy.write(block)
        alive()


def _at_most(opened: IO[bytes], num_bytes: int) -> bytes:
    """What is left of a file up to so many bytes, with a sign of life after each block."""
    data = io.BytesIO()
    while block := opened.read(min(BLOCK_BYTES, num_bytes - data.tell())):
        data.write(block)
        alive()
    return data.getvalue()


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return " ".join(reason.split())


class _RangedFile(io.RawIOBase):
    """A place of its own in a remote file, whose ranges are fetched by one object for all that have it open.

    So a header is fetched once for all levels; and what is read in small pieces, as the directories of a TIFF are, is
    kept for whoever reads it again. And fsspec's own files of one address are equal to each other: GDAL's
    Python layer, which keeps open files in a table, closes the wrong one.
    """

    def __init__(self, ranges: IO[bytes], pages: dict[int, bytes]) -> None:
        self._ranges, self._pages, self._at = ranges, pages, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at}.get(whence)
        self._at = self._ranges.seek(offset if start is None else start + offset, 2 if start is None else 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._read(self._at, len(buffer)) if len(buffer) > PAGE_BYTES else self._read_in_page(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _read(self, at: int, count: int) -> bytes:
        self._ranges.seek(at)
        return self._ranges.read(count)

    def _read_in_page(self, count: int) -> bytes:
        """What is asked for up to the end of its page: whoever wants more asks again."""
        number, at = divmod(self._at, PAGE_BYTES)
        page = self._pages.get(number)
        if page is None:
            page = self._read(number * PAGE_BYTES, PAGE_BYTES)
            if len(self._pages) < MAX_PAGES:
                self._pages[number] = page
        return page[at : at + count]


class SourceFile:
    """One file: its name, size and first bytes; opened or fetched when a reader asks. Or a folder that is one image.

    Raises:
        SourceError: if it is missing, empty, of a scheme that is not read, or outside the roots.
    """

    is_folder: bool = False
    """True for a folder, which has no `head` and no `num_bytes`."""
    num_bytes: int = 0
    head: bytes = b""
    """Its first bytes."""
    member: str | None
    """The part of it that is meant: what stands behind `::`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._place, self.member = split_member(uri)
        check_source(self._place)
        self._fetched: Path | None = None
        self._ranges: Callable[[], IO[bytes] | None] = lambda: None
        self._pages: dict[int, bytes] = {}
        self._remote = is_remote(self._place)
        try:
            if self._remote:
                self._stat_remote(self._place.partition("://")[0])
            else:
                self._path = Path(self._place.removeprefix("file://")).absolute()
                self.is_folder = self._path.is_dir()
                self.num_bytes = 0 if self.is_folder else self._path.stat().st_size
            if self.is_folder:
                return
            if self.num_bytes == 0:
                raise SourceError(f"{uri}: the file is empty; copy it again from where it came")
            with self.open() as opened:
                self.head = opened.read(HEAD_BYTES)
        except SourceError:
            raise
        except Exception as error:  # clients of object stores raise their own: no credentials...
            raise SourceError(f"{uri}: cannot be opened ({_reason(error)})") from error

    def _stat_remote(self, scheme: str) -> None:
        """Size of the remote file; or that it is a folder."""
        check_scheme(self._place)
        try:
            self._fs, self._key = fsspec.core.url_to_fs(self._place)
            # A web server lists no folders, and may answer anything where one is asked for.
            if scheme in ("http", "https") and self.name.endswith(".zarr"):
                self.is_folder = True
                return
            info = self._fs.info(self._key)
        except ImportError as error:
            package = PROTOCOLS[scheme]
            raise SourceError(f"{self.uri}: {scheme}:// needs the package {package}: pip install {package}") from error
        self.is_folder = info.get("type") == "directory"
        if self.is_folder:
            return
        size = info.get("size")
        if size is None:
            raise SourceError(f"{self.uri}: the server does not tell its size; download it and give the local file")
        self.num_bytes = int(size)

    @cached_property
    def inner_head(self) -> bytes:
        """Its first bytes, of a gzip stream (`.nii.gz`) those inside; as they are where that cannot be unpacked."""
        if not self.head.startswith(GZIP):
            return self.head
        try:
            return gzip.GzipFile(fileobj=io.BytesIO(self.head)).read1(INNER_BYTES)
        except (OSError, EOFError, zlib.error):
            return self.head

    @property
    def name(self) -> str:
        """Its last path component, without the part behind `::`."""
        return self._place.rstrip("/").rsplit("/", 1)[-1]

    def has(self, name: str) -> bool:
        """True if this folder holds a file of that name (`/`-separated below it)."""
        if not self._remote:
            return (self._path / name).is_file()
        return bool(self._fs.isfile(f"{self._key.rstrip('/')}/{name}"))

    def names(self) -> list[str]:
        """Names of the files directly in this folder, sorted."""
        if not self._remote:
            return sorted(found.name for found in os.scandir(self._path) if found.is_file())
        listed = self._fs.ls(self._key, detail=True)
        return sorted(str(found["name"]).rsplit("/", 1)[-1] for found in listed if found.get("type") == "file")

    def tree(self) -> list[str]:
        """Names of all files below this folder that are not empty, sorted; none where a server lists no folders."""
        if not self._remote:
            below = (Path(at) / name for at, _, names in os.walk(self._path) for name in names)
            return sorted(found.relative_to(self._path).as_posix() for found in below if found.stat().st_size)
        if self._place.startswith("http"):
            return []
        found = self._fs.find(self._key, detail=True)
        key = self._key.rstrip("/")
        return sorted(str(name).removeprefix(f"{key}/") for name, info in found.items() if info.get("size"))

    def child(self, name: str) -> "SourceFile":
        """A file below this folder."""
        return SourceFile(f"{self._place.rstrip('/')}/{name}")

    @property
    def local_path(self) -> Path | None:
        """The path, where it is a local file."""
        return None if self._remote else self._path

    def beside(self, name: str) -> "SourceFile":
        """A file or folder in the folder that holds this one."""
        folder, slash, _ = self._place.rstrip("/").rpartition("/")
        return SourceFile(f"{folder}{slash}{name}")

    def open(self) -> IO[bytes]:
        """A new file object; the caller closes it."""
        if not self._remote:
            return self._path.open("rb")
        ranges = self._ranges()
        if ranges is None:
            ranges = cast(IO[bytes], self._fs.open(self._key, "rb", block_size=AHEAD_BYTES))
            if isinstance(ranges, io.BytesIO):  # `memory://` gives one object to all, with one position
                return io.BytesIO(ranges.getvalue())
            self._ranges = weakref.ref(ranges)
        return io.BufferedReader(_RangedFile(ranges, self._pages))

    def whole(self) -> bytes:
        """All of its bytes, in one answer: a web server need not give ranges.

        Raises:
            SourceError: if the connection breaks, or there are more or fewer bytes than the server told.
        """
        try:
            with self._stream() as opened:
                data = _at_most(opened, self.num_bytes + 1)
        except SourceError:
            raise
        except Exception as error:  # clients of object stores raise their own
            raise SourceError(f"{self.uri}: cannot be read ({_reason(error)})") from error
        if len(data) != self.num_bytes:
            got = "more" if len(data) > self.num_bytes else len(data)
            raise SourceError(f"{self.uri}: expected {self.num_bytes} bytes, got {got}; download it again")
        return data

    def _stream(self) -> IO[bytes]:
        """Its bytes from the first to the last."""
        if self._place.startswith(("http://", "https://")):
            return cast(IO[bytes], self._fs.open(self._key, "rb", block_size=0))
        return self.open()

    def fetched(self, max_bytes: int) -> Path:
        """A local path: of the file itself, or of a temporary copy that `discard` removes.

        Raises:
            SourceError: if a copy would be larger than `max_bytes`.
        """
        if not self._remote:
            return self._path
        if self._fetched is None:
            if self.num_bytes > max_bytes:
                raise SourceError(
                    f"{self.uri}: {self.num_bytes} bytes are over the limit max_download_bytes = {max_bytes}"
                )
            handle, path = tempfile.mkstemp(prefix="segcore-source-", suffix=self._suffix)
            self._fetched = Path(path)
            with os.fdopen(handle, "wb") as copy, self.open() as opened:
                copy_stream(opened, copy)
        return self._fetched

    @property
    def _suffix(self) -> str:
        """The name's suffix, if it is a harmless one: some libraries look at it."""
        suffix = Path(self.name).suffix
        return suffix if suffix[1:].isalnum() else ""

    def discard(self) -> None:
        """Remove the temporary copy, if there is one."""
        if self._fetched is not None:
            with contextlib.suppress(OSError):
                self._fetched.unlink()
            self._fetched = None

    @cached_property
    def tiff(self) -> TiffHeader | None:
        """The first TIFF directory, or None if this is no TIFF (a folder is none).

        Raises:
            SourceError: if it says that it is a TIFF but has no whole directory.
        """
        if self.is_folder:
            return None
        with self.open() as opened:
            return read_header(opened, self.num_bytes, self.uri)
