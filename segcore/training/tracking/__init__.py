"""Tracking: what a training run shows of itself while it goes on."""

from segcore.training.tracking.curve import Curve, tracked
from segcore.training.tracking.glimpse import Glimpse
from segcore.training.tracking.pace import Pace

__all__ = ["Curve", "Glimpse", "Pace", "tracked"]
