"""Explain: what the stage is asked for."""

from typing import Literal

from pydantic import Field

from segcore.config.base import StageConfig

Method = Literal["band_occlusion", "grad_cam", "integrated_gradients"]


class ExplainConfig(StageConfig):
    """Masks and the model that made them -> why it said so: which band mattered, and where it looked."""

    model: str
    """Model id in the workspace, or the path of a model package."""
    images: tuple[str, ...] = ()
    """Image ids; none = every image that has the mask."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Name of the mask under `labels/`; the model id by default."""
    method: Method = "band_occlusion"
    """`band_occlusion`: a table of how much less sure the model is without each band, and layers of where; `grad_cam`:
    layers of where features speak for a class; `integrated_gradients`: layers of the pixels that do, and a table of the
    bands."""
    classes: tuple[str, ...] = ()
    """Classes to explain, by name; none = all but the background."""
    mpx: float = Field(default=2.0, gt=0)
    """Megapixels that are looked at in each image for each class, in tiles spread over where the mask has it."""
    tile_px: int = Field(default=256, ge=16)
    """Side of such a tile, without its halo, in px; about."""
    steps: int = Field(default=32, ge=2, le=1000)
    """Of `integrated_gradients`, between the baseline and the image: more are more exact."""
    features: str = ""
    """Of `grad_cam`: the module whose features are weighed, by its name in the network; the last of the coarsest by
    default."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; `auto` takes CUDA, else MPS, else the CPU."""
    shard_px: int = Field(default=2048, ge=256, multiple_of=256)
    """Side of the layers' shards in px."""
    overwrite: bool = False
    """Rewrite layers that were made with other settings."""
