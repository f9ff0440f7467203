"""Example: held-out images + weights -> *the picture on the model card*: a part of one, its target, and the mask.

The part is neither the best nor the worst: of those that hold an object, the one whose score is in the middle.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from segcore.classes import ClassInfo
from segcore.geometry import Window
from segcore.inference.decision import MASK
from segcore.inference.job import ignore_of
from segcore.inference.run import Answered
from segcore.models.package import unwritten
from segcore.report import pictures
from segcore.scoring.counts import Counter, foreground_rows
from segcore.store import Image
from segcore.training.validate import HeldOut, Tally, main_score

EXAMPLE_MPX = 2.0
"""Megapixels of held-out images among which the middle one is looked for."""
SIDE_PX = 320
"""Longer side of each of the three pictures."""
GAP_PX = 8

Ids = npt.NDArray[Any]
Rgb = npt.NDArray[np.uint8]


class Seen(NamedTuple):
    """A shard that was inferred; of several planes the first one."""

    has_object: bool
    score: float
    image: Image
    window: Window
    """Over the axes without c."""
    level: int
    target: Ids
    mask: Ids


def example_picture(held_out: HeldOut, weights: Mapping[str, torch.Tensor]) -> bytes | None:
    """A PNG of three pictures side by side; None without held-out images.

    Args:
        held_out: the images, their targets, and what the model expects.
        weights: make the mask.
    """
    held_out = held_out.limited(EXAMPLE_MPX * 1e6)
    seen = _seen(held_out, weights) if held_out.parts else []
    full = [one for one in seen if one.has_object] or seen
    full.sort(key=lambda one: (one.score, one.image.image_id, one.window.start))
    return pictures.png(_drawn(full[len(full) // 2], held_out.info.classes)) if full else None


def _seen(held_out: HeldOut, weights: Mapping[str, torch.Tensor]) -> list[Seen]:
    """Every shard, scored, in no order."""
    package = unwritten(held_out.info, weights)
    classes, ignore, lock = package.classes, ignore_of(package), threading.Lock()
    rows, counter = foreground_rows(classes), Counter(range(len(classes)), ignore)
    seen: list[Seen] = []

    def tell(shard: Answered) -> None:
        image, level = shard.run.image, shard.run.grid.level
        target = held_out.targets[image.image_id]
        ids = target.read(shard.window, level)
        known = np.where(ids == target.ignore, ignore, ids).astype(np.uint16)
        mask = shard.answers[MASK].astype(np.uint16)
        counts = counter.count(known, mask)
        first = [each.reshape(-1, *each.shape[-2:])[0] for each in (known, mask)]
        has_object = bool(counts.confusion[rows].any())
        with lock:
            seen.append(
                Seen(has_object, main_score(Tally(counts), classes), image, shard.window, level, first[0], first[1])
            )

    held_out.trial.run(package, held_out.parts, tell)
    return seen


def _drawn(one: Seen, classes: Sequence[ClassInfo]) -> Rgb:
    start, shape = one.window.start, (*(1 for _ in one.window.shape[:-2]), *one.window.shape[-2:])
    sides = dict(zip([axis for axis in one.image.axes if axis != "c"], zip(start, shape, strict=True), strict=True))
    sides["c"] = (0, len(one.image.channels))
    full = [sides[axis] for axis in one.image.axes]
    pixels = one.image.read(Window(tuple(a for a, _ in full), tuple(n for _, n in full)), one.level)
    valid = one.image.read_valid(Window(start, shape), one.level).reshape(shape[-2:])
    rgb = pictures.to_rgb(pixels.reshape(-1, *shape[-2:]), one.image.channels, valid)
    drawn = [pictures.shrunk(rgb, SIDE_PX)]
    for ids in (one.target, one.mask):
        small = pictures.sampled(ids, drawn[0].shape[:2])
        drawn += [np.full((len(small), GAP_PX, 3), 255, np.uint8), pictures.colored(small, classes)]
    return np.concatenate(drawn, axis=1)
