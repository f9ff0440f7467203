"""Weights: how often the tiles of an image are drawn, as the user asks by its id or its group."""

import difflib
import math
from collections.abc import Mapping, Sequence

from segcore.errors import ConfigError
from segcore.sampling import LabelledImage
from segcore.store import Image


def checked_names(weights: Mapping[str, float], images: Sequence[Image]) -> None:
    """Refuse a name that no image and no group has.

    Raises:
        ConfigError: with the nearest name.
    """
    known = {image.image_id for image in images} | {str(image.group) for image in images if image.group}
    for name in weights:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ConfigError(f"weights: no image and no group is called '{name}'; the nearest name is '{nearest[0]}'")


def image_weights(weights: Mapping[str, float], images: Sequence[LabelledImage]) -> tuple[float, ...]:
    """Of each image: its own weight times its group's, 1 where there is none.

    Raises:
        ConfigError: if all are 0.
    """
    names_of = ({image.image_id, image.image.group} for image in images)
    found = tuple(math.prod(weights.get(str(name), 1.0) for name in names if name) for names in names_of)
    if not any(found):
        raise ConfigError(f"weights: all {len(images)} training images have the weight 0; give one of them more")
    return found
