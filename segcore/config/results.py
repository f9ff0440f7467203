"""Results: what the stages are asked for that read finished masks."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from segcore.config.base import SpreadConfig, StageConfig
from segcore.results import StageTold
from segcore.spatial import parse_length


class _Scoring(StageConfig):
    """What scores and reports are both asked for."""

    model: str
    """Model id in the workspace (the mask's name), or the path of a model package."""
    images: tuple[str, ...] = ()
    """Image ids; none = every image that has the mask."""
    split: str | None = None
    """Only images of this split (train, val, test)."""
    boundary: Literal["on", "off"] = "on"
    """Whether boundaries are scored too: HD95, ASSD, NSD, boundary IoU."""
    tolerance: str = "2px"
    """How far off a boundary may be and still be right (NSD), and the width of boundary IoU's band: 2px, 1um, 3m."""
    boundary_halo_px: int | None = Field(default=None, ge=1, le=1024)
    """Distances between boundaries are measured up to so many pixels, and longer ones count as that; by default 64, and
    32 in volumes."""
    probs: Literal["on", "off"] = "on"
    """Whether probabilities are scored too, where predict wrote the layer `probs`: AUC, AP, calibration."""
    both_empty: Literal["undefined", "one"] = "undefined"
    """What a class counts as where neither target nor mask has it: nothing, so it enters no mean, or as perfect."""
    resamples: int = Field(default=1000, ge=0, le=100_000)
    """Times that the images (or groups) are drawn again for the 95 % intervals; 0 = no intervals."""
    against: str | None = None
    """Another mask (or model) of the same images: the difference of the scores, with its interval."""

    @field_validator("tolerance")
    @classmethod
    def _is_a_length(cls, text: str) -> str:
        parse_length(text)
        return text


class ScoreConfig(_Scoring, SpreadConfig):
    """Masks and targets -> counts and scores."""


class ReportConfig(_Scoring):
    """Scores and pictures -> report.html and report.json."""

    model: str = ""
    """Model id in the workspace (the mask's name), or the path of a model package. Or give --compare."""
    compare: tuple[str, str] | None = None
    """Two masks side by side, the second one as the measure: each a mask, a model, the run id of a report, or the
    folder of a report in any workspace."""
    run: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Run id: the folder under `reports/`; the time of day by default."""
    title: str = "Segmentation report"
    """Headline of the page."""
    failures: tuple[tuple[str, str], ...] = ()
    """Sources that failed before the report, each with its error in one line; named at the top of the page."""
    stages: tuple[StageTold, ...] = ()
    """What ran before the report, for the page."""

    @model_validator(mode="after")
    def _is_of_one_mask_or_two(self) -> Self:
        if not self.model and self.compare is None:
            raise ValueError("model: expected a mask's name, a model id or package; or two of them as `compare`")
        if self.compare is not None and (self.model or self.against):
            raise ValueError("compare: expected it alone, got `model` or `against` too; it names both masks itself")
        return self


class ExportConfig(SpreadConfig):
    """Masks -> files in the source's own geometry."""

    model: str
    """Model id in the workspace (the mask's name), or the path of a model package."""
    output: str
    """Folder to write to."""
    format: Literal[
        "geotiff", "cog", "png", "ome-tiff", "ome-zarr", "nifti", "dicom-seg", "geojson", "geopackage", "geoparquet"
    ] = "geotiff"
    """File format; `geojson`, `geopackage` and `geoparquet` hold one polygon per region or object, `ome-zarr` is a
    folder (version 0.4, for QuPath)."""
    coordinates: Literal["auto", "crs", "pixels"] = "auto"
    """Of polygons: `crs` = the image's own CRS; `pixels` = those of the full resolution, as QuPath takes them; `auto` =
    longitude and latitude in GeoJSON and `crs` in the others, but `pixels` where an image has no CRS."""
    simplify: str | None = None
    """Polygons with fewer corners, none farther than this from where it was: 1px (of the mask), 0.5um, 3m."""
    dicom_segmentation: Literal["binary", "labelmap"] = "binary"
    """Of a DICOM SEG: `binary` = one frame per class and plane, which every viewer reads; `labelmap` = one per plane,
    far smaller."""
    stac: bool = False
    """Also write a STAC item beside each file (`<file>.json`), linked to one of the model."""
    images: tuple[str, ...] = ()
    """Image ids; none = every image that has the mask."""
    overwrite: bool = False
    """Write over files that exist; else one with this mask stays as it is, and one with another is refused."""
    renew: bool = False
    """Write over files that an earlier export wrote of another mask; one with this mask stays, and so do others'."""

    @field_validator("simplify")
    @classmethod
    def _is_a_length(cls, text: str | None) -> str | None:
        if text is not None:
            parse_length(text)
        return text
