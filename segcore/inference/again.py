"""Again: the settings by which what a mask lost is inferred once more, under its own frozen plan."""

import hashlib
from dataclasses import replace
from typing import Any

from segcore.config import PredictConfig
from segcore.errors import ContractError, PlanMismatchError, StoreError
from segcore.inference.batch import Batches
from segcore.inference.begin import frozen_sample
from segcore.inference.contract import check_contract
from segcore.inference.night import networks_of
from segcore.inference.numerics import repeatable
from segcore.inference.plan import freeze, layer_plan
from segcore.inference.search import scope_of
from segcore.inference.settle import resolve
from segcore.models.package import SUMS, ModelPackage, read_package
from segcore.store import Workspace, mask_of_layer, plan_difference


def config_again(
    ws: Workspace, image_id: str, name: str, frozen: dict[str, Any], made: dict[str, Any]
) -> PredictConfig:
    """Settings under which `predict` goes on with a mask that stands, and means the very same plan.

    Args:
        ws: where it is.
        image_id: of its image.
        name: the mask's.
        frozen: what its `plan.json` holds.
        made: the settings that it was made with, as its attributes tell them; {} if they are not known.

    Raises:
        SegcoreError: if it was not made by predict, its model is not there, or its plan cannot be kept here.
    """
    plan, where = frozen["plan"], f"mask {name} of image {image_id}"
    if plan.get("stage") != "predict":
        raise StoreError(f"{where}: not made by predict; make it again with the command that made it")
    package = package_of(ws, plan["model"], where)
    config = config_under(ws, package, image_id, name, frozen, made)
    _check_kept(ws, config, package, plan, where)
    return config


def config_under(
    ws: Workspace, package: ModelPackage, image_id: str, name: str, frozen: dict[str, Any], made: dict[str, Any]
) -> PredictConfig:
    """As `config_again`, with the model at hand; whether they mean that plan here is not asked yet."""
    plan, shard_px = frozen["plan"], frozen["storage"]["shard_px"]
    tile = _tile_of(plan, tuple(frozen["storage"]["shape"][-2:]), shard_px, len(package.contract.axes))
    is_tuned = plan["blend"] == "crop" and made.get("tile_px") is None and made.get("halo", "fast") == "fast"
    return PredictConfig.model_validate(
        {
            **tile,
            **{key: value for key, value in made.items() if key in PredictConfig.model_fields},
            **({"tile_px": tile["tile_px"]} if is_tuned else {}),
            **{key: plan[key] for key in ("blend", "batch", "precision", "device")},
            "compile": "on" if plan.get("compiled") else "off",
            "workspace": ws.uri, "model": package.model_id, "images": (image_id,), "name": _mask_name(plan, name),
            "shard_px": shard_px, "overwrite": False, "dry_run": False,
        }
    )  # fmt: skip


def _check_kept(ws: Workspace, config: PredictConfig, package: ModelPackage, plan: dict[str, Any], where: str) -> None:
    """Refuse settings that mean another plan on this machine.

    Raises:
        PlanMismatchError: naming the difference.
    """
    (image_id,) = config.images
    with repeatable():
        job = resolve(ws, config, package, config.images)
    grid = check_contract(job.package.contract, ws.image(image_id), config.spacing_tolerance).grid
    tiling = job.tiling(grid)
    if job.batch > 1:  # the machine may be one on which the plan's batch does not hold
        with repeatable():
            job = replace(job, batch=Batches(networks_of(job)[0], job.package.contract).of(tiling))
    expected = freeze(job, grid, tiling, scope_of(ws, job, grid).frozen | frozen_sample(job, grid))
    if "layer" in plan:
        expected = layer_plan(job, expected, plan["layer"])
    difference = plan_difference(plan, expected)
    if difference:
        raise PlanMismatchError(
            f"{where}: its plan cannot be kept ({'; '.join(difference[:4])}); make it anew: `segcore predict` with "
            "--overwrite"
        )


def _mask_name(plan: dict[str, Any], name: str) -> str:
    """The mask's name, also of one of its layers."""
    return mask_of_layer(name, plan["layer"]) if "layer" in plan else name


def package_of(ws: Workspace, digest: str, wanted_by: str) -> ModelPackage:
    """The model package of the workspace that has this digest.

    Raises:
        ContractError: if there is none.
    """
    for model_id in ws.objects.folders("models"):
        sums = ws.objects.get(f"models/{model_id}/{SUMS}")
        if sums is not None and hashlib.sha256(sums).hexdigest() == digest:
            return read_package(ws, model_id)
    raise ContractError(
        f"{wanted_by}: expected its model (digest {digest[:8]}...) under {ws.describe('models')}, found none of it; "
        "copy the package there, or make the mask anew with --overwrite"
    )


def _tile_of(plan: dict[str, Any], shape_yx: tuple[int, ...], shard_px: int, num_axes: int) -> dict[str, Any]:
    """The tile and halo that were asked for, from those of the plan; an axis that one tile covers tells nothing."""
    tile, halo = plan["tile_px"], plan["halo_px"]
    margins = halo[-2:] if plan["blend"] == "gaussian" else (0, 0)
    cut = [side for side, n, margin in zip(tile[-2:], shape_yx, margins, strict=True) if side - 2 * margin < n]
    asked = {"tile_px": max(cut, default=shard_px + 2 * max(margins)), "halo": halo[-1]}
    return asked if num_axes < 3 else asked | {"tile_planes": tile[-3], "halo_planes": halo[-3]}
