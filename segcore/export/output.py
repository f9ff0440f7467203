"""Output: the folder that is exported to, local or remote; *files and folders* take their place when they are whole."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import fsspec

from segcore.errors import StoreError


class Output:
    """The folder that is exported to: local, or remote through fsspec."""

    def __init__(self, uri: str) -> None:
        try:
            self._remote, self._root = fsspec.core.url_to_fs(uri)
            self._folder = None if "://" in uri and not uri.startswith("file://") else Path(self._root)
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError, ImportError) as error:
            raise StoreError(f"output {uri}: cannot be used as a folder ({' '.join(str(error).split())})") from error
        self._uri = uri.rstrip("/")

    @property
    def uri(self) -> str:
        """The folder's path or URL."""
        return str(self._folder) if self._folder is not None else self._uri

    def describe(self, name: str) -> str:
        return str(self._folder / name) if self._folder is not None else f"{self._uri}/{name}"

    def exists(self, name: str) -> bool:
        return bool(self._remote.exists(f"{self._root}/{name}"))

    def open(self, name: str) -> IO[bytes]:
        stream: IO[bytes] = self._remote.open(f"{self._root}/{name}", "rb")
        return stream

    @contextlib.contextmanager
    def place(self, name: str, mark: str | None = None) -> Iterator[Path]:
        """A path to write a file or a folder to, in a scratch folder of its own; on an error all of it goes away.

        Args:
            name: what it is called in the end. A file takes the place of an older one in one step.
            mark: of a folder, the file in it that says that it is whole: uploaded last, and deleted first.
        """
        with tempfile.TemporaryDirectory(prefix=".segcore-", dir=self._folder) as raw:
            scratch = Path(raw)
            temporary = scratch / name
            yield temporary
            if self._folder is None:
                self._upload(temporary, name, mark)
                return
            for written in (temporary, *temporary.rglob("*")):
                _sync(written)
            target = self._folder / name
            if temporary.is_dir() and target.is_dir():
                target.rename(scratch / "replaced")
            temporary.replace(target)
            _sync(self._folder)

    def _upload(self, temporary: Path, name: str, mark: str | None) -> None:
        target = f"{self._root}/{name}"
        if mark is None:
            self._remote.put_file(str(temporary), target)
            return
        if self._remote.exists(target):
            for key in (f"{target}/{mark}", target):
                if self._remote.exists(key):
                    self._remote.rm(key, recursive=key == target)
        files = [path for path in temporary.rglob("*") if path.is_file() and path != temporary / mark]
        keys = {path: f"{target}/{path.relative_to(temporary).as_posix()}" for path in (*files, temporary / mark)}
        for folder in sorted({key.rpartition("/")[0] for key in keys.values()}):
            self._remote.makedirs(folder, exist_ok=True)
        for path, key in keys.items():
            self._remote.put_file(str(path), key)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
