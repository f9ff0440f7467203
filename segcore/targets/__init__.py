"""Targets: the user's mask files as arrays of class ids and object ids.

    mask file(s) + class table --> Target.read(window) -> ids, Target.read_instances(window) -> object ids

Files are opened through `segcore.sources`, so everything that is read as an image is read as a mask too.
"""

from segcore.targets.base import Kind, Target, TargetOpening
from segcore.targets.class_table import ClassTable, load_classes
from segcore.targets.masks import ValidMask
from segcore.targets.target import open_target, open_valid

__all__ = ["ClassTable", "Kind", "Target", "TargetOpening", "ValidMask", "load_classes", "open_target", "open_valid"]
