"""Glimpse: a few held-out tiles -> *what the model makes of them*, the same tiles at each validation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from segcore.classes import ClassInfo
from segcore.geometry import Window
from segcore.report.pictures import Rgb, overlay, shrunk, to_rgb
from segcore.sampling import IGNORED, LabelledImage, Pixels, Truth, middle
from segcore.scoring.counts import foreground_rows
from segcore.training.learner import Learner

NUM_TILES = 4
LONGEST_PX = 256
"""Tiles are shown no larger than this."""
GAP_PX = 4


@dataclass(frozen=True)
class Shown:
    """What trackers show of a validation."""

    names: tuple[str, ...]
    """Image ids."""
    pictures: tuple[Rgb, ...]
    """One for each name: the tile with its target on the left, with the mask on the right."""
    per_class: dict[str, tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]]
    """By the name of each foreground class in the tiles: which pixels are of it, and its probability, (pixels,)."""


class Glimpse:
    """Tiles that lie on the classes in turn, spread over the held-out images; read once.

    Args:
        images: held out; there may be none.
        classes: of their targets.
        tile_px: side of a tile, a multiple of the model's stride.
    """

    def __init__(self, images: Sequence[LabelledImage], classes: Sequence[ClassInfo], tile_px: int) -> None:
        self._classes, self._foreground = classes, foreground_rows(classes)
        places = dict.fromkeys(_places(images, self._foreground, tile_px))
        self._names = tuple(images[number].image_id for number, _, _ in places)
        self._tiles = [images[number].read_reflected(plane, window) for number, plane, window in places]
        channels = images[0].image.channels if images else ()
        self._rgb = [to_rgb(middle(pixels, 3), channels) for pixels, _ in self._tiles]

    @torch.no_grad()
    def look(self, learner: Learner) -> Shown:
        """What the averaged weights make of the tiles, at most one tile on the device at a time."""
        probs = [_probs(learner, pixels, len(self._classes)) for pixels, _ in self._tiles]
        pictures = [
            self._picture(rgb, target, tile_probs)
            for rgb, (_, target), tile_probs in zip(self._rgb, self._tiles, probs, strict=True)
        ]
        per_class = {}
        if self._tiles:
            known = np.concatenate([target.ravel() for _, target in self._tiles])
            of_all = np.concatenate([tile_probs.reshape(len(tile_probs), -1) for tile_probs in probs], axis=1)
            of_all, known = of_all[:, known != IGNORED], known[known != IGNORED]
            per_class = {
                self._classes[row].name: (known == row, of_all[row]) for row in self._foreground if (known == row).any()
            }
        return Shown(self._names, tuple(pictures), per_class)

    def _picture(self, rgb: Rgb, target: Truth, probs: npt.NDArray[np.float32]) -> Rgb:
        halves = [
            shrunk(overlay(rgb, middle(ids, 2), self._classes, self._foreground), LONGEST_PX)
            for ids in (target, probs.argmax(axis=0).astype(np.int16))
        ]
        gap = np.full((halves[0].shape[0], GAP_PX, 3), 255, np.uint8)
        return np.concatenate([halves[0], gap, halves[1]], axis=1)


def _probs(learner: Learner, pixels: Pixels, num_classes: int) -> npt.NDArray[np.float32]:
    """Probabilities (K, [P,] Y, X) of one tile (C, [P,] Y, X)."""
    logits = learner.average(learner.to_input(pixels[None]))
    found: npt.NDArray[np.float32] = logits[0, :num_classes].float().softmax(dim=0).cpu().numpy()
    return found


def _places(
    images: Sequence[LabelledImage], foreground: Sequence[int], tile_px: int
) -> Iterator[tuple[int, int, Window]]:
    """Image, plane and window of each tile, about a pixel of one class after the other, the rarest first.

    Small images may give one tile several times.
    """
    numbers = [n * len(images) // NUM_TILES for n in range(NUM_TILES)] if images else []
    for nth, number in enumerate(numbers):
        image, rank, of = images[number], nth - numbers.index(number), numbers.count(number)
        plane = (2 * rank + 1) * image.num_planes // (2 * of)
        coarse = image.read_classes(plane, image.target.num_levels - 1)
        found = {row: int((coarse == row).sum()) for row in foreground if (coarse == row).any()}
        rarest_first = sorted(found, key=found.__getitem__)
        middle = np.array(coarse.shape) // 2
        if found:
            places = np.argwhere(coarse == rarest_first[nth % len(found)])
            middle = places[(2 * rank + 1) * len(places) // (2 * of)]
        sides = zip(middle, coarse.shape, image.shape_yx, strict=True)
        start = tuple(_start((int(at) + 0.5) * size / length, tile_px, size) for at, length, size in sides)
        yield number, plane, Window(start, (tile_px, tile_px))


def _start(centre: float, tile_px: int, size: int) -> int:
    """Where a tile about a centre begins, inside the image where that is large enough."""
    spare = size - tile_px
    return spare // 2 if spare < 0 else min(max(int(centre) - tile_px // 2, 0), spare)
