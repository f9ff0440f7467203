"""Tune: labelled images -> the settings that train the best model; each trial is a training run."""

from segcore.tune.stage import tune

__all__ = ["tune"]
