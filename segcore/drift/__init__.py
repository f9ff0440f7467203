"""Drift: images against those that a model was trained on -> *how unusual each is, and in what*.

    training images -> sample -> statistics -> drift.json in the model package
    new image       -> sample -> statistics -> distance from those -> score, words

`distance` and `words` are pure numpy; `stage` streams a workspace.
"""

from segcore.drift.stage import drift

__all__ = ["drift"]
