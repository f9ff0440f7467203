"""Stamp: which mask an exported file holds, and where that comes from; kept in the file itself."""

import re

from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.spatial import parse_length
from segcore.store import Image, Label

KEY = "SEGCORE_STAMP"
"""TIFF metadata item, PNG text chunk, JSON member, metadata key or DICOM parameter that holds it."""
LINEAGE = "SEGCORE_LINEAGE"
"""The same, of the lineage."""
VECTOR = ("geojson", "geopackage", "geoparquet")
"""Formats of polygons, which hold the same mask in several ways."""

UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+")
"""Control characters, and what is no character at all."""


def stamp(mask: Label, config: ExportConfig) -> str:
    """Equal for two files of one format only if they hold the same; letters, digits, dots and dashes alone.

    Raises:
        StoreError: if the mask has no digest.
    """
    if not mask.digest:
        raise StoreError(f"image {mask.image_id}: mask {mask.name} has no digest; predict it again with --overwrite")
    options: tuple[str | None, ...]
    if config.format in VECTOR:
        options = (config.coordinates, config.simplify and _length(config.simplify))
    else:
        options = ({"dicom-seg": config.dicom_segmentation, "cog": "cog"}.get(config.format),)
    return "-".join(filter(None, (mask.digest, *options)))


def _length(text: str) -> str:
    """The same for every way to write it, without a character that a stamp has not."""
    value, unit = parse_length(text)
    return f"{value:g}{unit}".replace("+", "")


def lineage(image: Image, mask: Label) -> dict[str, str]:
    """What a mask was made of, and by what: digests and versions, never a name from the source."""
    model = mask.attributes.get("model") or {}
    found = {
        "source_digest": image.digest,
        "mask": mask.name,
        "plan_digest": mask.digest,
        "model": model.get("id"),
        "model_digest": model.get("digest"),
        "code_version": mask.attributes.get("code_version"),
    }
    return {key: str(value) for key, value in found.items() if value}


def plain(name: str) -> str:
    """A class's name without what XML and DICOM cannot hold; names come from users' files."""
    return UNFIT.sub(" ", name)
