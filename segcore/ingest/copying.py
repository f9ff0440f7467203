"""Copying: a source, byte for byte, into the workspace: `sources/<image_id>/`."""

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from segcore.errors import SourceError
from segcore.ingest.entries import Entry
from segcore.sources import Joined, companions
from segcore.sources.files import MEMBER, SourceFile, split_member
from segcore.store import Workspace

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
HIDDEN = (".zarray", ".zattrs", ".zgroup", ".zmetadata")
"""Files of a Zarr store, the only hidden ones that are copied."""


def put_copy(workspace: Workspace, entry: Entry, beat: Callable[[], None]) -> str | Joined:
    """Copy a file, the files of a folder, or joined files.

    Args:
        workspace: where to.
        entry: the source.
        beat: called after each file.

    Returns:
        The copy as a key of the workspace, with the part behind `::` where the source has one; or as joined keys.

    Raises:
        SourceError: if it cannot be read, a name in its folder is none that a key may have, or a link in it leads out.
    """
    prefix = f"sources/{entry.image_id}"
    workspace.objects.delete_prefix(prefix)  # of an older version
    if entry.joined is not None:
        folder, member = split_member(entry.joined.uri)
        for part in entry.joined.parts if member is not None else ():
            _check_inside(Path(part.removeprefix("file://")), SourceFile(folder))
        places = ((uri, f"{prefix}/{i:05d}") for i, uri in enumerate(entry.joined.parts))
        parts = [_put_part(workspace, uri, place, beat) for uri, place in places]
        return entry.joined.model_copy(update={"uri": prefix, "parts": tuple(parts)})
    if companions(entry.source):
        raise SourceError(f"{entry.source}: is kept in several files, which cannot be copied as one; use --link")
    return _put_part(workspace, entry.source, prefix, beat)


def _put_part(workspace: Workspace, uri: str, prefix: str, beat: Callable[[], None]) -> str:
    """Copy what is named, and give the copy's key with the part behind `::`."""
    place, member = split_member(uri)
    copied = _put(workspace, SourceFile(place), prefix, beat)
    return copied if member is None else f"{copied}{MEMBER}{member}"


def _put(workspace: Workspace, file: SourceFile, prefix: str, beat: Callable[[], None]) -> str:
    """Copy one file, or one folder; names stay where they are harmless (bands are called by them)."""
    if not file.is_folder:
        suffix = PurePosixPath(file.name).suffix
        name = file.name if SAFE_NAME.fullmatch(file.name) else f"source{suffix if suffix[1:].isalnum() else ''}"
        _put_file(workspace, file, f"{prefix}/{name}", beat)
        return f"{prefix}/{name}"
    for at, folders, names in os.walk(file.local_path or ""):
        for name in (*folders, *names):
            _check_inside(Path(at, name), file)
    for name in file.tree():
        if not all(SAFE_NAME.fullmatch(part) or part in HIDDEN for part in name.split("/")):
            raise SourceError(f"{file.uri}: holds a file called {name!r}, which cannot be copied; rename it, or --link")
        _put_file(workspace, file.child(name), f"{prefix}/{name}", beat)
    return prefix


def _check_inside(path: Path, folder: SourceFile) -> None:
    """Refuse a link out of a folder, as nobody named what lies there; and one to a folder, as none is followed."""
    if folder.local_path is None or not path.is_symlink():
        return
    if path.is_dir() or not path.resolve().is_relative_to(folder.local_path.resolve()):
        raise SourceError(
            f"{path}: is a link to {path.resolve()}, which is not copied with the folder {folder.name}; put the file "
            "in its place, or --link"
        )


def _put_file(workspace: Workspace, file: SourceFile, key: str, beat: Callable[[], None]) -> None:
    with file.open() as opened:
        workspace.objects.put_file(key, opened)
    beat()
