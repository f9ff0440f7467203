"""Objects: named bytes under one prefix, the same on a local folder, an object store and in memory.

Everything that segcore writes goes through this class. A put is atomic: a reader sees the old bytes, the
new ones or nothing. On a local folder it has reached the disk when `put` returns.
"""

import contextlib
import errno
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, NotFoundError
from obstore.store import LocalStore, MemoryStore, from_url

from segcore.errors import StoreError
from segcore.measure import MIB

REMOTE_SCHEMES = ("s3", "gs", "az")

_T = TypeVar("_T")
_MEMORY: dict[str, MemoryStore] = {}
_FULL = re.compile(rf"(os error |Errno )({errno.ENOSPC}|{errno.EDQUOT})\b")
"""As Rust and as Python have it."""
_AGAIN_S = (0.2, 1.0, 5.0)
"""Between tries of what obstore tries once: it repeats most things by itself."""
_PATIENCE_S = 60.0
"""After which nothing is tried again: obstore was patient already."""
_STAGING_FILE = re.compile(r"#\d+$|\.partial$")


class Objects:
    """Bytes by key below `uri`; keys are relative and `/`-separated.

    Args:
        uri: a folder, `file://`, `s3://`, `gs://`, `az://` or `memory://` (one process, for tests).

    Raises:
        StoreError: if the scheme is not known, or the store cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        scheme = urlsplit(uri).scheme if "://" in uri else ""
        self.folder: Path | None = None
        """The local folder, or None if the objects are elsewhere."""
        self.raw: Any
        """The obstore store below, which zarr's `ObjectStore` reads through."""
        if scheme in ("", "file"):
            self.folder = Path(uri.removeprefix("file://")).expanduser().absolute()
            self.uri = str(self.folder)
        elif scheme == "memory":
            self.uri = uri.rstrip("/")
            self.raw = _MEMORY.setdefault(self.uri, MemoryStore())
        elif scheme in REMOTE_SCHEMES:
            self.uri = uri.rstrip("/")
            self.raw = from_url(self.uri, client_options={"allow_http": True})
        else:
            known = ", ".join(f"{name}://" for name in (*REMOTE_SCHEMES, "file", "memory"))
            raise StoreError(f"workspace {uri}: unknown scheme '{scheme}://'; give a folder or one of {known}")
        if self.folder is not None and self.folder.is_dir():
            self.raw = LocalStore(self.folder)

    def create(self) -> None:
        """Make the folder, where there is one to make."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"workspace {self.uri}: cannot be created ({error.strerror})") from error
        self.raw = LocalStore(self.folder)

    def describe(self, key: str) -> str:
        """The path or URL of an object, for people."""
        return f"{self.uri}/{key}" if key else self.uri

    def get(self, key: str) -> bytes | None:
        """The object's bytes, or None if there is none."""
        try:
            return self._again(lambda: bytes(obstore.get(self.raw, key).bytes()))
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise self._failed("read", key, error) from error

    def open(self, key: str) -> IO[bytes] | None:
        """The object as a file to read from, part by part; None if there is none."""
        try:
            return io.BufferedReader(_Reader(obstore.open_reader(self.raw, key)))
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise self._failed("read", key, error) from error

    def size(self, key: str) -> int | None:
        """The object's size in bytes, or None if there is none."""
        try:
            return self._again(lambda: int(obstore.head(self.raw, key)["size"]))
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise self._failed("read", key, error) from error

    def newest(self, prefix: str, but: str | None = None) -> datetime | None:
        """When anything below the folder `prefix` was written last, by the store's clock; None where nothing is.

        Args:
            prefix: the folder.
            but: a part of keys that do not count.
        """
        try:
            counted = (meta for meta in self._listed(prefix) if but is None or but not in str(meta["path"]))
            return max((meta["last_modified"] for meta in counted), default=None)
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise self._failed("list", prefix, error) from error

    def put(self, key: str, data: bytes) -> None:
        """Write an object in one piece, over an older one."""
        try:
            self._again(lambda: obstore.put(self.raw, key, data))
            self._sync(key)
        except (BaseError, OSError) as error:
            raise self._failed("write", key, error, len(data)) from error

    def put_file(self, key: str, opened: IO[bytes]) -> None:
        """Write an object from an open file, piece by piece; it is there whole, or not at all."""
        try:
            obstore.put(self.raw, key, opened)
            self._sync(key)
        except (BaseError, OSError) as error:
            raise self._failed("write", key, error) from error

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object only if there is none; of many racers with data of their own exactly one gets True.

        True says that the object holds `data`: a reply can be lost after it was written, and the request then be made
        again, by us or by obstore; so one that holds the very same bytes counts as ours.

        Raises:
            StoreError: if the store has no create-only put.
        """

        def create() -> bool:
            try:
                obstore.put(self.raw, key, data, mode="create")
            except AlreadyExistsError:
                return self.get(key) == data
            self._sync(key)
            return True

        try:
            return self._again(create)
        except (BaseError, OSError) as error:
            raise self._failed("create", key, error) from error

    def delete(self, key: str) -> None:
        """Delete an object; none is fine."""
        try:
            self._again(lambda: obstore.delete(self.raw, key))
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            raise self._failed("delete", key, error) from error

    def _again(self, act: Callable[[], _T]) -> _T:
        """Do what obstore does not repeat when the connection breaks: what may have been done, or was half read.

        It does not say which errors will pass, so that a refusal takes some seconds longer; those for want of a
        permission are told at once.
        """
        until = time.monotonic() + _PATIENCE_S
        for wait_s in _AGAIN_S if self.folder is None else ():
            try:
                return act()
            except GenericError:
                if time.monotonic() > until:
                    raise
                time.sleep(wait_s)
        return act()

    def delete_prefix(self, prefix: str) -> None:
        """Delete every object below `prefix`."""
        if self.folder is not None:
            shutil.rmtree(self.folder / prefix, ignore_errors=True)  # empty folders too
        keys = [key for key, _ in self.list(prefix)]
        if keys:
            try:
                self._again(lambda: obstore.delete(self.raw, keys))
            except (NotFoundError, FileNotFoundError):
                return self.delete_prefix(prefix)  # somebody else deletes it too
            except (BaseError, OSError) as error:
                raise self._failed("delete", prefix, error) from error

    def drop_empty(self, prefix: str) -> None:
        """Remove the empty folders of `prefix`, and itself, where it is one; only a local store has such."""
        if self.folder is None:
            return
        for root, _, _ in os.walk(self.folder / prefix, topdown=False):
            with contextlib.suppress(OSError):  # not empty: it stays
                Path(root).rmdir()

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and size of every object below the folder `prefix`, page by page, in no order."""
        try:
            for meta in self._listed(prefix):
                yield str(meta["path"]), int(meta["size"])
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            raise self._failed("list", prefix, error) from error

    def _listed(self, prefix: str) -> Iterator[Any]:
        """What obstore lists; one that is cut off goes on after its last page, as remote stores list in order."""
        pages: Iterator[Any] | None = None
        last: str | None = None

        def next_page() -> Any:
            nonlocal pages
            try:
                pages = pages or iter(obstore.list(self.raw, prefix=prefix, offset=last))
                return next(pages, None)
            except GenericError:
                pages = None
                raise

        while (page := self._again(next_page)) is not None:
            yield from page
            last = page[-1]["path"]

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Names of the folders directly below `prefix`, sorted."""
        try:
            found = self._again(lambda: obstore.list_with_delimiter(self.raw, prefix=prefix)["common_prefixes"])
        except (NotFoundError, FileNotFoundError):
            return ()
        except (BaseError, OSError) as error:
            raise self._failed("list", prefix, error) from error
        return tuple(sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found))

    def sweep(self, prefix: str) -> None:
        """Remove what a killed writer left half-written below `prefix`; only a folder can have such files."""
        if self.folder is None:
            return
        for root, _, names in os.walk(self.folder / prefix):
            for name in names:
                if _STAGING_FILE.search(name):
                    Path(root, name).unlink(missing_ok=True)

    def _sync(self, key: str) -> None:
        """Bring it to the disk: obstore does not, and a power cut could lose what the ledger lists."""
        if self.folder is None:
            return
        path = self.folder / key
        for target in (path, path.parent):
            descriptor = os.open(target, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _failed(self, verb: str, key: str, error: Exception, needed: int | None = None) -> StoreError:
        if self.folder is not None and _FULL.search(str(error)):
            wanted = "" if needed is None else f", {needed / MIB:.2f} MiB are needed for this file alone"
            return StoreError(
                f"{self.describe(key)}: cannot {verb} it: the disk is full, or your share of it "
                f"({shutil.disk_usage(self.folder).free / MIB:.2f} MiB are free{wanted}); make room and run the same "
                "again: what is finished stays"
            )
        reason = " ".join(str(error).split())
        return StoreError(f"{self.describe(key)}: cannot {verb} it ({reason[:300]})")


class _Reader(io.RawIOBase):
    """obstore's reader as a file of Python."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = bytes(self._reader.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())
