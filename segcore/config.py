"""Config: one frozen model per stage, shared by the command line, the YAML file and the Prefect form."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from segcore.errors import ConfigError
from segcore.spatial import WantedSpacing

StageT = TypeVar("StageT", bound="StageConfig")


def escaped(name: Any) -> Any:
    """A file name that can be printed and stored: bytes in it that are not UTF-8 become `\\udc..`."""
    return name.encode(errors="backslashreplace").decode() if isinstance(name, str) else name


def parse_shares(text: str) -> tuple[float, float, float]:
    """Shares of train, val and test from `80/10/10` or `0.8/0.2`; they are normalised, a missing one is 0.

    Raises:
        ValueError: if these are no such numbers.
    """
    try:
        numbers = [float(part) for part in text.split("/")]
    except ValueError:
        numbers = []
    if not 2 <= len(numbers) <= 3 or min(numbers) < 0 or not 0 < sum(numbers) < float("inf"):
        raise ValueError(f"expected shares of train/val/test such as 80/10/10, got '{text}'")
    train, val, test = (*numbers, 0.0)[:3]
    total = train + val + test
    return train / total, val / total, test / total


class StageConfig(BaseModel):
    """Base of all stage configs: frozen, and a key it does not know is refused with the nearest match."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    workspace: str
    """Folder or object-store prefix (`s3://...`) that holds images, masks, models and reports."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(unknown_key(str(key), list(cls.model_fields)))
        return values


class IngestConfig(StageConfig):
    """Sources -> images in the workspace, with their targets."""

    sources: tuple[Annotated[str, BeforeValidator(escaped)], ...] = ()
    """Files, globs, folders or URLs to ingest."""
    manifest: str | None = None
    """CSV with the columns source, target, target_values, aoi, valid, split, group, and any metadata; paths relative to
    the file."""
    targets: str | None = None
    """Pattern of each source's target; `{stem}` is the source's name without suffix, `{parent}` its folder. One
    file per class: `axon={parent}/{stem}_axon.png;myelin={parent}/{stem}_myelin.png`."""
    aoi: str | None = None
    """Pattern of each source's area of interest, like `targets`: polygons, or a mask; outside it targets are ignore."""
    classes: str | None = None
    """Class table (CSV, YAML or JSON): id, name, color; RGB-coded targets are read by its colours. Or a built-in one:
    cityscapes, cityscapes-train, pascal-voc, camvid."""
    ids: Literal["name", "hash"] = "name"
    """`hash` keeps the sources' names out of image ids, and so out of what names images by them. The workspace's own
    metadata and `--json` still hold each source's path; a source that fails or is gone is named."""
    stack: bool = False
    """The files of one folder, or of one pattern, are the bands of one image (Sentinel-2: one file per band)."""
    mosaic: bool = False
    """The files of one folder, or of one pattern, are neighbouring pieces of one georeferenced image."""
    frames: bool = False
    """The files of one folder, or of one pattern, are the frames of one sequence, in the order of their names."""
    spacing: str | None = None
    """Resample to this size of a pixel: 0.5 in the source's own unit, or 0.5um, 10m; where a source does not tell
    its own, take this for it."""
    warp: bool = False
    """Warp files that have ground-control points instead of a transform; else they are refused."""
    array_axes: str | None = Field(default=None, pattern=r"^[tczyx]{2,5}$")
    """Axes of NPY and HDF5 arrays, e.g. zyx or yxc; guessed where not given."""
    target_values: Literal["classes", "objects"] | None = None
    """What the pixel values of masks are: class ids, or object numbers (0 is background). Where not given: class ids,
    unless they look like object numbers; these are refused."""
    threshold: float | None = None
    """Grey targets: values above it are class 1, others class 0."""
    tolerance: int = Field(default=0, ge=0, le=64)
    """RGB-coded targets: how far a colour may be from its class's, in each channel (JPEG noise)."""
    buffer: float = Field(default=0.0, ge=0)
    """Lines and points of vector targets are widened by this on every side, in the unit of the image's spacing."""
    class_property: str | None = None
    """Property of vector targets that names the class; found by itself where not given."""
    link: bool = False
    """Leave the pixels where they are: the image holds metadata only, and reads go to the source."""
    copy_source: bool = False
    """Copy the source byte for byte into the workspace, and link the image to the copy."""
    foreground: Literal["auto", "otsu", "nodata", "off"] = "auto"
    """Where it is worth looking, kept as a label: `otsu` (coloured tissue), `nodata` (all that is usable)."""
    split: str | None = None
    """Shares of train/val/test, e.g. 80/10/10, for sources to which the manifest gives none; a group stays together."""
    split_seed: int = 0
    """Another one, another split (of groups that have none yet)."""
    group: str | None = None
    """Regular expression; its first parentheses match a source's group in its path (a patient, a scene)."""
    quiet_minutes: float = Field(default=0.0, ge=0)
    """A file that changed within so many minutes is still being written: it waits for the next run. One whose time
    lies further than that in the future does not wait."""
    limits: tuple[str, ...] = ()
    """What a file may ask for, NAME=NUMBER: max_px, max_channels, max_pages, max_tile_bytes, max_whole_px..."""
    overwrite: bool = False
    """Rewrite images that exist under another plan, and make lost shards again."""
    shard_px: int = Field(default=2048, ge=256, multiple_of=256)
    """Side of a shard, the unit of writing, in px."""
    ngff: Literal["0.5", "0.4"] = "0.5"
    """OME-NGFF version of new images and of all masks beneath them: 0.5 (sharded), or 0.4 for QuPath."""
    processes: int = Field(default=0, ge=0)
    """Decoding processes; 0 = one per core."""
    open_deadline_s: float = Field(default=60.0, gt=0)
    """A source that takes longer to open is refused."""
    read_deadline_s: float = Field(default=120.0, gt=0)
    """A source of which one shard takes longer to decode is refused."""
    memory_mib: int = Field(default=1024, ge=256)
    """Memory that decoding one source may take, over the decoder's own."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""

    @model_validator(mode="after")
    def _have_sources(self) -> Self:
        if not self.sources and self.manifest is None:
            raise ValueError("nothing to ingest: give sources, or a manifest")
        if self.manifest is not None and (self.sources or self.targets or self.aoi):
            raise ValueError("a manifest names sources and targets itself: give either it, or sources and targets")
        if self.aoi is not None and self.manifest is None and self.targets is None:
            raise ValueError("aoi says where targets count: give targets too")
        if sum((self.stack, self.mosaic, self.frames)) > 1:
            raise ValueError("give one of stack, mosaic and frames: files are joined in one way")
        if self.target_values == "objects" and self.threshold is not None:
            raise ValueError("threshold makes grey levels one class; object numbers need none: give one of the two")
        if self.link and self.copy_source:
            raise ValueError("give link, or copy_source, which links to a copy")
        return self

    @field_validator("split")
    @classmethod
    def _is_a_split(cls, text: str | None) -> str | None:
        if text is not None:
            parse_shares(text)
        return text

    @field_validator("group")
    @classmethod
    def _has_one_group(cls, pattern: str | None) -> str | None:
        try:
            if pattern is not None and re.compile(pattern).groups < 1:
                raise ValueError("expected a regular expression with one group in parentheses: 'patient(\\d+)'")
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from error
        return pattern

    @field_validator("spacing")
    @classmethod
    def _is_a_spacing(cls, text: str | None) -> str | None:
        if text is not None:
            WantedSpacing.parse(text)
        return text


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


class PredictConfig(StageConfig):
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
    thresholds: dict[str, float] = {}
    """By class name: the class is taken where its probability reaches this, and nowhere else."""
    min_confidence: dict[str, float] = {}
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
    """Arithmetic of the model, or all of an ensemble; `auto` is the fastest that agrees with float32."""
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
    dry_run: bool = False
    """Say what would be done, and do nothing."""

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
        return self


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


RESERVED_NAMES = ("image", "target", "target_instances", "valid", "foreground")
"""What no mask may be called: the image itself, and the labels that no model makes."""

STAGES: dict[str, type[StageConfig]] = {
    "ingest": IngestConfig,
    "train": TrainConfig,
    "predict": PredictConfig,
    "score": ScoreConfig,
    "report": ReportConfig,
    "export": ExportConfig,
}


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a key that a config does not have, with the nearest one it has."""
    nearest = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key '{key}': {hint}"


def build_config(stage: type[StageT], values: Mapping[str, Any], where: str = "the options") -> StageT:
    """Check the values of one stage.

    Args:
        stage: the config's class.
        values: keys and values as the user gave them.
        where: what to name in an error (a file, "the options").

    Raises:
        ConfigError: one line with the first thing that is wrong.
    """
    try:
        return stage.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: {f'{place}: ' if place else ''}{message}") from error


def load_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: if it cannot be read, is not YAML, or is not a mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    return values
