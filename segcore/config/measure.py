"""Measure: what the stage is asked for that measures objects."""

from typing import Literal

from pydantic import Field

from segcore.config.base import StageConfig


class MeasureConfig(StageConfig):
    """Masks and their objects -> a table of objects, and totals."""

    model: str
    """Model id in the workspace (the mask's name), or the path of a model package."""
    images: tuple[str, ...] = ()
    """Image ids; none = every image that has the mask."""
    split: str | None = None
    """Only images of this split (train, val, test)."""
    run: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Run id: the folder under `reports/`; the time of day by default."""
    intensity: Literal["on", "off"] = "on"
    """Whether the image is read too: mean, least and greatest value of each band."""
