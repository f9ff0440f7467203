"""Plan: all that decides the pixels of one image's mask, resolved and frozen before its first tile."""

from typing import Any

import torch

import segcore
from segcore.inference import dropout
from segcore.inference.decision import Kind
from segcore.inference.job import Job
from segcore.inference.model_grid import ModelGrid
from segcore.inference.tiling import Tiling
from segcore.store import Image, PyramidSpec

ENGINE = 5
"""Goes up with every change of this code that can change a pixel."""

STALE_WITH = ("source",)
"""Keys of the plan whose change alone makes a mask stale: another plan, but no contradiction."""


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
        **({"compiled": True} if job.is_compiled(tiling) else {}),
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
        "samples": {"count": config.samples, "seed": dropout.SEED} if config.samples else None,
        "thresholds": [list(pair) for pair in decision.thresholds],
        "min_confidence": [list(pair) for pair in decision.min_confidence],
    }
    return {key: value for key, value in found.items() if value}


def layer_plan(job: Job, plan: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """The plan of a layer, beside that of the mask; what is done to the mask alone is not its own."""
    own = {key: value for key, value in plan.items() if key not in ("thresholds", "min_confidence")}
    classes = list(job.recipe.decision.layer_classes) if kind == "probs" else []
    return {**own, "layer": kind, "layer_classes": classes, "layer_level": finest_level(job, kind)}


def finest_level(job: Job, kind: Kind) -> int:
    """The finest level of a layer; of the depth that of the mask, whose objects are made of it."""
    return 0 if kind == "depth" else job.config.layer_level


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
        "compiled": config.compile == "auto",
    }
    asked = {key: value for key, value in plan.items() if not left_open.get(key)}
    kept = asked | {key: made[key] for key, is_open in left_open.items() if is_open and key in made}
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
    return {
        **image.handed_on(plan),
        "model": {"id": job.package.model_id, "digest": job.package.digest},
        **({"ensemble": [other.model_id for other in job.recipe.ensemble]} if job.recipe.ensemble else {}),
        "predict": plan,
        "config": job.config.model_dump(mode="json", exclude={"workspace"}),
        "code_version": segcore.__version__,
        "torch_version": str(torch.__version__),
    }
