"""Tiles to augment, and augmentations that do one thing, or nothing."""

from typing import Any

import numpy as np
import torch

from segcore.augment import Augmentation, Augments, ImageFacts, choose_augments
from segcore.augment.choice import NAMES
from segcore.augment.draw import NODES
from segcore.sampling import IGNORED

RGB = ImageFacts(num_bands=3, dtype="uint8")


def doing_nothing(n: int, c: int) -> Augmentation:
    return Augmentation(
        symmetry=np.zeros(n, int),
        matrix=np.tile(np.eye(2, 3), (n, 1, 1)),
        bend=np.zeros((n, 2, NODES, NODES)),
        stain=np.tile([[1.0] * 3, [0.0] * 3], (n, 1, 1)),
        light=np.tile([[1.0] * c, [0.0] * c], (n, 1, 1)),
        gamma=np.ones((n, c)),
        blur=np.zeros(n),
        noise=np.zeros(n),
        noise_seed=np.zeros(n, int),
        dropped=np.zeros((n, c), bool),
        mixup=np.ones(n),
        cut=np.zeros((n, 4)),
    )


def only(facts: ImageFacts = RGB, **shares: float) -> Augments:
    """Augments with these shares, and 0 for all others."""
    asked: Any = dict.fromkeys(NAMES, 0.0) | shares
    return choose_augments(asked, facts)


def some_tiles(n: int = 2, c: int = 3, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tiles = torch.randn((n, c, side, side), generator=generator)
    return tiles, torch.randint(IGNORED, 4, (n, side, side), generator=generator)
