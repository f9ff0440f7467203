"""Stamp: which mask an exported file holds, kept in the file itself."""

from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.store import Label

KEY = "SEGCORE_STAMP"
"""TIFF metadata item, PNG text chunk or GeoJSON member that holds it."""


def stamp(mask: Label, config: ExportConfig) -> str:
    """Equal for two files of one format only if they hold the same; letters, digits and dashes alone.

    Raises:
        StoreError: if the mask has no digest.
    """
    if not mask.digest:
        raise StoreError(f"image {mask.image_id}: mask {mask.name} has no digest; predict it again with --overwrite")
    return f"{mask.digest}-{config.coordinates}" if config.format == "geojson" else mask.digest
