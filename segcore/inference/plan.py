"""Plan: all that decides the pixels of one image's mask, resolved and frozen before its first tile."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch

import segcore
from segcore.config import PredictConfig
from segcore.errors import ConfigError
from segcore.geometry import Ints
from segcore.inference.contract import check_alike
from segcore.inference.decision import KINDS, Decision, Kind, ids_of
from segcore.inference.numerics import Recipe
from segcore.inference.tiling import Tiling, crop_tiling, gaussian_tiling
from segcore.inference.views import views_of
from segcore.measure import num_cores
from segcore.models.package import ModelPackage, read_package
from segcore.store import Image, PyramidSpec, Workspace

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

    @property
    def name(self) -> str:
        """Name of the masks under `labels/`."""
        if self.config.name or not self.recipe.ensemble:
            return self.config.name or self.package.model_id
        digests = "".join(package.digest for package in (self.package, *self.recipe.ensemble))
        return f"ensemble-{hashlib.sha256(digests.encode()).hexdigest()[:8]}"

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
        """Threads that run the model: those asked for, else one per core, or one for a GPU."""
        if self.config.tile_workers:
            return self.config.tile_workers
        return num_cores() if self.device.type == "cpu" else 1


def tiling_for(config: PredictConfig, package: ModelPackage, image: Image) -> Tiling:
    """The tile grid of an image: what the config asks for, else what the package was made with."""
    contract = package.contract
    tile_px, tile_planes = config.tile_px or contract.tile_px, config.tile_planes or contract.tile_planes
    shape = tuple(n for axis, n in zip(image.axes, image.shape(), strict=True) if axis != "c")
    alone = len(shape) - len(contract.axes)  # axes that the model does not see: plane by plane

    def sides(planes: int, px: int, single: int) -> Ints:
        return (*(single,) * alone, *((planes,) if len(contract.axes) > 2 else ()), px, px)

    tile, stride = sides(tile_planes, tile_px, 1), sides(contract.stride_planes, contract.stride, 1)
    if config.blend == "gaussian":
        px = tile_px // 8 if config.halo_px is None else config.halo_px
        planes = tile_planes // 8 if config.halo_planes is None else config.halo_planes
        return gaussian_tiling(shape, tile, sides(planes, px, 0), stride)
    px = contract.halo_px if config.halo_px is None else config.halo_px
    planes = contract.halo_planes if config.halo_planes is None else config.halo_planes
    return crop_tiling(shape, tile, sides(planes, px, 0), stride, config.shard_px)


def freeze(job: Job, image: Image, tiling: Tiling, search: dict[str, Any] | None = None) -> dict[str, Any]:
    """The plan of one image, for `plan.json`; `search` is what decides where it is looked at."""
    spacing = image.spacing
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
        "level": job.package.contract.level,
        "blend": job.config.blend,
        "tile_px": list(tiling.core if job.config.blend == "crop" else tiling.read),
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
    ensemble = tuple(read_package(ws, model) for model in config.ensemble)
    for other in ensemble:
        check_alike(package, other)
    views = views_of(config.views, config.view_scales)
    names = [info.name for info in package.classes]
    unknown = [name for name in config.layer_classes if name not in names]
    if unknown:
        raise ConfigError(f"layer_classes: the model has the classes {', '.join(names)}, got '{unknown[0]}'")
    if "variance" in config.layers and len(views) * (1 + len(ensemble)) == 1:
        raise ConfigError("layers: variance needs several views (`views`, `view_scales`) or models (`ensemble`)")
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
        "halo_px": config.halo_px is None and config.halo_planes is None,
    }
    kept = plan | {key: made[key] for key, is_open in left_open.items() if is_open and key in made}
    return kept if kept == made else plan


def mask_spec(job: Job, image: Image) -> PyramidSpec:
    """How the mask of an image is stored."""
    sides = {axis: n for axis, n in zip(image.axes, image.shape(), strict=True) if axis != "c"}
    return PyramidSpec(
        axes=tuple(sides),
        shape=tuple(sides.values()),
        dtype=job.dtype,
        kind="mask",
        shard_px=job.config.shard_px,
        ngff=image.ngff,
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
