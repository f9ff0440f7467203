"""Probs stream: the probs layer of one image with its labels -> *histograms of probabilities*, a window at a time.

At the layer's own finest level, where target and mask are read too. What was counted is kept in
`state/<image_id>/<mask>/probs.json`, beside the identity of what it was made of.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.errors import StoreError
from segcore.geometry import Grid, Ints, Window
from segcore.progress import Progress
from segcore.scoring.counts import Counter
from segcore.scoring.identity import state_digest
from segcore.scoring.probs import ProbCounts, count_probs
from segcore.scoring.stream import Pieces, Subject
from segcore.selection import is_of_another_run
from segcore.store import Label, Layer, Workspace, layer_name, seal, unseal

FORMAT = 1
"""Version of probs.json; another one is counted again."""
CHUNK_PX, WINDOW_PX = 256, 2048
WINDOW_VALUES = 1 << 23
"""Probabilities that are read at once, about."""
MAX_PLANES = 32
"""Of a volume, likewise."""


def probs_of(workspace: Workspace, subject: Subject, identity: dict[str, str], progress: Progress) -> ProbCounts | None:
    """The histograms of one image: as an earlier run kept them, if it saw the same pixels, else counted and kept.

    None where there is no target or no layer, or that is of an earlier mask.

    Args:
        workspace: where the layer is.
        subject: the labels.
        identity: of them.
        progress: listener.

    Raises:
        StoreError: the layer does not fit the mask.
    """
    image_id, name = subject.image.image_id, subject.mask.name
    stored = layer_name(name, "probs")
    if not subject.has_target or not workspace.is_complete(image_id, stored):
        return None
    layer = workspace.layer(image_id, name, "probs")
    if is_of_another_run(layer, subject.mask):
        progress.note(f"image {image_id}: its layer probs is of an earlier mask {name}; it is not scored")
        return None
    key, identity = (
        f"state/{image_id}/{name}/probs.json",
        {**identity, stored: state_digest(workspace, image_id, stored)},
    )
    counts = _kept(workspace.objects.get(key), identity, len(subject.mask.classes))
    if counts is None:
        counts = stream_probs(subject, layer)
        record = {"format": FORMAT, "identity": identity, "counts": counts.to_json()}
        workspace.objects.put(key, json.dumps(seal(record)).encode())
    return counts


def _kept(data: bytes | None, identity: dict[str, str], num_classes: int) -> ProbCounts | None:
    """What an earlier run counted; a damaged record is counted again."""
    try:
        record = unseal(data or b"{}")
        if record["format"] != FORMAT or record["identity"] != identity:
            return None
        counts = ProbCounts.from_json(record["counts"])
        return counts if len(counts.levels) == num_classes else None
    except (ValueError, KeyError, TypeError):
        return None


def stream_probs(subject: Subject, layer: Layer) -> ProbCounts:
    """Count an image at the layer's own level.

    Raises:
        StoreError: the layer has other sides than the image, or a channel that is no class of the mask.
    """
    mask, target = subject.mask, subject.target
    assert target is not None, f"probabilities of {subject.image.image_id} without a target"
    rows, num_classes = _rows_of(layer, mask), len(mask.classes)
    counter = Counter([info.id for info in mask.classes], mask.ignore)
    total = ProbCounts.zeros(num_classes)
    for pieces, values in _windows(Subject(subject.image, mask, target), layer):
        assert pieces.target is not None
        numbers = counter.numbers(pieces.target, pieces.mask, pieces.valid)
        values = values.reshape(len(rows), -1)
        if values.dtype != np.uint8:
            values = np.rint(np.nan_to_num(values.astype(np.float32)).clip(0, 1) * 255).astype(np.uint8)
        target_numbers, mask_numbers = (part.reshape(-1) for part in numbers)
        total += count_probs(values, rows, target_numbers, mask_numbers, num_classes)
    return total


def _rows_of(layer: Layer, mask: Label) -> list[int]:
    """The class number of each channel."""
    row_of = {info.name: row for row, info in enumerate(mask.classes)}
    for name in layer.channels:
        if name not in row_of:
            raise StoreError(
                f"its layer probs has a channel {name}, mask {mask.name} has the classes {', '.join(row_of)}; predict "
                "it again with --overwrite"
            )
    return [row_of[name] for name in layer.channels]


def _windows(subject: Subject, layer: Layer) -> Iterator[tuple[Pieces, npt.NDArray[Any]]]:
    """Labels, and probabilities (channels, ...), window by window; the next one is read ahead."""
    image, level, channel = subject.image, layer.base_level, layer.axes.index("c")
    shape, num_channels = layer.shape(), len(layer.channels)
    sides = tuple(n for n, axis in zip(image.shape(level), image.axes, strict=True) if axis != "c")
    if (*shape[:channel], *shape[channel + 1 :]) != sides:
        raise StoreError(f"its layer probs has sides {shape}, expected the image's {sides} at level {level}")
    grid = Grid(sides, _cell(subject.mask.axes, num_channels))

    def read(window: Window) -> tuple[Pieces, npt.NDArray[Any]]:
        values = layer.read(window.with_axis(channel, num_channels))
        return subject.read(window, level), np.moveaxis(values, channel, 0)

    windows = [grid.window(index) for index in grid.indices()]
    with ThreadPoolExecutor(1, thread_name_prefix="segcore-score-read") as reader:
        ahead = reader.submit(read, windows[0])
        for following in [*windows[1:], None]:
            found = ahead.result()
            if following is not None:
                ahead = reader.submit(read, following)
            yield found


def _cell(axes: Sequence[str], num_channels: int) -> Ints:
    """Sides of a window: as many planes and whole chunks as hold so many values; one chunk at least."""
    side_px = CHUNK_PX
    planes = max(1, min(MAX_PLANES, WINDOW_VALUES // (side_px**2 * num_channels))) if "z" in axes else 1
    while side_px < WINDOW_PX and 4 * side_px**2 * planes * num_channels <= WINDOW_VALUES:
        side_px *= 2
    return (*(planes if axis == "z" else 1 for axis in axes[:-2]), side_px, side_px)
