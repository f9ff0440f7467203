"""Index: where each class is, so that rare ones are seen as often as common ones; made once, from coarse targets."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from segcore.sampling.labelled import LabelledImage

MAX_INDEX_PX = 16 << 20
"""The class index is made from the finest level that has at most so many pixels in a plane."""
MAX_POSITIONS = 1 << 21
"""Pixels that the index keeps of each class, over all images."""


class _Places(NamedTuple):
    """Some pixels of one class in one image."""

    num_px: int
    """Pixels of the class there, of which `places` is a sample."""
    places: npt.NDArray[np.int32]
    """(n, 3): plane, y, x at the training level."""


class ClassIndex:
    """Where each class is: `found[image][class]`, made once from targets at a coarse level."""

    def __init__(self, images: Sequence[LabelledImage], num_classes: int, seed: int = 0) -> None:
        self.num_classes = num_classes
        share = max(64, MAX_POSITIONS // max(1, sum(image.num_planes for image in images)))
        self.found = [self._of_image(image, share, seed) for image in images]
        self.pixels = np.array([[places.num_px for places in row] for row in self.found], dtype=np.float64)
        """(images, classes): usable pixels of each class, scaled up to the training level."""

    def _of_image(self, image: LabelledImage, share: int, seed: int) -> list[_Places]:
        level = image.level
        while level + 1 < image.target.num_levels and np.prod(image.target.shape(level)[-2:]) > MAX_INDEX_PX:
            level += 1
        factor = 2 ** (level - image.level)
        rng = np.random.default_rng((seed, len(image.image_id)))
        rows: list[list[npt.NDArray[np.int32]]] = [[] for _ in range(self.num_classes)]
        pixels = [0] * self.num_classes
        for plane in range(image.num_planes):
            classes = image.read_classes(plane, level)
            for number in range(self.num_classes):
                where = np.flatnonzero(classes == number)
                pixels[number] += len(where) * factor**2
                if len(where) > share:
                    where = np.sort(rng.choice(where, share, replace=False))
                y, x = np.unravel_index(where, classes.shape)
                rows[number].append(
                    np.stack([np.full(len(where), plane), y * factor + factor // 2, x * factor + factor // 2], axis=1)
                    .astype(np.int32)
                )  # fmt: skip
        return [_Places(n, np.concatenate(parts)) for n, parts in zip(pixels, rows, strict=True)]

    @property
    def occurring(self) -> list[int]:
        """Classes that have a pixel anywhere."""
        return [number for number in range(self.num_classes) if self.pixels[:, number].any()]
