"""Target: the files of one image, opened by what they are.

one mask, or one per frame or piece --> MaskTarget, or NumberedTarget where its values are object numbers
one file per object --> InstanceTarget; one per class --> ClassFiles
DICOM SEG --> SegTarget; polygons, lines, points --> VectorTarget; and the AOI around any of them
"""

from collections.abc import Sequence

from segcore.errors import SourceError
from segcore.sources import DEFAULT_OPENING, Joined, Opening, SourceInfo, open_source
from segcore.targets.aoi import within
from segcore.targets.base import Target, TargetOpening
from segcore.targets.class_files import ClassFiles
from segcore.targets.dicom_seg import SegTarget, is_dicom_seg
from segcore.targets.geopackage import parts_of
from segcore.targets.instances import InstanceTarget
from segcore.targets.masks import MaskTarget, ValidMask
from segcore.targets.numbered import NumberedTarget
from segcore.targets.vector import is_shapes, open_vector


def open_target(
    uris: Sequence[str],
    image: SourceInfo,
    how: TargetOpening,
    *,
    instances: bool | None = None,
    names: Sequence[str] = (),
    aoi: str | None = None,
) -> Target:
    """Open the target of one image: mask files, or a file of shapes.

    Args:
        uris: one mask, or one file per object, class, frame or piece; or shapes.
        image: what the source is: its size, and where it lies.
        how: how the files are read.
        instances: are these files of one object each? By default: if there are several.
        names: the class of each file, where every file is one class.
        aoi: a file of polygons, or a mask; outside it the target is ignore.

    Raises:
        SourceError: one line with the file: unreadable, not on its source, or with values, colours or names that the
            class table does not know.
    """
    beside = {part for uri in uris for part in parts_of(uri)[1:]}  # `{stem}.*` names a shapefile's other files too
    uris = [uri for uri in uris if uri not in beside]
    assert uris, "a target needs at least one file"
    target = _opened(uris, image, how, instances, names)
    return target if aoi is None else within(target, aoi, image, how)


def _opened(
    uris: Sequence[str], image: SourceInfo, how: TargetOpening, instances: bool | None, names: Sequence[str]
) -> Target:
    """The target by what its files are."""
    is_numbered = how.values == "objects"
    if names and is_numbered:
        raise SourceError(
            f"{uris[0]}: object numbers come in one file, not in one per class; leave out the class names"
        )
    if names:
        return ClassFiles(uris, names, image, how)
    if is_shapes(uris[0]):
        if image.axes != ("c", "y", "x"):
            raise SourceError(f"{image.uri}: shapes are drawn on (c, y, x) images, got axes {image.axes}")
        return open_vector(uris, image, how)
    if len(uris) > 1 and (joined := _joined(uris, image, how)) is not None:
        if is_numbered and joined.how == "mosaic":
            raise SourceError(f"{uris[0]}: the numbers of {len(uris)} pieces begin anew in each; give one file for all")
        return NumberedTarget(joined, image, how) if is_numbered else MaskTarget(joined, image, how)
    if is_numbered and len(uris) > 1:
        raise SourceError(f"{uris[0]}: {len(uris)} files for one image; object numbers come in one file")
    if not is_numbered and (len(uris) > 1 if instances is None else instances):
        return InstanceTarget(uris, image, how)
    if is_dicom_seg(uris[0]):
        return SegTarget(uris[0], image, how)
    return NumberedTarget(uris[0], image, how) if is_numbered else MaskTarget(uris[0], image, how)


def _joined(uris: Sequence[str], image: SourceInfo, how: TargetOpening) -> Joined | None:
    """Masks that are one together, as their image is: one per frame of a sequence, or per piece of a mosaic."""
    if image.axes[0] != "t" and image.reader != "mosaic":
        return None
    first, name = _mask_info(uris[0], how), uris[0].rpartition("/")[0] or "."
    if image.axes[0] == "t":
        if first.axes != ("c", "y", "x"):
            return None
        _check_frames(uris, image, how)
        return Joined(uri=name, how="frames", parts=tuple(uris))
    of_source = image.details.get("resampled", {}).get("source_shape", ())
    if first.shape[-2:] in (image.shape[-2:], tuple(of_source)):
        return None  # each of them covers all of it: one per object
    return Joined(uri=name, how="mosaic", parts=tuple(uris))


def _mask_info(uri: str, how: TargetOpening) -> SourceInfo:
    with open_source(uri, how.opening) as source:
        return source.info


def _check_frames(uris: Sequence[str], image: SourceInfo, how: TargetOpening) -> None:
    """Refuse masks of single frames that are not one for each, or of which each has another palette.

    Raises:
        SourceError: with both numbers, or the file.
    """
    if len(uris) != image.shape[0]:
        raise SourceError(
            f"{uris[0]}: {len(uris)} masks of one frame each for the {image.shape[0]} frames of {image.uri}; expected "
            "one for every frame"
        )
    palette = _mask_info(uris[0], how).details.get("palette")
    for uri in uris if palette is not None else ():
        if _mask_info(uri, how).details.get("palette") != palette:
            raise SourceError(f"{uri}: its palette is not that of {uris[0]}; masks of one sequence need the same")


def open_valid(uri: str, image: SourceInfo, opening: Opening = DEFAULT_OPENING) -> ValidMask:
    """Open a file that says which pixels are usable (not 0).

    Raises:
        SourceError: if it cannot be read, or does not lie on its source.
    """
    return ValidMask(uri, image, opening)
