"""Sampler: which tiles to train on. Tile k of step s is a pure function of (seed, s, k)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segcore.geometry import Window
from segcore.sampling.index import ClassIndex
from segcore.sampling.labelled import Int16s, LabelledImage, Pixels


class Draw(NamedTuple):
    """Which tile: all that decides its pixels."""

    image: int
    plane: int
    window: Window
    """Over (y, x), may reach over the border."""


class Sampler:
    """Draws tiles: tile k of step s is the same in every run with the same seed.

    Args:
        images: to draw from.
        index: of these images.
        tile_px: side of a tile.
        class_share: of the tiles, share that is placed at a pixel of a class drawn evenly, in an image drawn evenly
            among those that have it; the rest lies at any usable pixel, each as likely as the other.
        seed: of the whole run.
    """

    def __init__(
        self, images: Sequence[LabelledImage], index: ClassIndex, tile_px: int, class_share: float, seed: int
    ) -> None:
        self.images, self.tile_px, self.seed = images, tile_px, seed
        self._index, self._class_share = index, class_share
        self._classes = index.occurring
        self._holders = {number: np.flatnonzero(index.pixels[:, number]) for number in self._classes}
        self._flat = index.pixels.ravel() / index.pixels.sum()

    def draw(self, step: int, k: int) -> Draw:
        """The place of tile k of a step."""
        rng = np.random.default_rng((self.seed, step, k))
        if rng.random() < self._class_share:
            number = self._classes[rng.integers(len(self._classes))]
            image = int(rng.choice(self._holders[number]))
        else:
            image, number = divmod(int(rng.choice(len(self._flat), p=self._flat)), self._index.num_classes)
        places = self._index.found[image][number].places
        plane, *centre = (int(value) for value in places[rng.integers(len(places))])
        reach = self.tile_px // 4
        jitter = rng.integers(-reach, reach + 1, 2)
        start = tuple(
            self._start(middle + int(shift) - self.tile_px // 2, size)
            for middle, shift, size in zip(centre, jitter, self.images[image].shape_yx, strict=True)
        )
        return Draw(image, plane, Window(start, (self.tile_px, self.tile_px)))

    def _start(self, wanted: int, size: int) -> int:
        """Mostly inside the image, and a little over its border, as tiles with a halo are in prediction."""
        over = self.tile_px // 8
        low, high = -over, size - self.tile_px + over
        return (size - self.tile_px) // 2 if high < low else min(max(wanted, low), high)

    def tiles(self, step: int, batch: int) -> tuple[Pixels, Int16s]:
        """One batch: pixels (N, C, Y, X) in the images' own dtype, class numbers (N, Y, X)."""
        read = [self._tile(self.draw(step, k)) for k in range(batch)]
        return np.stack([pixels for pixels, _ in read]), np.stack([target for _, target in read])

    def _tile(self, draw: Draw) -> tuple[Pixels, Int16s]:
        return self.images[draw.image].read_reflected(draw.plane, draw.window)
