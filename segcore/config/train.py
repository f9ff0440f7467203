"""Train: what the stage is asked for."""

from typing import Literal, Self

from pydantic import Field, model_validator

from segcore.config.base import StageConfig


class TrainConfig(StageConfig):
    """Labelled images in the workspace -> a model package."""

    name: str = Field(default="unet", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    """Name of the model; its id is this and 8 hex digits of the package's digest."""
    architecture: Literal["unet", "conv1"] = "unet"
    """Kind of network."""
    channels: tuple[int, ...] = Field(default=(16, 32, 64, 128, 128), min_length=1, max_length=8)
    """Feature channels of each U-Net stage, finest first; the stride is 2^(stages - 1)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of channels that the coarser half of a U-Net drops in training; what predict's `samples` need."""
    tile_px: int = Field(default=128, ge=32)
    """Side of a training tile in px."""
    batch: int = Field(default=4, ge=1)
    """Tiles per training step."""
    level: int = Field(default=0, ge=0)
    """Pyramid level to train on; predict reads the level of the same pixel size."""
    minutes: float = Field(default=15.0, gt=0)
    """Time budget; the schedule is fitted to it."""
    max_steps: int | None = Field(default=None, ge=1)
    """Exact number of steps; given, it takes the place of the time budget (and makes a run repeatable)."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Highest learning rate; it warms up to this and decays to zero."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of AdamW."""
    ce_weight: float = Field(default=1.0, ge=0)
    """Weight of cross entropy in the loss."""
    dice_weight: float = Field(default=1.0, ge=0)
    """Weight of the Dice loss in the loss."""
    foreground_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the tiles that are centred on a pixel of a class drawn evenly, the rest anywhere usable."""
    validation_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of images, by group, held out for validation where the manifest gives no split."""
    validate_every: int = Field(default=0, ge=0)
    """Steps between validations; 0 = about ten in the budget."""
    validation_mpx: float = Field(default=4.0, gt=0)
    """Megapixels that a validation looks at, evenly spread over the held-out images; the last one at 16 times more."""
    stretch: Literal["auto", "on", "off"] = "auto"
    """Stretch each image's own intensities to the full range first; `auto` does where images differ much."""
    augment: bool = True
    """Flips, turns, scale, brightness, contrast, gamma, blur and noise, drawn anew for each tile."""
    cache_mib: int = Field(default=1024, ge=0)
    """Memory for decoded training images that stay at hand; the others are read tile by tile."""
    patience: int = Field(default=0, ge=0)
    """Validations without a better score before the run stops; 0 = never."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; `auto` takes CUDA, else MPS, else the CPU."""
    amp: bool = True
    """Mixed precision where the device has it."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of the model; 0 = all cores."""
    seed: int = 0
    """Of weights, tiles and augmentation."""
    run: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Run id; the same id goes on from its last checkpoint."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""

    @model_validator(mode="after")
    def _has_stages_to_drop_from(self) -> Self:
        if self.dropout and self.architecture != "unet":
            raise ValueError(f"dropout: expected the architecture unet, got {self.architecture}, which has no dropout")
        return self
