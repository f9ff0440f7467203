"""What ingest does inside a child process: everything that touches a user's own file.

probe: header -> Probe (shape, dtype, spacing, target's classes)   before anything is planned
write_windows: source window -> shards of image, target, valid     work units, or parts of one
source_digest: the file's bytes -> SHA-256
"""

import itertools
from contextlib import ExitStack
from typing import Any

import numpy as np

from segcore.geometry import Window
from segcore.ingest.check import noted, noted_objects
from segcore.ingest.copying import put_copy
from segcore.ingest.entries import Entry
from segcore.ingest.tasks import Probe, Settings, Written
from segcore.isolation import Beat
from segcore.nodata import fitting_nodata, missing
from segcore.sources import Joined, Source, members, open_source
from segcore.sources.stamps import content_digest
from segcore.store import Staging, Workspace
from segcore.targets import Target
from segcore.targets.target import open_target, open_valid

Pixels = np.typing.NDArray[Any]

NOTES = {"target": noted, "target_instances": noted_objects}
"""What the ledger records of a shard of a label."""


class _Opened:
    """A source with its target and valid mask; what is open is closed together, also where a later one cannot be."""

    def __init__(self, entry: Entry, settings: Settings) -> None:
        with ExitStack() as opened:
            self.source = opened.enter_context(open_source(entry.opened_by, settings.opening))
            image = self.source.info
            instances = entry.one_per_instance or None
            self.target: Target | None = None
            if entry.targets:
                how = settings.target.model_copy(update={"values": entry.target_values})
                self.target = open_target(
                    entry.targets, image, how, instances=instances, names=entry.class_names, aoi=entry.aoi
                )
                opened.callback(self.target.close)
            self._valid = open_valid(entry.valid, image, settings.opening) if entry.valid else None
            if self._valid is not None:
                opened.callback(self._valid.close)
            self.close = opened.pop_all().close

    @property
    def has_valid(self) -> bool:
        """From the file itself, or from a mask file."""
        return self._valid is not None or self.source.info.has_valid

    def read_valid(self, window: Window) -> Pixels:
        """Usable pixels of a window over the axes without c: what the source itself says, and the mask file."""
        usable = _usable(self.source, window)
        return usable if self._valid is None else usable & self._valid.read(window)


_kept: dict[tuple[Entry, Settings], _Opened] = {}


def _opened(entry: Entry, settings: Settings) -> _Opened:
    """Source, target and valid mask; kept open between the work units of one image, closed with the next."""
    key = (entry, settings)
    if key not in _kept:
        _close_all()
        _kept[key] = _Opened(entry, settings)
    return _kept[key]


def _close_all() -> None:
    while _kept:
        _kept.popitem()[1].close()


def _usable(source: Source, window: Window) -> Pixels:
    """What the source itself says of a window over the axes without c.

    That is its alpha or mask band, else nodata; floats have to be finite.
    """
    info = source.info
    usable = source.read_valid(window)
    nodata = None if info.has_valid else fitting_nodata(info.nodata, info.dtype)
    if nodata is None and not np.issubdtype(np.dtype(info.dtype), np.floating):
        return usable
    channel = info.axes.index("c")
    pixels = source.read(window.with_axis(channel, info.shape[channel]))
    return np.asarray(usable & ~missing(pixels, nodata).all(axis=channel))


def probe(beat: Beat, entry: Entry, settings: Settings) -> Probe:
    """Open a source and all that belongs to it; read the first pixels, so that a broken file is found early."""
    _close_all()
    opened = _opened(entry, settings)
    beat()
    info = opened.source.info
    opened.source.read(Window((0,) * len(info.shape), tuple(min(n, 16) for n in info.shape)))
    target = opened.target
    return Probe(
        info=info,
        has_valid=opened.has_valid,
        target_kind=target.kind if target else None,
        target_dtype=target.dtype.name if target else None,
        has_instances=target.has_instances if target else False,
        classes=target.classes if target else (),
        target_notes=target.notes if target else (),
    )


def list_members(beat: Beat, entry: Entry, settings: Settings) -> tuple[str | Joined, ...]:
    """The images in a folder; itself where it is one."""
    beat(0)
    return members(entry.source, settings.opening)


def source_digest(beat: Beat, entry: Entry) -> str:
    """SHA-256 of a source's content."""
    return content_digest(entry.opened_by, lambda: beat(0))


def copy_source(beat: Beat, entry: Entry, workspace_uri: str) -> tuple[str, str | Joined]:
    """Copy a source into the workspace; its digest, and where the copy lies."""
    copied = put_copy(Workspace.open(workspace_uri), entry, lambda: beat(0))
    return content_digest(entry.opened_by, lambda: beat(0)), copied


def write_windows(
    beat: Beat,
    entry: Entry,
    workspace_uri: str,
    settings: Settings,
    names: tuple[str, ...],
    windows: tuple[Window, ...],
) -> Written:
    """Write the shards of an image and of its labels that lie in some windows.

    Args:
        beat: called after every shard.
        entry: the source.
        workspace_uri: where the plans stand already.
        settings: how it is opened.
        names: what is written: "image" and labels.
        windows: work units, or groups of shards in them, over the image's axes.
    """
    opened = _opened(entry, settings)
    beat(0)
    workspace = Workspace.open(workspace_uri)
    num_written, quarters = 0, []
    for name, window in itertools.product(names, windows):
        staging = Staging.attach(workspace, entry.image_id, name)
        own = over_axes(window, opened.source.info.axes, staging.spec.axes)
        writer = staging.writer(own)
        for shard in staging.pending(own):
            pixels = _pixels(opened, name, staging.shard_window(shard))
            writer.put(shard, pixels, note=NOTES[name](pixels) if name in NOTES else None)
            num_written += name == "image"
            beat(1 if name == "image" else 0)
        if len(windows) == 1:  # of many planes it would be many at once
            quarters += [(name, quarter) for quarter in writer.quarters]
    return Written(num_written, tuple(quarters))


def over_axes(window: Window, axes: tuple[str, ...], wanted: tuple[str, ...]) -> Window:
    """A window over some of its axes."""
    sides = {axis: side for axis, *side in zip(axes, window.start, window.shape, strict=True)}
    return Window(tuple(sides[axis][0] for axis in wanted), tuple(sides[axis][1] for axis in wanted))


def _pixels(opened: _Opened, name: str, window: Window) -> Pixels:
    """One shard's worth of an image, or of a label over its axes without c."""
    if name == "image":
        return opened.source.read(window)
    if name == "valid":
        return opened.read_valid(window).astype(np.uint8)
    assert opened.target is not None
    if name == "target_instances":
        return opened.target.read_instances(window)
    return opened.target.read(window)
