"""Sampling: store -> *tiles* -> model. Random tiles straight from the store, no folder of cut-outs between.

Which tile is the k-th of step s is a pure function of (seed, s, k): a resumed run sees the tiles of an undisturbed
one, whatever was prefetched. An index, made once at the start, knows where each class is, so that rare ones are
seen as often as common ones.
"""

from segcore.sampling.index import ClassIndex
from segcore.sampling.labelled import IGNORED, Int16s, LabelledImage, Pixels, keep_what_fits
from segcore.sampling.loader import batches
from segcore.sampling.sampler import Draw, Sampler

__all__ = [
    "IGNORED",
    "ClassIndex",
    "Draw",
    "Int16s",
    "LabelledImage",
    "Pixels",
    "Sampler",
    "batches",
    "keep_what_fits",
]
