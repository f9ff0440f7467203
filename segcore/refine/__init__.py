"""Refine: a finished mask -> *a better one*, and its objects, before scoring and export.

open, close (morphology) -> fill holes, drop what is small or not the largest (rules, on components) -> the mask
"""

from segcore.refine.stage import refine

__all__ = ["refine"]
