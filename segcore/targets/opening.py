"""Opening: which kind of target the files of an image are: shapes, or masks; and the AOI around either."""

from collections.abc import Sequence

from segcore.errors import SourceError
from segcore.sources import SourceInfo
from segcore.targets.aoi import within
from segcore.targets.geopackage import parts_of
from segcore.targets.target import Target, TargetOpening
from segcore.targets.target import open_target as open_mask
from segcore.targets.vector import is_shapes, open_vector


def open_target(
    uris: Sequence[str],
    image: SourceInfo,
    how: TargetOpening,
    *,
    instances: bool | None = None,
    aoi: str | None = None,
) -> Target:
    """Open the target of one image: one mask, one mask per object, or one file of shapes.

    Args:
        uris: the files.
        image: what the source is: its size, spacing and georeference.
        how: how the files are read.
        instances: are these masks of one object each? By default: if there are several.
        aoi: a file of polygons, or a mask; outside it the target is ignore.

    Raises:
        SourceError: one line with the file: unreadable, of another size or place than its source, or with values,
            colours or names that the class table does not know.
    """
    beside = {part for uri in uris for part in parts_of(uri)[1:]}  # `{stem}.*` names a shapefile's other files too
    uris = [uri for uri in uris if uri not in beside]
    assert uris, "a target needs at least one file"
    if not is_shapes(uris[0]):
        target = open_mask(uris, image, how, instances=instances)
    elif image.axes != ("c", "y", "x"):
        raise SourceError(f"{image.uri}: shapes are drawn on (c, y, x) images, got axes {image.axes}")
    else:
        target = open_vector(uris, image, how)
    return target if aoi is None else within(target, aoi, image, how)
