"""Explain: masks and the model that made them -> *which band mattered, and where it looked*.

    mask -> tiles that have the class (a budget) -> model, with gradients -> table of bands, layers beside the mask

What is looked at has a budget, and is kept until the layer is written: memory is that of one tile's backward pass and
twelve bytes a pixel of the budget, whatever the size of the image.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from segcore import __version__
from segcore.classes import ClassInfo
from segcore.config import ExplainConfig, PredictConfig
from segcore.errors import ConfigError, ContractError, SegcoreError
from segcore.explain.layers import kind_of, write_layer
from segcore.explain.looking import Looker, Map, Sums
from segcore.explain.places import chosen_tiles, finest_scanned
from segcore.geometry import Tile
from segcore.inference.contract import check_contract
from segcore.inference.field import with_kept_field
from segcore.inference.model_grid import ModelGrid
from segcore.inference.numerics import repeatable, resolve_device
from segcore.inference.tile_choice import tiling_for
from segcore.inference.tiling import Tiling
from segcore.measure import Peak
from segcore.models import has_weights, weightless
from segcore.models.package import ModelPackage, read_package
from segcore.progress import SILENT, Progress
from segcore.results import ItemResult, StageResult
from segcore.scoring.counts import foreground_rows
from segcore.selection import Masked, failure, select
from segcore.store import Image, Label, Workspace, layer_name
from segcore.store.places import array_prefix
from segcore.why import BASELINE, makers_of, table_key

ENGINE = 3
"""Goes up with every change of this code that can change a value."""


def explain(config: ExplainConfig, progress: Progress = SILENT) -> StageResult:
    """Say why a model gave the classes that its masks have.

    Returns:
        One item per image; `details` has the table by class, `paths[0]` is the same as JSON. Where every image failed
        there is none, and one that stands is kept.

    Raises:
        ConfigError: if the model has no such class, or nothing that the method could look at.
        SegcoreError: if there is no workspace, model or mask.
    """
    with Peak() as peak, repeatable():
        ws = Workspace.open(config.workspace)
        package = with_kept_field(ws, read_package(ws, config.model), dry_run=False)
        job = _Job(config, ws, package, config.name or package.model_id, _asked(config, package.classes))
        _check_method(config, package)
        chosen = select(ws, job.mask, config.images)
        progress.start("explain", len(chosen), "images")
        items = tuple(_item(job, masked, progress) for masked in chosen)
        done = [item.image for item in items if item.state == "done"]
        document, key = job.document(done), table_key(job.mask, config.method)
        if done:
            ws.objects.put(key, json.dumps(document, indent=1).encode())
    layers = (path for item in items for path in item.details.get("layers", ()))
    return StageResult(
        stage="explain",
        items=items,
        paths=(ws.describe(key), *layers) if done else (),
        seconds=peak.seconds,
        peak_mib=peak.mib,
        details={"mask": job.mask, "method": config.method, "classes": document["classes"]},
    )


@dataclass
class _Job:
    """What is done to every image, and what is found."""

    config: ExplainConfig
    ws: Workspace
    package: ModelPackage
    mask: str
    classes: tuple[ClassInfo, ...]
    sums: dict[int, Sums] = field(default_factory=dict)
    """By class."""

    def add(self, class_id: int, sums: Sums) -> None:
        self.sums.setdefault(class_id, Sums()).add(sums)

    def document(self, image_ids: Sequence[str | None]) -> dict[str, Any]:
        """What was found in these images, JSON."""
        classes = {info.name: self._row(self.sums.get(info.id, Sums())) for info in self.classes}
        return {
            "format": 1,
            "method": self.config.method,
            "mask": self.mask,
            "model": self.package.model_id,
            "images": list(image_ids),
            "baseline": BASELINE if has_weights(weightless(self.package.architecture)) else "0",
            "mpx_per_image_and_class": self.config.mpx,
            "code_version": __version__,
            "classes": classes,
        }

    def _row(self, sums: Sums) -> dict[str, Any]:
        """Of one class: means over the pixels that got it."""
        row: dict[str, Any] = {"tiles": sums.tiles, "px": sums.px}
        if not sums.px:
            return row
        row["confidence"] = round(sums.probability / sums.px, 6)
        bands = self.package.contract.bands
        if self.config.method == "band_occlusion":
            drops, lost = (sums.probability - sums.first) / sums.px, sums.second / sums.px
            row["drop"] = {band: round(float(drop), 6) for band, drop in zip(bands, drops, strict=True)}
            row["lost_share"] = {band: round(float(share), 6) for band, share in zip(bands, lost, strict=True)}
        elif self.config.method == "integrated_gradients":
            row["baseline_confidence"] = round(sums.baseline / sums.px, 6)
            row["adds"] = {band: round(float(v) / sums.px, 6) for band, v in zip(bands, sums.first, strict=True)}
        return row


def _asked(config: ExplainConfig, classes: Sequence[ClassInfo]) -> tuple[ClassInfo, ...]:
    by_name = {info.name: info for info in classes}
    for name in config.classes:
        if name not in by_name:
            raise ConfigError(f"classes: the model has the classes {', '.join(by_name)}, got '{name}'")
    return tuple(by_name[name] for name in config.classes) or tuple(classes[k] for k in foreground_rows(classes))


def _check_method(config: ExplainConfig, package: ModelPackage) -> None:
    """Refuse what a method cannot look at.

    Raises:
        ConfigError: naming what it can.
    """
    if len(package.classes) < 2:
        raise ConfigError(f"explain: expected a model of several classes, got one, {package.classes[0].name}")
    if config.method != "band_occlusion" and not has_weights(weightless(package.architecture)):
        raise ConfigError(
            f"method {config.method}: {package.architecture.architecture} has no weights, and so no gradients; take "
            "band_occlusion"
        )
    if config.features and config.method != "grad_cam":
        raise ConfigError(f"features: only grad_cam looks at them, got method {config.method}; leave it out")


def _item(job: _Job, masked: Masked, progress: Progress) -> ItemResult:
    try:
        image, mask = masked.opened()
        return _explained(job, image, mask, progress)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
        return ItemResult(state="failed", image=masked.image_id, error=failure(masked.image_id, error))
    finally:
        progress.advance()


def _explained(job: _Job, image: Image, mask: Label, progress: Progress) -> ItemResult:
    config = job.config
    tolerance = mask.attributes.get("config", {}).get("spacing_tolerance")
    fit = check_contract(job.package.contract, image, tolerance)
    for warning in fit.warnings:
        progress.note(warning)
    _check_maker(job, mask, fit.grid)
    tiling = _tiling(job, fit.grid)
    num_tiles = max(1, int(config.mpx * 1e6 / math.prod(tiling.core)))
    tiles = chosen_tiles(mask, fit.grid, tiling, [info.id for info in job.classes], num_tiles)
    looker = Looker(config, job.package, fit.grid, resolve_device(config.device))
    layers, px = [], {}
    for info in job.classes:
        sums, maps = _looked_at(looker, tiles[info.id], info.id)
        job.add(info.id, sums)
        px[info.name] = sums.px
        if not sums.px:
            level = finest_scanned(mask)
            progress.note(f"image {image.image_id}: no {info.name} to explain in level {level} of mask {job.mask}")
        if maps:
            kind = kind_of(config.method, info, job.package.classes)
            plan = _plan(job, fit.grid, mask, tiling, info)
            write_layer(job.ws, fit.grid, job.mask, plan, config, maps)
            layers.append(job.ws.describe(array_prefix(image.image_id, layer_name(job.mask, kind))))
    return ItemResult(state="done", image=image.image_id, details={"px": px, "layers": layers})


def _check_maker(job: _Job, mask: Label, grid: ModelGrid) -> None:
    """Refuse to explain what another model said.

    Raises:
        ContractError: naming the model that made the mask.
    """
    where, own = f"image {mask.image_id}: mask {job.mask}", job.package.model_id
    makers = makers_of(mask)
    if makers and own not in makers:
        raise ContractError(f"{where} was made by {' and '.join(makers)}, got {own}; give the model that made it")
    if mask.shape() != grid.mask_shape:
        raise ContractError(
            f"{where} has {mask.shape()} px, the model would give {grid.mask_shape}; give the model that made it"
        )


def _tiling(job: _Job, grid: ModelGrid) -> Tiling:
    """Tiles of about the size that is asked for, with the halo that predict gives them."""
    as_predicted = PredictConfig(
        workspace=job.config.workspace,
        model=job.config.model,
        tile_px=job.config.tile_px,
        blend="crop",
        shard_px=job.config.shard_px,
    )
    tiling = tiling_for(as_predicted, job.package, grid)
    return replace(tiling, is_cut=not job.package.contract.global_context)


def _looked_at(looker: Looker, tiles: Sequence[Tile], class_id: int) -> tuple[Sums, list[Map]]:
    """What the method finds in the tiles, summed, and its maps.

    Raises:
        SegcoreError: if the device has not the memory for one tile.
    """
    sums, maps = Sums(), []
    for tile in tiles:
        try:
            found = looker.look(tile, class_id)
        except torch.OutOfMemoryError as error:
            raise SegcoreError("out of memory with a single tile; give a smaller tile_px, or device: cpu") from error
        if found is not None:
            sums.add(found[0])
            maps.append(found[1])
    return sums, maps


def _plan(job: _Job, grid: ModelGrid, mask: Label, tiling: Tiling, info: ClassInfo) -> dict[str, Any]:
    """What decides a layer, for its `plan.json`."""
    config, image = job.config, grid.image
    own = {"steps": config.steps} if config.method == "integrated_gradients" else {"features": config.features}
    return {
        "stage": "explain",
        "engine": ENGINE,
        "source": {"digest": image.digest, "plan": image.attributes.get("plan"), "valid": image.valid_plan},
        "mask": {"digest": mask.digest, "plan": mask.attributes.get("plan")},
        "model": job.package.digest,
        "layer": kind_of(config.method, info, job.package.classes),
        "method": config.method,
        "class": {"id": info.id, "name": info.name},
        "level": grid.level,
        "tile_px": list(tiling.core),
        "halo_px": list(tiling.halo),
        "mpx": config.mpx,
        **own,
    }
