"""Layers: the maps of a few tiles -> *an image beside the mask*, 8-bit; maps -> store.

1 to 255 say how much a pixel speaks for the class, on one scale for all of the image; 0 was not looked at, or is not
usable. Shards are written whole, under a plan and with a ledger, as everything in the store is.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.classes import ClassInfo
from segcore.config import ExplainConfig
from segcore.explain.looking import Map
from segcore.geometry import Window
from segcore.inference.model_grid import ModelGrid
from segcore.store import Image, PyramidSpec, Staging, Workspace, fitting_shard_px, layer_name

SCALE_PERCENT = 99.8
"""What is 255; the few larger values are cut off."""


def kind_of(method: str, info: ClassInfo, classes: Sequence[ClassInfo]) -> str:
    """The layer's kind, `grad_cam-nuclei`: in a class's name what no path should hold becomes a dash."""
    words = [re.sub(r"[^A-Za-z0-9_-]+", "-", each.name).strip("-") for each in classes]
    own = words[classes.index(info)]
    if not own or words.count(own) > 1:
        own = f"{own or 'class'}-{info.id}"
    return f"{method}-{own}"


def layer_spec(grid: ModelGrid, shard_px: int) -> PyramidSpec:
    """How a layer is stored: the mask's size, the image's axes, one channel."""
    image, level = grid.image, grid.level
    shape = tuple(1 if axis == "c" else n for axis, n in zip(image.axes, image.shape(level), strict=True))
    return PyramidSpec(
        axes=image.axes,
        shape=shape,
        dtype="uint8",
        kind="image",
        nodata=0,
        shard_px=fitting_shard_px(image.axes, shape, "uint8", shard_px),
        base_level=level,
        num_levels=image.num_levels - level,
        ngff=image.ngff,
    )


def write_layer(
    ws: Workspace,
    grid: ModelGrid,
    mask: str,
    plan: dict[str, Any],
    config: ExplainConfig,
    maps: Sequence[Map],
) -> None:
    """Write a layer, or what a killed call left of it; nothing where it is finished.

    Args:
        ws: where to.
        grid: the image.
        mask: its name.
        plan: what decides the layer's values, its kind with them.
        config: the shards' side in px, and whether to replace what was made with other settings.
        maps: of the image.
    """
    spec, image, scale = layer_spec(grid, config.shard_px), grid.image, scale_of(maps)
    kind, again, stale_with = plan["layer"], config.overwrite, ("source", "mask")
    stored = layer_name(mask, kind)
    with Staging.begin(ws, image.image_id, stored, plan, spec, overwrite=again, supersede=stale_with) as staging:
        if staging.finished:
            return
        for unit in staging.windows():
            writer = staging.writer(unit)
            for shard in staging.pending(unit):
                writer.put(shard, _shard(spec, staging.shard_window(shard), maps, scale))
        staging.finish(_attributes(image, kind, plan, maps, scale), channels=[kind])


def scale_of(maps: Sequence[Map]) -> float:
    """The value that becomes 255."""
    values = np.concatenate([each.values[each.values > 0] for each in maps] or [np.zeros(0, np.float32)])
    return float(np.percentile(values, SCALE_PERCENT)) if values.size else 1.0


def stored_values(values: npt.NDArray[np.float32], scale: float) -> npt.NDArray[np.uint8]:
    """Of a map, as the layer holds them; NaN becomes 0."""
    shares = np.clip(values / scale, 0, 1)
    eight_bit: npt.NDArray[np.uint8] = np.where(np.isnan(shares), 0, np.rint(1 + 254 * np.nan_to_num(shares))).astype(
        np.uint8
    )
    return eight_bit


def _shard(spec: PyramidSpec, window: Window, maps: Sequence[Map], scale: float) -> npt.NDArray[np.uint8]:
    channel = spec.axes.index("c")
    pixels = np.zeros(window.shape, np.uint8)
    for each in maps:
        own = each.window.with_axis(channel, 1)
        inside = window.intersected(own)
        if inside.num_px:
            values = np.expand_dims(stored_values(each.values, scale), channel)
            pixels[inside.relative_to(window.start).slices] = values[inside.relative_to(own.start).slices]
    return pixels


def _attributes(image: Image, kind: str, plan: dict[str, Any], maps: Sequence[Map], scale: float) -> dict[str, Any]:
    return {
        **image.handed_on(plan),
        "layer": kind,
        "nodata": 0,
        "explain": plan,
        "scale": scale,
        "windows": [{"start": list(each.window.start), "shape": list(each.window.shape)} for each in maps],
    }
