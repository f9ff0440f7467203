"""Targets: the user's mask files and shapes as arrays of class ids and object ids.

    mask file(s), or a file of shapes, + class table --> Target.read(window) -> ids
                                                         Target.read_instances(window) -> object ids

Masks are opened through `segcore.sources`, so everything that is read as an image is read as a mask too. What opens
them, `segcore.targets.target`, loads GDAL; what is here does not.
"""

from segcore.targets.base import Kind, Target, TargetOpening
from segcore.targets.class_table import ClassTable, load_classes
from segcore.targets.geopackage import parts_of
from segcore.targets.naming import agreed_table

__all__ = [
    "ClassTable",
    "Kind",
    "Target",
    "TargetOpening",
    "agreed_table",
    "load_classes",
    "parts_of",
]
