"""Output: the folder that is exported to, local or remote; *files and folders* take their place when they are whole."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import fsspec

from segcore.errors import StoreError

SCRATCH = ".segcore-"
"""What the names of scratch folders begin with."""
SCRATCH_S = 3 * 86400.0
"""A scratch folder of this age was left by an export that was killed: no image takes that long."""
UNFINISHED = ".segcore-unfinished"
"""A file in a remote folder as long as it is not whole."""


class Output:
    """The folder that is exported to: local, or remote through fsspec."""

    def __init__(self, uri: str) -> None:
        try:
            self._remote, self._root = fsspec.core.url_to_fs(uri)
            self._folder = None if "://" in uri and not uri.startswith("file://") else Path(self._root)
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
            self._remote.invalidate_cache()  # a listing that is kept would hide a change
        except (OSError, ValueError, ImportError) as error:
            raise StoreError(f"output {uri}: cannot be used as a folder ({' '.join(str(error).split())})") from error
        self._uri = uri.rstrip("/")
        _sweep(self._folder or Path(tempfile.gettempdir()))

    @property
    def uri(self) -> str:
        """The folder's path or URL."""
        return str(self._folder) if self._folder is not None else self._uri

    def describe(self, name: str) -> str:
        return str(self._folder / name) if self._folder is not None else f"{self._uri}/{name}"

    def exists(self, name: str) -> bool:
        return bool(self._remote.exists(f"{self._root}/{name}"))

    def is_unfinished(self, name: str) -> bool:
        """True of a remote folder whose upload was killed."""
        return self.exists(f"{name}/{UNFINISHED}")

    def open(self, name: str) -> IO[bytes]:
        stream: IO[bytes] = self._remote.open(f"{self._root}/{name}", "rb")
        return stream

    def remove(self, name: str) -> None:
        """A file that may not be there."""
        if self.exists(name):
            self._remote.rm_file(f"{self._root}/{name}")

    @contextlib.contextmanager
    def place(self, name: str, mark: str | None = None) -> Iterator[Path]:
        """A path to write a file or a folder to, in a scratch folder of its own; on an error all of it goes away.

        Args:
            name: what it is called in the end. A file takes the place of an older one in one step.
            mark: of a folder, the file in it that says that it is whole: uploaded last, and deleted first.
        """
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self._folder) as raw:
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
        else:
            self._upload_folder(temporary, target, mark)

    def _upload_folder(self, temporary: Path, target: str, mark: str) -> None:
        """Parts, then the mark; as long as it is not whole, another file says so, so that a rerun begins it anew."""
        marked, unfinished = f"{target}/{mark}", f"{target}/{UNFINISHED}"
        older = set(self._remote.find(target)) - {unfinished} if self._remote.exists(target) else set()
        self._remote.makedirs(target, exist_ok=True)
        self._remote.pipe_file(unfinished, b"")
        if marked in older:
            self._remote.rm_file(marked)
        if parts := sorted(older - {marked}):
            self._remote.rm(parts)
        files = [path for path in temporary.rglob("*") if path.is_file() and path != temporary / mark]
        keys = [f"{target}/{path.relative_to(temporary).as_posix()}" for path in files]
        for folder in sorted({key.rpartition("/")[0] for key in keys}):
            self._remote.makedirs(folder, exist_ok=True)
        self._remote.put([str(path) for path in files], keys)
        self._remote.put_file(str(temporary / mark), marked)
        self._remote.rm_file(unfinished)


def _sweep(folder: Path) -> None:
    """Remove what exports left that were killed."""
    for found in folder.glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):
            if time.time() - found.stat().st_mtime > SCRATCH_S:
                shutil.rmtree(found)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
