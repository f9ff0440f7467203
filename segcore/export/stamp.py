"""Stamp: which mask an exported file holds, and where that comes from; kept in the file itself."""

from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.store import Image, Label

KEY = "SEGCORE_STAMP"
"""TIFF metadata item, PNG text chunk, JSON member or DICOM parameter that holds it."""
LINEAGE = "SEGCORE_LINEAGE"
"""The same, of the lineage."""


def stamp(mask: Label, config: ExportConfig) -> str:
    """Equal for two files of one format only if they hold the same; letters, digits and dashes alone.

    Raises:
        StoreError: if the mask has no digest.
    """
    if not mask.digest:
        raise StoreError(f"image {mask.image_id}: mask {mask.name} has no digest; predict it again with --overwrite")
    options = {"geojson": config.coordinates, "dicom-seg": config.dicom_segmentation, "cog": "cog"}
    option = options.get(config.format)
    return mask.digest if option is None else f"{mask.digest}-{option}"


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
