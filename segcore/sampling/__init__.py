"""Sampling: store -> *tiles* -> model. Tiles straight from the store, no folder of cut-outs between.

labelled.py reads an image and its target; index.py knows where each class is; anywhere.py and epoch.py decide which
tile is the i-th of a run, as a pure function of the seed; loader.py reads them.
"""

from segcore.sampling.anywhere import RandomSampler
from segcore.sampling.codes import IGNORED
from segcore.sampling.epoch import EpochSampler
from segcore.sampling.index import ClassIndex
from segcore.sampling.labelled import Int16s, LabelledImage, Pixels, Truth, keep_what_fits, middle
from segcore.sampling.loader import Loader
from segcore.sampling.sampler import Draw, Sampler

__all__ = [
    "IGNORED",
    "ClassIndex",
    "Draw",
    "EpochSampler",
    "Int16s",
    "LabelledImage",
    "Loader",
    "Pixels",
    "RandomSampler",
    "Sampler",
    "Truth",
    "keep_what_fits",
    "middle",
]
