"""Predict: what the stage is asked for."""

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from segcore.config.base import SpreadConfig
from segcore.until import checked_until

RESERVED_NAMES = ("image", "target", "target_instances", "valid", "foreground")
"""What no mask may be called: the image itself, and the labels that no model makes."""


class PredictConfig(SpreadConfig):
    """Images and a model package -> masks."""

    model: str
    """Model id in the workspace, or the path of a model package."""
    images: tuple[str, ...] = ()
    """Image ids; none = every image in the workspace."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Name of the mask under `labels/`; the model id by default."""
    blend: Literal["auto", "crop", "gaussian"] = "auto"
    """`crop`: each tile writes its centre alone; `gaussian`: overlapping tiles are averaged; `auto` is crop, but for a
    model that looks at the whole tile."""
    tile_px: int | None = Field(default=None, ge=16)
    """Side of a tile's write window in px (`gaussian`: of the whole tile); the package's by default."""
    halo: Literal["exact", "fast"] | int = "fast"
    """Context around the write window: `exact` = all that the model looks at, so that the mask is that of the whole
    image; `fast` = the package's, smaller; or a number of px, rounded up to the model's stride."""
    tile_planes: int | None = Field(default=None, ge=1)
    """Planes of z or t in a tile's write window, for a model that sees several; the package's by default."""
    halo_planes: int | None = Field(default=None, ge=0)
    """Context before and behind them; by default what `halo` says."""
    spacing_tolerance: float | None = Field(default=None, ge=0, le=3)
    """How far an image's pixel size, at its nearest level, may be from the model's, as a part of it (0.1 = 10 %); what
    is within it, but off by more than 2 %, is resampled. The package's by default."""
    thresholds: dict[str, float] = Field(default={})
    """By class name: the class is taken where its probability reaches this, and nowhere else."""
    min_confidence: dict[str, float] = Field(default={})
    """By class name: a pixel whose class has a smaller probability becomes `ignore`."""
    layers: tuple[Literal["probs", "entropy", "margin", "variance"], ...] = ()
    """Images beside the mask: probabilities, and how sure the model is (`variance` is over views, models and
    samples)."""
    layer_classes: tuple[str, ...] = ()
    """Classes in `probs`; none = all."""
    layer_dtype: Literal["uint8", "float16"] = "uint8"
    """uint8: 0 to 255 for 0 to 1."""
    layer_level: int = Field(default=0, ge=0)
    """Pyramid level of the image that is the finest of its layers."""
    views: Literal["none", "flips", "d4"] = "none"
    """Test-time augmentation: each tile is seen mirrored (4 views), or turned and mirrored (8)."""
    view_scales: tuple[float, ...] = ()
    """Further scales at which each tile is seen, beside its own, e.g. 0.8 and 1.25."""
    ensemble: tuple[str, ...] = ()
    """Further models, whose probabilities are averaged with the first one's."""
    samples: int = Field(default=0, ge=0, le=1000)
    """Monte-Carlo dropout: so many sub-networks of a model with dropout are averaged; 0 = the model itself."""
    foreground: str = "auto"
    """Look only where a label of the image marks something: `auto` = the foreground that ingest found by colour; a
    label's name (the mask of a tissue model, say: any class but 0); or `off`."""
    aoi: str | None = None
    """Look only where polygons lie: a file (GeoJSON, GeoPackage, shapefile), or a pattern with `{stem}` and `{parent}`
    of each image's source; tiles beyond become `ignore`."""
    skipped_as: str = "auto"
    """Class of tiles outside the foreground or the screen, or `ignore`; `auto` = the class called background, if the
    model has one. In images with a nodata value they are `ignore`."""
    screen: str | None = None
    """A first model, cheap and usually of a coarse level: what its mask `<name>.screen` marks is looked at closely."""
    screen_classes: tuple[str, ...] = ()
    """Classes of the screen that ask for a closer look; none = all but class 0."""
    screen_margin_px: int = Field(default=8, ge=0)
    """How far around them, in px of the screen's mask."""
    batch: int = Field(default=1, ge=1)
    """Tiles that go through the model at once; 1 for sizes of tile at which an answer would depend on its place."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the model, or all of an ensemble; `auto` is float32, or what agrees with it and was measured
    to be at least 1.2 times as fast."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; `auto` takes CUDA, else MPS, else the CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether the model runs as one fused program (`torch.compile`), made in seconds for each size of tile; `auto` = on
    CUDA where it was measured to be at least 5 % faster."""
    tile_workers: int = Field(default=0, ge=0)
    """Threads that run the model, one core each; 0 = one per core (CPU), three for each GPU."""
    shard_px: int = Field(default=2048, ge=256, multiple_of=256)
    """Side of the mask's shards in px."""
    overwrite: bool = False
    """Rewrite a mask of the same name that was made under another plan, and make lost shards again."""
    until: str | None = None
    """Take no new work after this time of day (`06:00`, `06:00 Europe/Berlin`) or moment; what is left is for the next
    call."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""

    _is_a_moment = field_validator("until")(checked_until)

    @field_validator("halo", mode="before")
    @classmethod
    def _is_a_halo(cls, value: Any) -> Any:
        is_number = not isinstance(value, bool) and re.fullmatch(r"\d+", str(value))
        if value not in ("exact", "fast") and not is_number:
            raise ValueError(f"expected exact, fast or a number of px, got {value!r}")
        return int(value) if is_number else value

    @model_validator(mode="after")
    def _keep_reserved_names(self) -> Self:
        if self.name in RESERVED_NAMES:
            raise ValueError(f"name: '{self.name}' is the workspace's own; give the mask another name")
        if self.name is not None and self.name.endswith("_instances"):
            raise ValueError(f"name: '{self.name}' is what the objects of a mask are called; leave out the ending")
        return self
