"""Report: scores and pictures -> *one HTML file* that needs no network.

Pure: it is handed numbers and arrays, and imports neither torch nor zarr; `segcore.publish` reads the workspace.
"""

from segcore.report.content import (
    BandTable,
    Chip,
    Fact,
    Failure,
    ImageRow,
    Panel,
    PictureRow,
    ReportContent,
    UnusualImages,
    UnusualRow,
)
from segcore.report.html import render

__all__ = [
    "BandTable",
    "Chip",
    "Fact",
    "Failure",
    "ImageRow",
    "Panel",
    "PictureRow",
    "ReportContent",
    "UnusualImages",
    "UnusualRow",
    "render",
]
