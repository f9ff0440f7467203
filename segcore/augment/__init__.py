"""Augment: tiles -> *other tiles that could have been* -> model. On the device; all that happens to a tile is seeded.

facts (what the images are) -> choice (which operations, at which share, and why) -> draw (numbers of one step, on the
host, a pure function of seed, step and tile) -> geometry, colour, mix (torch, on the batch).
"""

from segcore.augment.augmenter import Augmenter, augment
from segcore.augment.choice import OFF, Augments, choose_augments
from segcore.augment.draw import Augmentation, draw_augmentation
from segcore.augment.facts import ImageFacts, facts_of
from segcore.augment.mix import Augmented

__all__ = [
    "OFF",
    "Augmentation",
    "Augmented",
    "Augmenter",
    "Augments",
    "ImageFacts",
    "augment",
    "choose_augments",
    "draw_augmentation",
    "facts_of",
]
