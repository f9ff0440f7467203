"""Plan: all that decides the pixels of one image's mask, resolved and frozen before its first tile."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

import segcore
from segcore.config import PredictConfig
from segcore.errors import ConfigError
from segcore.geometry import Ints
from segcore.inference.contract import check_alike
from segcore.inference.decision import KINDS, Decision, Kind, ids_of
from segcore.inference.model_grid import ModelGrid
from segcore.inference.numerics import Recipe, devices_of
from segcore.inference.tiling import Tiling, crop_tiling, gaussian_tiling, rounded_up
from segcore.inference.tuning import WORKERS_PER_GPU, Tuning
from segcore.inference.views import views_of
from segcore.measure import num_cores
from segcore.models.info import InputContract
from segcore.models.package import ModelPackage, read_package
from segcore.models.receptive import with_field
from segcore.store import Image, PyramidSpec, Workspace

EXACT_TILE_PX = 1024
"""With a halo that is exact, write windows are at least this wide..."""
EXACT_WASTE = 1.6
"""...and so wide that no more pixels than this are inferred per pixel that is written..."""
EXACT_READ_PX = 8 << 20
"""...unless a read window had more pixels than this: a bound on memory."""

TUNED_FROM_PX = 4096
"""Side of an image from which the fastest tile is worth its measurement; smaller ones take the package's own."""

ENGINE = 2
"""Goes up with every change of this code that can change a pixel."""

STALE_WITH = ("source",)
"""Keys of the plan whose change alone makes a mask stale: another plan, but no contradiction."""


@dataclass(frozen=True)
class Job:
    """What one call of predict does to every image."""

    config: PredictConfig
    package: ModelPackage
    device: torch.device
    recipe: Recipe
    precision: str = "float32"
    batch: int = 1
    tuning: Tuning | None = None

    def tiling(self, grid: ModelGrid) -> Tiling:
        """The tile grid of an image."""
        return tiling_for(self.config, self.package, grid, self.tuning)

    @property
    def name(self) -> str:
        """Name of the masks under `labels/`."""
        if self.config.name or not self.recipe.ensemble:
            return self.config.name or self.package.model_id
        digests = "".join(package.digest for package in (self.package, *self.recipe.ensemble))
        return f"ensemble-{hashlib.sha256(digests.encode()).hexdigest()[:8]}"

    @property
    def blend(self) -> str:
        """What `auto` means for this model."""
        return blend_for(self.config, self.package.contract)

    @property
    def ignore(self) -> int:
        """Id of unusable pixels in the mask."""
        return ignore_of(self.package)

    @property
    def dtype(self) -> str:
        """Of the mask: uint8 while ids and `ignore` fit."""
        return "uint8" if len(self.package.classes) <= 255 else "uint16"

    @property
    def tile_workers(self) -> int:
        """Threads that run the model: those asked for, else one per core, or a few for each GPU."""
        if self.config.tile_workers:
            return self.config.tile_workers
        return num_cores() if self.device.type == "cpu" else WORKERS_PER_GPU * len(devices_of(self.device))


def check_halo(config: PredictConfig, contract: InputContract) -> None:
    """Refuse a halo that the model or the blend cannot have.

    Raises:
        ConfigError: saying what to give instead.
    """
    if config.halo == "exact" and contract.global_context:
        raise ConfigError(
            "halo exact: expected a model with a bounded receptive field, this one looks at the whole tile; "
            "leave halo and blend to their defaults, which is blend gaussian"
        )
    if config.halo == "exact" and config.view_scales:
        raise ConfigError("halo exact: no halo makes tiles agree that are seen at other scales; leave out view_scales")
    if config.halo == "exact" and config.blend == "gaussian":
        raise ConfigError("halo exact: expected blend crop, got gaussian, which averages tiles; give one or the other")


def blend_for(config: PredictConfig, contract: InputContract) -> str:
    """What `auto` means for a model: crop, but where no halo makes tiles agree."""
    if config.blend == "auto":
        return "gaussian" if contract.global_context else "crop"
    return config.blend


def is_tuned(config: PredictConfig, contract: InputContract, shape: Ints) -> bool:
    """True if an image of this shape takes the tile that is fastest."""
    is_open = config.tile_px is None and config.halo == "fast" and blend_for(config, contract) == "crop"
    return is_open and max(shape[-2:]) >= TUNED_FROM_PX


