"""Report: scores and pictures -> *one HTML file* that needs no network.

Pure: it is handed numbers and arrays, and imports neither torch nor zarr; `segcore.publish` reads the workspace.
"""

from segcore.report.content import (
    BandTable,
    Chip,
    ComparedImage,
    ComparisonContent,
    Fact,
    Failure,
    ImageRow,
    ObjectRow,
    ObjectTable,
    Panel,
    PictureRow,
    ReportContent,
    UnusualImages,
    UnusualRow,
)
from segcore.report.html import render, render_comparison

__all__ = [
    "BandTable",
    "Chip",
    "ComparedImage",
    "ComparisonContent",
    "Fact",
    "Failure",
    "ImageRow",
    "ObjectRow",
    "ObjectTable",
    "Panel",
    "PictureRow",
    "ReportContent",
    "UnusualImages",
    "UnusualRow",
    "render",
    "render_comparison",
]
