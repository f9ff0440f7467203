"""Training: labelled images -> a model package, with validation, checkpoints and exact resume."""

from segcore.training.loop import StoppedError
from segcore.training.stage import train

__all__ = ["StoppedError", "train"]
