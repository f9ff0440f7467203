"""Train: what the stage is asked for.

Most of it may be left out: what is None, `auto` or empty is chosen from the images and the time (training/choice.py),
and the run says what it chose, and why.
"""

import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from segcore.config.base import StageConfig, checked_spacing

Loss = Literal["ce", "bce", "dice", "jaccard", "tversky", "focal", "lovasz", "boundary"]
Augment = Literal[
    "flip", "rotate", "scale", "elastic", "light", "gamma", "blur", "noise", "stain", "bands", "mixup", "cutmix"
]
MAX_NAME_LENGTH = 64

Share = Annotated[float, Field(ge=0, le=1)]


class TrainConfig(StageConfig):
    """Labelled images in the workspace -> a model package."""

    name: str | None = Field(default=None, pattern=rf"^[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_NAME_LENGTH - 1}}}$")
    """Name of the model; its id is this and 8 hex digits of the package's digest. The architecture where not given."""
    task: Literal["semantic", "instances"] = "semantic"
    """`semantic`: the class of each pixel; `instances`: touching objects apart too, from targets of one number or file
    each: predict then writes their ids beside the mask."""
    architecture: str = Field(default="unet", pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$")
    """Kind of network; `segcore models` lists them."""
    arguments: dict[str, str] = Field(default={})
    """Of the architecture, by name, e.g. encoder=resnet18; `segcore models NAME` lists them."""
    channels: tuple[int, ...] = Field(default=(), max_length=8)
    """Feature channels of each stage of a U-Net and its like, finest first; the stride is 2^(stages - 1). Chosen where
    not given."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of channels that the coarser half of a network drops in training; what predict's `samples` need."""
    norm_noise: float = Field(default=0.2, ge=0, le=1)
    """How far, in deviations, image norms take the statistics of half of the tiles to be off in training, so that
    images unlike all of these are met better; 0 = not at all."""
    init: str | None = None
    """Weights to begin with: a model in the workspace, the path of a model package, or a .safetensors file; layers that
    differ in shape (the last one, where the classes differ) begin anew, and are named."""
    unsafe_weights: bool = False
    """Let `init` be a .pt or .pth file too: read by torch's restricted loader, which builds nothing but tensors."""
    freeze: float = Field(default=0.0, ge=0, le=1)
    """Share of the run in which the encoder stays as `init` has it."""

    tile_px: int | None = Field(default=None, ge=32)
    """Side of a training tile in px. Chosen where not given."""
    tile_planes: int | None = Field(default=None, ge=1)
    """Planes of a training tile, of a network of volumes or sequences. Chosen where not given."""
    batch: int | None = Field(default=None, ge=1)
    """Tiles per training step. Chosen where not given."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients make one step."""
    level: int | None = Field(default=None, ge=0)
    """Pyramid level to train on; predict reads the level of the same pixel size. Where neither this nor `spacing` is
    given it is 0, or, of images whose pixel sizes differ, all are resampled to one."""
    spacing: str | None = None
    """Train at this size of a pixel (0.5um, 10m): of each image the nearest level is resampled to it."""
    minutes: float = Field(default=15.0, gt=0)
    """Time budget; the schedule is fitted to it."""
    max_steps: int | None = Field(default=None, ge=1)
    """Exact number of steps; given, it takes the place of the time budget (and makes a run repeatable)."""

    sampling: Literal["random", "epoch"] = "random"
    """`random` draws tiles anywhere, again and again; `epoch` takes every place once before any comes again."""
    foreground_share: float = Field(default=0.5, ge=0, le=1)
    """Of `random` tiles, share that lies at a pixel of a class drawn evenly, the rest anywhere usable."""
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default={})
    """By image id or group: how often its tiles are drawn; 1 where not given, 0 = never."""
    cache_mib: int = Field(default=1024, ge=0)
    """Memory for decoded training images that stay at hand; the others are read region by region."""
    readers: int = Field(default=2, ge=1)
    """Threads that read tiles."""

    loss: dict[Loss, float] = Field(default={})
    """Terms of the loss and their weights, e.g. ce=1 and dice=1. Chosen where not given."""
    class_weighting: Literal["none", "inverse", "effective"] = "none"
    """Weight classes in the loss by how rare they are: `inverse` of their share, or by their `effective` number."""
    class_weights: dict[str, float] = Field(default={})
    """By class name: weight in the loss; wins over `class_weighting`."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the cross-entropy's truth that is spread evenly over all classes."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """SGD is with Nesterov's momentum of 0.9."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Highest learning rate; 0.003 for AdamW and 0.05 for SGD where not given."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of the weights, not of biases and norms: decoupled in AdamW, L2 in SGD."""
    schedule: Literal["cosine", "poly", "onecycle", "plateau", "constant"] = "cosine"
    """How the learning rate goes down after the warm-up; `plateau` halves it when validations get no better."""
    warm_up: float = Field(default=0.05, ge=0, le=0.9)
    """Share of the run over which the learning rate rises."""
    ema: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the moving average of the weights, which is what is validated and kept; 0 = the weights themselves."""
    max_gradient: float = Field(default=1.0, ge=0)
    """Gradients are scaled down to this norm; 0 = never."""

    augment: bool = True
    """Change tiles anew each time they are seen: what it does suits the images (`segcore preview` shows it)."""
    augments: dict[Augment, Share] = Field(default={})
    """By name: share of the tiles that it changes; wins over what is chosen, 0 = never."""
    stretch: Literal["auto", "on", "off"] = "auto"
    """Stretch each image's own intensities to the full range first; `auto` does where images differ much."""

    validation_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of images, by group, held out for validation where the manifest gives no split."""
    validate_every: int = Field(default=0, ge=0)
    """Steps between validations; 0 = about ten in the budget."""
    validation_mpx: float = Field(default=4.0, gt=0)
    """Megapixels that a validation looks at, evenly spread over the held-out images; the last one at 16 times more."""
    picture: bool = True
    """Show a held-out tile with its target and mask in the model's card; it is part of the package."""
    drift_images: int = Field(default=64, ge=0)
    """Training images whose statistics are kept in the package, for `segcore drift` to hold new ones against; 0 = none.
    About a second each on a CPU."""
    patience: int = Field(default=0, ge=0)
    """Validations without a better score before the run stops; 0 = never."""
    folds: int = Field(default=0, ge=0)
    """Cross-validation: so many models, each held to the images of one fold, by group; 0 = one model."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; `auto` takes CUDA, else MPS, else the CPU."""
    amp: bool = True
    """Mixed precision where the device has it."""
    deterministic: bool = False
    """Use only kernels that give the same numbers each time, also on a GPU; slower there."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of the model; 0 = all cores."""
    seed: int = Field(default=0, ge=0)
    """Of weights, tiles and augmentation."""
    run: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Run id; the same id goes on from its last checkpoint."""
    mlflow: str | None = None
    """Tracking URI of an MLflow server or folder, which then gets the curve too."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""

    @property
    def model_name(self) -> str:
        """`name`, or that of the architecture, with `_` for what may not stand in an id."""
        return self.name or re.sub(r"[^A-Za-z0-9_-]", "_", self.architecture)[:MAX_NAME_LENGTH]

    @model_validator(mode="after")
    def _is_of_one_size(self) -> Self:
        if self.spacing is not None and self.level is not None:
            raise ValueError("level, spacing: expected one of the two, got both")
        if self.folds == 1:
            raise ValueError("folds: expected 2 or more, or 0 for one model")
        return self

    @model_validator(mode="after")
    def _asks_for_nothing_in_vain(self) -> Self:
        if self.freeze and self.init is None:
            raise ValueError("freeze: an encoder that begins with random weights would stay random; give init too")
        if self.loss and (min(self.loss.values()) < 0 or not any(self.loss.values())):
            raise ValueError(f"loss: expected weights of 0 or more, one of them above 0, got {self.loss}")
        if self.label_smoothing and self.loss and not self.loss.get("ce"):
            raise ValueError("label_smoothing: it is of the cross-entropy; give loss ce=1 too")
        for name in ("in_channels", "num_classes"):
            if name in self.arguments:
                raise ValueError(f"arguments: {name} follows from the images; leave it out")
        for name, is_given in (("channels", bool(self.channels)), ("dropout", bool(self.dropout))):
            if is_given and name in self.arguments:
                raise ValueError(f"arguments: {name} is given twice; leave it out here, or there")
        if self.task == "instances" and self.augments.get("mixup"):
            raise ValueError("augments: mixup gives a pixel two truths, of which objects have one; leave it out")
        if self.augments and not self.augment:
            raise ValueError("augments: nothing is augmented with augment off; leave one of the two out")
        return self

    @field_validator("arguments", mode="before")
    @classmethod
    def _as_written(cls, given: Any) -> Any:
        """Numbers and lists of a config file as text, as they come from the command line."""
        if not isinstance(given, dict):
            return given
        return {name: _as_text(value) for name, value in given.items()}

    _is_a_spacing = field_validator("spacing")(checked_spacing)


def _as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_as_text, value))
    return value if isinstance(value, str) else json.dumps(value)


class PreviewConfig(TrainConfig):
    """Labelled images -> a page that shows what the network would see; with the options that `train` will be given."""

    tiles: int = Field(default=12, ge=1, le=200)
    """Tiles on the page: the first that the run would see."""
    output: str | None = None
    """File to write; reports/preview/preview.html in the workspace where not given."""
