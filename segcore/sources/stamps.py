"""Stamps: what tells a changed source from an unchanged one without reading it; and the digest that reads it all.

Both cover the files that are one image with the source (`segcore.sources.companions`).
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec

from segcore.errors import SourceError
from segcore.sources import companions
from segcore.sources.files import MEMBER, SourceFile, check_scheme, is_remote, split_member
from segcore.sources.joined import Joined

BLOCK_BYTES = 8 << 20

_VERSIONS = ("ETag", "etag", "LastModified", "Last-Modified", "last_modified", "mtime")
"""What the file systems of S3, Google, Azure and HTTP call what changes with an object."""
_ESCAPE = "\\udc"
"""What a byte that is not UTF-8 begins with in a name that is escaped."""


def stamp(uri: str | Joined) -> dict[str, Any]:
    """Size, and mtime or ETag, of a file; of a folder, or of several files, the sums, and a digest over all of them.

    Raises:
        SourceError: if there is no such file.
    """
    if isinstance(uri, Joined):
        return {"uri": canonical_uri(uri.uri), **_together([stamp(part) for part in uri.parts]), "how": uri.how}
    own = _stamp(uri)
    beside = [_stamp(part) for part in companions(uri)]
    return {"uri": own["uri"], **_together([own, *beside])} if beside else own


def _together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The stamp of several files; no file's `uri`."""
    newest = max((part["mtime_ns"] for part in parts if part.get("mtime_ns") is not None), default=None)
    return {"size": _total(parts), "mtime_ns": newest, "version": _digest_of(parts)}


def _stamp(uri: str) -> dict[str, Any]:
    """Of one file or folder alone."""
    place = split_member(uri)[0]
    if _ESCAPE in place:
        raise SourceError(f"{uri}: expected a file name in UTF-8, got other bytes; rename the file")
    try:
        if not is_remote(place):
            return _local_stamp(uri, place)
        check_scheme(place)
        system, key = fsspec.core.url_to_fs(place)
        if "http" in system.protocol and key.rstrip("/").endswith(".zarr"):  # no listing: of its metadata alone
            marks = [f"{key.rstrip('/')}/{mark}" for mark in ("zarr.json", ".zattrs", ".zgroup")]
            key = next(filter(system.exists, marks), marks[0])
        system.invalidate_cache()  # a listing that is kept would hide a change
        info = system.info(key)
        if info.get("type") == "directory":
            parts = [_remote_stamp(name, found) for name, found in sorted(system.find(key, detail=True).items())]
            return {"uri": uri, "size": _total(parts), "version": _digest_of(parts)}
        return _remote_stamp(uri, info)
    except SourceError:
        raise
    except Exception as error:  # every file system behind fsspec has errors of its own
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise SourceError(f"{uri}: cannot be opened ({' '.join(str(reason).split())})") from error


def canonical_uri(uri: str) -> str:
    """One spelling per source: an absolute path, or the URL as it is; with the part behind `::`, where there is one."""
    if is_remote(uri):
        return uri
    place, sign, member = uri.removeprefix("file://").partition(MEMBER)
    return str(Path(f"{local_path(place).absolute()}{sign if place else f'/{sign}'}{member}"))


def local_path(name: str) -> Path:
    """A path; `~` at its beginning is somebody's home, or, where nobody is called so, part of the name."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def is_local_folder(uri: str) -> bool:
    """True for a folder on this machine; False also for names that no file can have."""
    try:
        return not is_remote(uri) and Path(canonical_uri(uri)).is_dir()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def content_digest(uri: str | Joined, beat: Callable[[], None]) -> str:
    """SHA-256 of a file's bytes; of several files, of their names and digests.

    Args:
        uri: file, folder or joined files.
        beat: called after each block.
    """
    if isinstance(uri, Joined):
        return _digest_of([content_digest(part, beat) for part in uri.parts])
    own = _content_digest(uri, beat)
    beside = [_content_digest(part, beat) for part in companions(uri)]
    return _digest_of([own, *beside]) if beside else own


def _content_digest(uri: str, beat: Callable[[], None]) -> str:
    """Of one file or folder alone."""
    file = SourceFile(split_member(uri)[0])
    if file.is_folder:
        names = file.tree()
        if not names:  # a web server lists no folders: what the stamp tells has to do
            return _digest_of(stamp(uri))
        return _digest_of([[name, _file_digest(file.child(name), beat)] for name in names])
    return _file_digest(file, beat)


def _file_digest(file: SourceFile, beat: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with file.open() as opened:
        beat()
        while block := opened.read(BLOCK_BYTES):
            digest.update(block)
            beat()
    return digest.hexdigest()


def _local_stamp(uri: str, place: str) -> dict[str, Any]:
    path = Path(canonical_uri(place))
    if not path.is_dir():
        stat = path.stat()
        return {"uri": canonical_uri(uri), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    os.scandir(path).close()  # raises where it must not be read
    found = list(_files_below(path))
    parts = [{"uri": name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns} for name, stat in found]
    newest = max((stat.st_mtime_ns for _, stat in found), default=None)
    return {"uri": canonical_uri(uri), "size": _total(parts), "mtime_ns": newest, "version": _digest_of(parts)}


def _files_below(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            yield str(path.relative_to(folder)), path.stat()


def _remote_stamp(uri: str, info: dict[str, Any]) -> dict[str, Any]:
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), None)
    return {"uri": uri, "size": info.get("size"), "version": version}


def _total(parts: list[dict[str, Any]]) -> int:
    return sum(part["size"] or 0 for part in parts)


def _digest_of(parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
