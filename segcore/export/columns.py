"""Columns: what a GIS learns of each feature, the same in GeoJSON, GeoPackage and GeoParquet."""

from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.export.features import Features, FeatureSource


def columns(source: FeatureSource, batch: Features) -> dict[str, npt.NDArray[Any]]:
    """By name, (N,) each: id, class_id, class, color, area_px; where known area_m2 or area_um2, and confidence."""
    ids = np.array([info.id for info in source.classes], np.int32)
    names = np.array([info.name for info in source.classes], dtype=object)
    colors = np.array(["#{:02x}{:02x}{:02x}".format(*info.color) for info in source.classes], dtype=object)
    found: dict[str, npt.NDArray[Any]] = {
        "id": batch.numbers,
        "class_id": ids[batch.rows],
        "class": names[batch.rows],
        "color": colors[batch.rows],
        "area_px": batch.num_px,
        **{f"area_{unit}": areas for unit, areas in source.areas(batch).items()},
    }
    if source.has_confidence:
        found["confidence"] = batch.confidences
    return found
