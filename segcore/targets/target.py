"""Target: the files of one image, opened by what they are.

one mask --> MaskTarget; one file per object --> InstanceTarget; one per class --> ClassFiles; DICOM SEG --> SegTarget
"""

from collections.abc import Sequence

from segcore.sources import DEFAULT_OPENING, Opening, SourceInfo
from segcore.targets.base import Target, TargetOpening
from segcore.targets.class_files import ClassFiles
from segcore.targets.dicom_seg import SegTarget, is_dicom_seg
from segcore.targets.instances import InstanceTarget
from segcore.targets.masks import MaskTarget, ValidMask


def open_target(
    uris: Sequence[str],
    image: SourceInfo,
    how: TargetOpening,
    *,
    instances: bool | None = None,
    names: Sequence[str] = (),
) -> Target:
    """Open the mask file, or files, of one image.

    Args:
        uris: one mask, or one file per object or class.
        image: what the source is: its size, and where it lies.
        how: how the files are read.
        instances: are these files of one object each? By default: if there are several.
        names: the class of each file, where every file is one class.

    Raises:
        SourceError: one line with the file: unreadable, not on its source, or with values or colours that the table
            does not know.
    """
    assert uris, "a target needs at least one file"
    if names:
        return ClassFiles(uris, names, image, how)
    if len(uris) > 1 if instances is None else instances:
        return InstanceTarget(uris, image, how)
    if is_dicom_seg(uris[0]):
        return SegTarget(uris[0], image, how)
    return MaskTarget(uris[0], image, how)


def open_valid(uri: str, image: SourceInfo, opening: Opening = DEFAULT_OPENING) -> ValidMask:
    """Open a file that says which pixels are usable (not 0).

    Raises:
        SourceError: if it cannot be read, or does not lie on its source.
    """
    return ValidMask(uri, image, opening)
