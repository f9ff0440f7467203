"""Plan: all that decides the pixels of one image's mask, resolved and frozen before its first tile."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch

import segcore
from segcore.config import PredictConfig
from segcore.geometry import Ints
from segcore.inference.tiling import Tiling, crop_tiling, gaussian_tiling
from segcore.measure import num_cores
from segcore.models.package import ModelPackage
from segcore.store import Image, PyramidSpec

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
    precision: str
    batch: int

    @property
    def name(self) -> str:
        """Name of the masks under `labels/`."""
        return self.config.name or self.package.model_id

    @property
    def ignore(self) -> int:
        """Id of unusable pixels in the mask."""
        return 255 if self.dtype == "uint8" else 65535

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


def freeze(job: Job, image: Image, tiling: Tiling) -> dict[str, Any]:
    """The plan of one image, for `plan.json`."""
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
    }


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
        "predict": plan,
        "config": job.config.model_dump(mode="json", exclude={"workspace"}),
        "code_version": segcore.__version__,
        "torch_version": str(torch.__version__),
    }
