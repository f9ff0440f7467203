"""Files: a source's bytes, wherever they lie: a local path, or a URL read through fsspec."""

import contextlib
import os
import shutil
import tempfile
from functools import cached_property
from pathlib import Path
from typing import IO, cast

import fsspec

from segcore.errors import SourceError
from segcore.sources.tiff_header import TiffHeader, read_header

PROTOCOLS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"} | {
    "http": "aiohttp",
    "https": "aiohttp",
    "memory": "fsspec",
}
"""URL schemes that are opened, and the package that fsspec needs for each. Others (zip::, ssh...) are refused."""

HEAD_BYTES = 4096
BLOCK_BYTES = 2**20


def is_known_scheme(uri: str) -> bool:
    """True for a URL that may be asked for at all."""
    return uri.partition("://")[0] in PROTOCOLS


def check_scheme(uri: str) -> None:
    """Refuse a URL whose scheme is not on the list, before anybody is asked.

    Raises:
        SourceError: naming those that are.
    """
    if not is_known_scheme(uri):
        known = ", ".join(sorted(PROTOCOLS))
        scheme = uri.partition("://")[0]
        raise SourceError(f"{uri}: '{scheme}://' is not read; expected a local path or one of {known}")


class SourceFile:
    """One file: its name, size and first bytes; opened or fetched when a reader asks.

    Raises:
        SourceError: if it is missing, empty, a folder, or of a scheme that is not read.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._fetched: Path | None = None
        scheme, separator, _ = uri.partition("://")
        self._remote = bool(separator) and scheme != "file"
        try:
            if self._remote:
                self.num_bytes = self._stat_remote(scheme)
            else:
                self._path = Path(uri.removeprefix("file://")).absolute()
                if self._path.is_dir():
                    raise SourceError(f"{uri}: is a folder; expected an image file")
                self.num_bytes = self._path.stat().st_size
            if self.num_bytes == 0:
                raise SourceError(f"{uri}: the file is empty; copy it again from where it came")
            with self.open() as opened:
                self.head = opened.read(HEAD_BYTES)
        except SourceError:
            raise
        except Exception as error:  # clients of object stores raise their own: no credentials...
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise SourceError(f"{uri}: cannot be opened ({' '.join(reason.split())})") from error

    def _stat_remote(self, scheme: str) -> int:
        """Size of the remote file."""
        check_scheme(self.uri)
        try:
            self._fs, self._key = fsspec.core.url_to_fs(self.uri)
            info = self._fs.info(self._key)
        except ImportError as error:
            package = PROTOCOLS[scheme]
            raise SourceError(f"{self.uri}: {scheme}:// needs the package {package}: pip install {package}") from error
        if info.get("type") == "directory":
            raise SourceError(f"{self.uri}: is a folder; expected an image file")
        size = info.get("size")
        if size is None:
            raise SourceError(f"{self.uri}: the server does not tell its size; download it and give the local file")
        return int(size)

    @property
    def name(self) -> str:
        """Its last path component."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    @property
    def local_path(self) -> Path | None:
        """The path, where it is a local file."""
        return None if self._remote else self._path

    def open(self) -> IO[bytes]:
        """A new file object; the caller closes it."""
        if self._remote:
            return cast(IO[bytes], self._fs.open(self._key, "rb", block_size=BLOCK_BYTES))
        return self._path.open("rb")

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
                shutil.copyfileobj(opened, copy, BLOCK_BYTES)
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
        """The first TIFF directory, or None if this is no TIFF.

        Raises:
            SourceError: if it says that it is a TIFF but has no whole directory.
        """
        with self.open() as opened:
            return read_header(opened, self.num_bytes, self.uri)
