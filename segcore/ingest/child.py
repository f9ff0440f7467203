"""What ingest does inside a child process: everything that touches a user's own file.

probe: header -> Probe (shape, dtype, spacing, target's classes)   before anything is planned
write_unit: source window -> shard of image, target, valid         one work unit
content_digest: the file's bytes -> SHA-256
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from segcore.classes import ClassInfo
from segcore.errors import SourceError
from segcore.geometry import Ints, Window
from segcore.ingest.entries import Entry
from segcore.isolation import Beat
from segcore.sources import Limits, Source, SourceInfo, open_source
from segcore.sources.files import SourceFile
from segcore.store import Staging, Workspace, differs_from
from segcore.targets import Target, load_classes, open_target, open_valid

BLOCK_BYTES = 8 << 20

Pixels = np.typing.NDArray[Any]


class Settings(BaseModel):
    """How files are opened; the same in every child."""

    model_config = ConfigDict(frozen=True)

    classes: str | None = None
    """Path of the class table."""
    limits: Limits = Limits()


class Probe(BaseModel):
    """What a source is, before anything is written."""

    model_config = ConfigDict(frozen=True)

    info: SourceInfo
    has_valid: bool
    """From the file itself, or from a mask file."""
    target_kind: str | None = None
    target_dtype: str | None = None
    has_instances: bool = False
    classes: tuple[ClassInfo, ...] = ()


class _Opened(NamedTuple):
    source: Source
    target: Target | None
    valid: Callable[[Window], Pixels] | None

    def close(self) -> None:
        self.source.close()
        if self.target is not None:
            self.target.close()


_kept: dict[tuple[Entry, Settings], _Opened] = {}


def _opened(entry: Entry, settings: Settings) -> _Opened:
    """Source, target and valid mask; kept open between the work units of one image, closed with the next."""
    key = (entry, settings)
    if key not in _kept:
        for opened in _kept.values():
            opened.close()
        _kept.clear()
        _kept[key] = _open(entry, settings)
    return _kept[key]


def _open(entry: Entry, settings: Settings) -> _Opened:
    source = open_source(entry.source, settings.limits)
    shape_yx = (source.info.shape[-2], source.info.shape[-1])
    target = None
    if entry.targets:
        if len(source.info.shape) != 3:
            raise SourceError(f"{entry.source}: targets are read for (c, y, x) images, got axes {source.info.axes}")
        table = load_classes(settings.classes) if settings.classes else None
        instances = entry.one_per_instance or None
        target = open_target(list(entry.targets), table, shape_yx, settings.limits, instances=instances)
    valid_file = open_valid(entry.valid, shape_yx, settings.limits) if entry.valid else None
    if valid_file is None and not source.info.has_valid:
        return _Opened(source, target, None)

    def read_valid(window: Window) -> Pixels:
        usable = _usable(source, window)
        return usable if valid_file is None else usable & valid_file.read(window)

    return _Opened(source, target, read_valid)


def _usable(source: Source, window: Window) -> Pixels:
    """What the source itself says of a (y, x) window: its alpha or mask band, else where any band is not nodata."""
    info = source.info
    if info.has_valid or info.nodata is None:
        return source.read_valid(window)
    leading = info.shape[:-2]
    pixels = source.read(Window((0,) * len(leading) + window.start, leading + window.shape))
    return np.asarray(differs_from(pixels, info.nodata).reshape(-1, *window.shape).any(axis=0))


def probe(beat: Beat, entry: Entry, settings: Settings) -> Probe:
    """Open a source and all that belongs to it; read the first pixels, so that a broken file is found early."""
    _kept.clear()
    opened = _opened(entry, settings)
    beat()
    info = opened.source.info
    opened.source.read(Window((0,) * len(info.shape), tuple(min(n, 16) for n in info.shape)))
    target = opened.target
    return Probe(
        info=info,
        has_valid=opened.valid is not None,
        target_kind=target.kind if target else None,
        target_dtype=target.dtype.name if target else None,
        has_instances=target.has_instances if target else False,
        classes=target.classes if target else (),
    )


def content_digest(beat: Beat, uri: str) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    file = SourceFile(uri)
    with file.open() as opened:
        beat(0)
        while block := opened.read(BLOCK_BYTES):
            digest.update(block)
            beat(0)
    return digest.hexdigest()


def write_unit(
    beat: Beat, workspace_uri: str, entry: Entry, settings: Settings, names: tuple[str, ...], unit: Ints
) -> int:
    """Write one work unit of an image and of its labels; the number of the image's shards that were written.

    Args:
        beat: called after every shard.
        workspace_uri: where the plans stand already.
        entry: the source.
        settings: how it is opened.
        names: "image" and the labels that are written with it.
        unit: the work unit's index in the image.
    """
    opened = _opened(entry, settings)
    beat(0)
    workspace = Workspace.open(workspace_uri)
    num_written = 0
    for name in names:
        staging = Staging.attach(workspace, entry.image_id, name)
        index = tuple(i for i, axis in zip(unit, opened.source.info.axes, strict=True) if axis in staging.spec.axes)
        if name != "image" and any(i for i, axis in zip(index, staging.spec.axes, strict=True) if axis not in "yx"):
            continue
        writer = staging.unit_writer(index)
        for shard in staging.pending(index):
            writer.put(shard, _pixels(opened, name, staging.shard_window(shard)))
            num_written += name == "image"
            beat(1 if name == "image" else 0)
    return num_written


def _pixels(opened: _Opened, name: str, window: Window) -> Pixels:
    """One shard's worth of an image, or of a label over (y, x)."""
    if name == "image":
        return opened.source.read(window)
    if name == "valid":
        assert opened.valid is not None
        return opened.valid(window).astype(np.uint8)
    assert opened.target is not None
    if name == "target_instances":
        return opened.target.read_instances(window)
    return opened.target.read(window)
