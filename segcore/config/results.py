"""Results: what the stages are asked for that read finished masks."""

from typing import Literal

from pydantic import Field

from segcore.config.base import StageConfig


class ScoreConfig(StageConfig):
    """Masks and targets -> counts and scores."""

    model: str
    """Model id in the workspace (the mask's name), or the path of a model package."""
    images: tuple[str, ...] = ()
    """Image ids; none = every image that has the mask."""
    split: str | None = None
    """Only images of this split (train, val, test)."""


class ReportConfig(ScoreConfig):
    """Scores and pictures -> report.html and report.json."""

    run: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Run id: the folder under `reports/`; the time of day by default."""
    title: str = "Segmentation report"
    """Headline of the page."""
    failures: tuple[tuple[str, str], ...] = ()
    """Sources that failed before the report, each with its error in one line; named at the top of the page."""


class ExportConfig(StageConfig):
    """Masks -> files in the source's own geometry."""

    model: str
    """Model id in the workspace (the mask's name), or the path of a model package."""
    output: str
    """Folder to write to."""
    format: Literal["geotiff", "png", "geojson"] = "geotiff"
    """File format; `geojson` holds one polygon per region."""
    coordinates: Literal["auto", "crs"] = "auto"
    """Of a GeoJSON: `auto` = longitude and latitude (pixels without a CRS); `crs` = the image's own CRS."""
    images: tuple[str, ...] = ()
    """Image ids; none = every image that has the mask."""
    overwrite: bool = False
    """Write over files that exist; else one with this mask stays as it is, and one with another is refused."""
