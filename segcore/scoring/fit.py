"""Fit: whether mask, target and objects of an image can be held against each other: sides and class tables."""

from collections.abc import Sequence

from segcore.classes import ClassInfo
from segcore.errors import StoreError
from segcore.scoring.stream import Subject


def check_fit(subject: Subject) -> None:
    """Refuse labels of an image that cannot be held against each other.

    Raises:
        StoreError: naming image and label, and what is expected of it.
    """
    image, mask, target, level = subject.image, subject.mask, subject.target, subject.mask.base_level
    where = f"image {image.image_id}"
    sides = tuple(n for n, axis in zip(image.shape(level), image.axes, strict=True) if axis != "c")
    if mask.shape() != sides:
        raise StoreError(
            f"{where}: mask {mask.name} has sides {mask.shape()}, expected the image's {sides} at level {level}"
        )
    for objects, at in ((subject.mask_objects, 0), (subject.target_objects, level)):
        if objects is not None and objects.shape(at) != sides:
            raise StoreError(f"{where}: {objects.name} has sides {objects.shape(at)}, expected the mask's {sides}")
    if not mask.classes:
        raise StoreError(f"{where}: mask {mask.name} has no class table; predict it again with --overwrite")
    if len({info.name for info in mask.classes}) < len(mask.classes):
        raise StoreError(f"{where}: two classes of mask {mask.name} have one name: {named(mask.classes)}")
    if target is None:
        return
    if target.shape(level) != sides:
        raise StoreError(
            f"{where}: its target has sides {target.shape(level)}, expected the image's {sides} at level {level}"
        )
    if class_ids(target.classes) != class_ids(mask.classes):
        raise StoreError(
            f"{where}: its target has the classes {named(target.classes)}, mask {mask.name} has "
            f"{named(mask.classes)}; score a model that was trained on this target's classes"
        )


def class_ids(classes: Sequence[ClassInfo]) -> list[tuple[int, str]]:
    """Ids and names, which two masks have to share to be scored together."""
    return sorted((info.id, info.name) for info in classes)


def named(classes: Sequence[ClassInfo]) -> str:
    """A class table in one line, for an error."""
    return "(" + ", ".join(f"{info.id} {info.name}" for info in classes) + ")"
