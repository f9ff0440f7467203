"""Export: chooses the masks and the place, and lets the writer of the format do the rest.

A file is written beside its place under another name and renamed (or, to a remote folder, uploaded) when it
is whole, so that nobody meets half of one. Its name is the image's id, never something from the source. Which
mask it holds is stamped into it, so that a rerun keeps what is right and never takes an old mask for a new one.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import fsspec

from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.export.geojson import geojson_stamp, write_geojson
from segcore.export.geotiff import geotiff_stamp, write_geotiff
from segcore.export.png import png_stamp, write_png
from segcore.export.stamp import stamp
from segcore.measure import Peak
from segcore.progress import SILENT, Progress
from segcore.results import ItemResult, StageResult
from segcore.selection import Masked, failure, mask_name, select
from segcore.store import Image, Label, Workspace

Writer = Callable[[Image, Label, Path, ExportConfig], dict[str, Any]]
"""Writes a mask to a path of its own choosing; returns numbers worth showing."""

StampReader = Callable[[IO[bytes]], str | None]
"""Finds the stamp in a file that is there already; None where there is none, whatever the file is."""

FORMATS: dict[str, tuple[str, Writer, StampReader]] = {
    "geotiff": (".tif", write_geotiff, geotiff_stamp),
    "png": (".png", write_png, png_stamp),
    "geojson": (".geojson", write_geojson, geojson_stamp),
}


def export(config: ExportConfig, progress: Progress = SILENT) -> StageResult:
    """Write every mask of one name to a file of its own in `config.output`.

    A file that holds this very mask already is kept (state skipped); one that holds anything else is kept too,
    but as a failure, unless `config.overwrite` is set. A failing image is named in `items` and does not stop the
    others.

    Raises:
        ConfigError: if `config.model` is neither a mask's name nor a model package.
        StoreError: if there is no workspace, no image has the mask, or the output cannot be reached.
    """
    with Peak() as peak:
        workspace = Workspace.open(config.workspace)
        name = mask_name(workspace, config.model)
        chosen = select(workspace, name, config.images)
        output = _Output(config.output)
        progress.start("export", len(chosen), "images")
        items = []
        for masked in chosen:
            item = _export_item(masked, output, config)
            if item.state != "done":
                progress.note(f"{item.image}: {item.error or item.details['reason']}")
            items.append(item)
            progress.advance()
    return StageResult(
        stage="export",
        items=tuple(items),
        paths=tuple(item.path for item in items if item.path is not None),
        seconds=peak.seconds,
        peak_mib=peak.mib,
        details={"mask": name, "format": config.format},
    )


def _export_item(masked: Masked, output: "_Output", config: ExportConfig) -> ItemResult:
    suffix, write, read_stamp = FORMATS[config.format]
    name = file_name(masked.image_id, suffix)
    path = output.describe(name)
    try:
        image, mask = masked.opened()
        _check_plane(image, mask)
        if not config.overwrite and output.exists(name):
            with output.open(name) as stream:
                if read_stamp(stream) != stamp(mask, config):
                    raise StoreError(f"{path} holds another mask, or other coordinates; --overwrite replaces it")
            reason = f"{path} holds this mask already"
            return ItemResult(state="skipped", image=image.image_id, path=path, details={"reason": reason})
        with output.place(name) as temporary:
            details = write(image, mask, temporary, config)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        return ItemResult(state="failed", image=masked.image_id, error=f"{path}: cannot be written ({reason})")
    except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
        return ItemResult(state="failed", image=masked.image_id, error=failure(masked.image_id, error))
    return ItemResult(state="done", image=image.image_id, source=image.source, path=path, details=details)


def file_name(image_id: str, suffix: str) -> str:
    """A plain file name: whatever an id holds, it cannot lead out of the folder or hide the file."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", image_id).lstrip(".-") + suffix


def _check_plane(image: Image, mask: Label) -> None:
    if mask.axes != ("y", "x"):
        raise StoreError(f"image {image.image_id}: export writes masks with the axes (y, x), got {mask.axes}")
    level = mask.base_level
    if mask.shape() != image.shape(level)[-2:]:
        raise StoreError(
            f"image {image.image_id}: mask {mask.name} has sides {mask.shape()}, expected the image's "
            f"{image.shape(level)[-2:]} at level {level}"
        )


class _Output:
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

    def describe(self, name: str) -> str:
        return str(self._folder / name) if self._folder is not None else f"{self._uri}/{name}"

    def exists(self, name: str) -> bool:
        return bool(self._remote.exists(f"{self._root}/{name}"))

    def open(self, name: str) -> IO[bytes]:
        stream: IO[bytes] = self._remote.open(f"{self._root}/{name}", "rb")
        return stream

    @contextlib.contextmanager
    def place(self, name: str) -> Iterator[Path]:
        """A path to write to; what is there at the end takes its place in one step, or, on an error, goes away."""
        suffix = Path(name).suffix
        handle, raw = tempfile.mkstemp(prefix=".segcore-", suffix=suffix, dir=self._folder)
        os.close(handle)
        temporary = Path(raw)
        try:
            yield temporary
            if self._folder is None:
                self._remote.put_file(str(temporary), f"{self._root}/{name}")
            else:
                _sync(temporary)
                temporary.chmod(0o666 & ~_umask())
                temporary.replace(self._folder / name)
                _sync(self._folder)
        finally:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