def tiling_for(config: PredictConfig, package: ModelPackage, grid: ModelGrid, tuning: Tuning | None = None) -> Tiling:
    """The tile grid of an image: what the config asks for, else what is fastest, or the package was made with."""
    contract = package.contract
    tile_px, tile_planes = config.tile_px or contract.tile_px, config.tile_planes or contract.tile_planes
    shape = grid.shape
    alone = len(shape) - len(contract.axes)  # axes that the model does not see: plane by plane

    def sides(planes: int, px: int, single: int) -> Ints:
        return (*(single,) * alone, *((planes,) if len(contract.axes) > 2 else ()), px, px)

    stride = sides(contract.stride_planes, contract.stride, 1)
    if blend_for(config, contract) == "gaussian":
        px, planes = _halo(config, (tile_px // 8, tile_planes // 8), contract)
        return gaussian_tiling(shape, sides(tile_planes, tile_px, 1), sides(planes, px, 0), stride)
    px, planes = _halo(config, (contract.halo_px, contract.halo_planes), contract)
    if config.halo == "exact" and config.tile_px is None:
        tile_px = exact_tile_px(tile_px, px, tile_planes + 2 * planes)

    def cropped(tile_px: int) -> Tiling:
        return crop_tiling(shape, sides(tile_planes, tile_px, 1), sides(planes, px, 0), stride, config.shard_px)

    if tuning is not None and is_tuned(config, contract, shape):
        tile_px = min(tuning.px_per_s, key=lambda side: tuning.seconds(side, cropped(side)))
    return cropped(tile_px)


def _halo(config: PredictConfig, fast: Ints, contract: InputContract) -> Ints:
    """Px and planes of context that the config asks for; `fast` is what that word means here."""
    px, planes = fast
    if config.halo == "exact":
        assert contract.receptive_px is not None, "halo exact needs a package whose receptive field was measured"
        px, planes = contract.receptive_px, contract.receptive_planes or 0
    elif config.halo != "fast":
        px = config.halo
    return px, planes if config.halo_planes is None else config.halo_planes


def exact_tile_px(tile_px: int, halo_px: int, planes: int) -> int:
    """Wanted side of a write window for `halo: exact`: large, so that its wide halo is worth it.

    Args:
        tile_px: the package's, of which it is never less.
        halo_px: context on both sides.
        planes: of a read window.
    """
    worth_it = max(EXACT_TILE_PX, math.ceil(2 * halo_px / (math.sqrt(EXACT_WASTE) - 1)))
    fitting = math.isqrt(EXACT_READ_PX // planes) - 2 * halo_px
    return max(tile_px, min(worth_it, fitting))


def freeze(job: Job, grid: ModelGrid, tiling: Tiling, search: dict[str, Any] | None = None) -> dict[str, Any]:
    """The plan of one image, for `plan.json`; `search` is what decides where it is looked at."""
    image, spacing = grid.image, grid.image.spacing
    return {
        "stage": "predict",
        "engine": ENGINE,
        "source": {
            "digest": image.digest,
            "plan": image.attributes.get("plan"),
            "valid": image.valid_plan,
            "spacing": None if spacing is None else spacing.model_dump(mode="json"),
        },
        "model": job.package.digest,
        "level": grid.level,
        **({"step": list(grid.step)} if grid.is_resampled else {}),
        "blend": job.blend,
        "tile_px": list(tiling.core if job.blend == "crop" else tiling.read),
        "halo_px": list(tiling.halo),
        "batch": job.batch,
        "precision": job.precision,
        "device": job.device.type,
        **_made_otherwise(job),
        **({"search": search} if search else {}),
    }


def _made_otherwise(job: Job) -> dict[str, Any]:
    """What of the recipe decides the mask, where it is not the best class of one model as it sees a tile."""
    config, decision = job.config, job.recipe.decision
    found = {
        "ensemble": [package.digest for package in job.recipe.ensemble],
        "views": config.views if config.views != "none" else None,
        "view_scales": list(config.view_scales),
        "thresholds": [list(pair) for pair in decision.thresholds],
        "min_confidence": [list(pair) for pair in decision.min_confidence],
    }
    return {key: value for key, value in found.items() if value}


def layer_plan(job: Job, plan: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """The plan of a layer, beside that of the mask; what is done to the mask alone is not its own."""
    own = {key: value for key, value in plan.items() if key not in ("thresholds", "min_confidence")}
    classes = list(job.recipe.decision.layer_classes) if kind == "probs" else []
    return {**own, "layer": kind, "layer_classes": classes, "layer_level": job.config.layer_level}


def recipe_of(ws: Workspace, config: PredictConfig, package: ModelPackage) -> Recipe:
    """Views, further models and the decision that a config asks for.

    Raises:
        ConfigError: if it asks for what cannot be.
        ContractError: if a further model is not there, or not made for the same images and classes.
    """
    ensemble = tuple(with_field(read_package(ws, model)) for model in config.ensemble)
    for other in ensemble:
        check_alike(package, other)
    views = views_of(config.views, config.view_scales)
    names = [info.name for info in package.classes]
    unknown = [name for name in config.layer_classes if name not in names]
    if unknown:
        raise ConfigError(f"layer_classes: the model has the classes {', '.join(names)}, got '{unknown[0]}'")
    if "variance" in config.layers and len(views) * (1 + len(ensemble)) == 1:
        raise ConfigError("layers: variance needs several views (`views`, `view_scales`) or models (`ensemble`)")
    if set(config.thresholds) >= set(names):
        raise ConfigError("thresholds: leave out a class: what reaches no threshold takes the best of the rest")
    if config.layers and len(names) < 2:
        raise ConfigError(f"layers: need a model of several classes, got one, {names[0]}")
    if any(not 0.25 <= scale <= 4 for scale in config.view_scales):
        raise ConfigError(f"view_scales: expected scales from 0.25 to 4, got {config.view_scales}")
    decision = Decision(
        num_classes=len(names),
        ignore=ignore_of(package),
        layers=tuple(kind for kind in KINDS if kind in config.layers),
        layer_classes=tuple(map(names.index, config.layer_classes or names)),
        layer_dtype=config.layer_dtype,
        thresholds=ids_of(config.thresholds, package.classes, "thresholds"),
        min_confidence=ids_of(config.min_confidence, package.classes, "min_confidence"),
    )
    return Recipe(decision, ensemble, views)


def jointly(package: ModelPackage, ensemble: Sequence[ModelPackage]) -> ModelPackage:
    """The package, with a contract by which tiles suit all models of an ensemble: the widest halo, a common stride."""
    contracts = [each.contract for each in (package, *ensemble)]
    if len(contracts) == 1:
        return package
    stride = math.lcm(*(contract.stride for contract in contracts))
    stride_planes = math.lcm(*(contract.stride_planes for contract in contracts))
    fields = [contract.receptive_px for contract in contracts]
    planes = [contract.receptive_planes for contract in contracts]
    joint = package.contract.model_copy(
        update={
            "stride": stride,
            "stride_planes": stride_planes,
            "tile_px": rounded_up(package.contract.tile_px, stride),
            "halo_px": rounded_up(max(contract.halo_px for contract in contracts), stride),
            "tile_planes": rounded_up(package.contract.tile_planes, stride_planes),
            "halo_planes": rounded_up(max(contract.halo_planes for contract in contracts), stride_planes),
            "receptive_px": None if None in fields else max(px for px in fields if px is not None),
            "receptive_planes": max((n for n in planes if n is not None), default=None),
            "global_context": any(contract.global_context for contract in contracts),
        }
    )
    return replace(package, info=package.info.model_copy(update={"contract": joint}))


def ignore_of(package: ModelPackage) -> int:
    """Id of unusable pixels in the masks of a model: 255 while it fits."""
    return 255 if len(package.classes) <= 255 else 65535


def as_finished(job: Job, plan: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """The plan of a finished mask, where it is what the config asks for; else the plan as it is.

    A mask that is complete is not made again because tonight's machine would take another batch or precision;
    what the user asks for by name has to match. A mask of other pixels or another model is made by tonight's plan.

    Args:
        job: what was asked for.
        plan: what it means on this machine.
        made: the plan of the finished mask.
    """
    config = job.config
    left_open = {
        "precision": config.precision == "auto",
        "device": config.device == "auto",
        "batch": "batch" not in config.model_fields_set,
        "tile_px": config.tile_px is None and config.tile_planes is None,
        "halo_px": config.halo == "fast" and config.halo_planes is None,
        "blend": config.blend == "auto",
    }
    kept = plan | {key: made[key] for key, is_open in left_open.items() if is_open and key in made}
    return kept if kept == made else plan


def mask_spec(job: Job, grid: ModelGrid) -> PyramidSpec:
    """How the mask of an image is stored: its finest level is the one that the model reads."""
    return PyramidSpec(
        axes=grid.axes,
        shape=grid.mask_shape,
        dtype=job.dtype,
        kind="mask",
        shard_px=job.config.shard_px,
        ngff=grid.image.ngff,
        base_level=grid.level,
        num_levels=grid.image.num_levels if grid.level else 0,
    )


def mask_attributes(job: Job, image: Image, plan: dict[str, Any]) -> dict[str, Any]:
    """What the finished mask says of itself, under the key `segcore`."""
    spacing, georef = image.spacing, image.georef
    return {
        "source": image.source,
        "spacing": None if spacing is None else spacing.model_dump(mode="json"),
        "georef": None if georef is None else georef.model_dump(mode="json"),
        "affine": image.attributes.get("affine"),
        "split": image.split,
        "group": image.group,
        "digest": hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest(),
        "model": {"id": job.package.model_id, "digest": job.package.digest},
        **({"ensemble": [other.model_id for other in job.recipe.ensemble]} if job.recipe.ensemble else {}),
        "predict": plan,
        "config": job.config.model_dump(mode="json", exclude={"workspace"}),
        "code_version": segcore.__version__,
        "torch_version": str(torch.__version__),
    }
