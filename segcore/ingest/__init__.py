"""Ingest: source -> image.ome.zarr with its target, work unit by work unit, resumable.

    entries -> probe (child) -> plan -> work units (children) -> finish -> image, labels

One bad source fails alone; an unchanged one is skipped; a changed one takes the place of what it was.
"""

from segcore.ingest.run import ingest

__all__ = ["ingest"]
