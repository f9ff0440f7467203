"""Augmenter: a batch of one step -> *the batch that the model gets*."""

from collections.abc import Sequence

import torch

from segcore.augment.choice import Augments
from segcore.augment.colour import recolour
from segcore.augment.draw import Augmentation, draw_augmentation
from segcore.augment.geometry import moved
from segcore.augment.mix import Augmented, mixed


class Augmenter:
    """Augments the batches of one run.

    Args:
        augments: which operations, and how often.
        seed: of the whole run.
        mean: per band, that tiles are normalised by.
        std: per band, that tiles are normalised by.
    """

    def __init__(self, augments: Augments, seed: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.augments, self._seed = augments, seed
        self._mean, self._std = mean, std

    def __call__(self, tiles_ncyx: torch.Tensor, classes_nyx: torch.Tensor, step: int, first: int = 0) -> Augmented:
        """The batch of a step, whose tiles are number `first` and following of that step (even, where tiles mix)."""
        if not any(self.augments.shares.values()):
            return Augmented(tiles_ncyx, classes_nyx)
        return augment(tiles_ncyx, classes_nyx, self.draw(step, len(tiles_ncyx), first), self._mean, self._std)

    def draw(self, step: int, batch: int, first: int = 0) -> Augmentation:
        """What happens to so many tiles of a step."""
        return draw_augmentation(self.augments, self._seed, step, batch, len(self._mean), first)


def augment(
    tiles_ncyx: torch.Tensor,
    classes_nyx: torch.Tensor,
    what: Augmentation,
    mean: Sequence[float],
    std: Sequence[float],
) -> Augmented:
    """Apply an augmentation to tiles and their classes; neither is changed in place.

    Args:
        tiles_ncyx: normalised pixels, float32; y and x of the same length. Tiles of several planes, (N, C, P, Y, X),
            are moved and recoloured as one.
        classes_nyx: class numbers, int64, `sampling.IGNORED` among them; (N, P, Y, X) of several planes.
        what: of as many tiles and bands.
        mean: per band, in the image's values.
        std: per band, in the image's values.
    """
    tiles, classes = moved(tiles_ncyx.flatten(1, -3), classes_nyx, what)  # planes move as bands do
    tiles = tiles.reshape(tiles_ncyx.shape)
    recolour(tiles, what, mean, std)
    return mixed(tiles, classes, what)
