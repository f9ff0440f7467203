"""Layout: what a probed source becomes in the store: its arrays, the plans that freeze them, the windows to write."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from segcore.config import IngestConfig
from segcore.geometry import Window, z_code
from segcore.ingest.foreground import coarse_level, method_for
from segcore.ingest.tasks import Probe
from segcore.nodata import fitting_nodata
from segcore.store import PyramidSpec, Staging, fitting_shard_px
from segcore.store.pyramid import UNIT_SHARDS

SHARDS_IN_MEMORY = 4
"""Per child: one that is read, and one under way on each coarser level of the work unit."""

BYTES_PER_SECOND = 40e6
"""Of one decoding process, pixels before compression, pyramid and digest included; measured on a tiled RGB TIFF on one
core of a shared server (deflate and JPEG alike). Formats that decode slowly (JPEG 2000, video) take a few times longer,
and so do sources behind a slow network."""
MAX_PLANES = 64
"""Of one task."""
START_S = 2.0
"""Until the first process has loaded its libraries."""


def image_spec(found: Probe, config: IngestConfig) -> PyramidSpec:
    """The image's array; what no shard holds is nodata, where pixels can be nodata."""
    info = found.info
    nodata = fitting_nodata(info.nodata, info.dtype)
    return PyramidSpec(
        axes=info.axes,
        shape=info.shape,
        dtype=info.dtype,
        kind="image",
        fill=0 if nodata is None else nodata,
        nodata=nodata,
        shard_px=fitting_shard_px(info.axes, info.shape, info.dtype, config.shard_px),
        linked=config.link or config.copy_source,
        ngff=config.ngff,
    )


def all_specs(found: Probe, config: IngestConfig) -> dict[str, PyramidSpec]:
    """The arrays by name, the image first: where it is refused, its labels have to stay as they are."""
    image = image_spec(found, config)
    sides = {axis: n for axis, n in zip(image.axes, image.shape, strict=True) if axis != "c"}

    def label(dtype: str, kind: Any) -> PyramidSpec:
        own = {"axes": tuple(sides), "shape": tuple(sides.values()), "dtype": dtype, "kind": kind}
        return PyramidSpec.model_validate({**own, "shard_px": image.shard_px, "ngff": image.ngff})

    specs = {"image": image}
    if found.has_valid:
        specs["valid"] = label("uint8", "mask")
    if found.target_dtype is not None:
        specs["target"] = label(found.target_dtype, "mask")
    if found.has_instances:
        specs["target_instances"] = label("uint32", "instances")
    if method_for(found, config.foreground) is not None:
        level = coarse_level(image)
        coarse = {"shape": image.levels[level][-2:], "base_level": level, "num_levels": len(image.levels)}
        specs["foreground"] = label("uint8", "mask").model_copy(update=coarse)
    return specs


def plan_of(name: str, found: Probe, request: dict[str, Any], config: IngestConfig) -> dict[str, Any]:
    """All that decides the pixels of an array."""
    plan = {"source": request["source"], "reader": found.info.reader}
    plan |= {key: request[key] for key in ("opening", "kept") if key in request}
    if name in ("target", "target_instances"):
        plan |= {"targets": request["targets"], "kind": found.target_kind, "classes": request.get("classes")}
        plan |= {key: request[key] for key in ("target_options", "aoi") if key in request}
        if found.target_kind == "shapes":
            plan["names"] = {info.name: info.id for info in found.classes}
    elif name == "valid":
        plan |= {"valid": request["valid"]}
    elif name == "foreground":
        plan |= {"valid": request["valid"], "foreground": method_for(found, config.foreground)}
    return plan


def windows_of(
    stagings: Mapping[str, Staging], axes: tuple[str, ...], num_channels: int, side: int | None, processes: int
) -> list[tuple[Window, ...]]:
    """The windows of an image, over its axes, in which shards of any of its arrays are left, task by task.

    Planes of z or t that lie behind each other are one task's: files often hold them in pieces of several planes.

    Args:
        stagings: image and labels, begun.
        axes: of the image.
        num_channels: of the image.
        side: of a window, in shards; None = as large as leaves work for every process.
        processes: that share the work.
    """
    sides = (UNIT_SHARDS, UNIT_SHARDS // 2, 1) if side is None else (side,)
    found: list[Window] = []
    for wanted in sides:
        side_px = wanted * stagings["image"].spec.shard_px
        windows = _windows(stagings, axes, num_channels, wanted)
        found = sorted(windows, key=lambda window: (z_code(*(a // side_px for a in window.start[-2:])), window.start))
        if len(found) >= 4 * processes:
            break
    together = max(1, min(MAX_PLANES, -(-len(found) // (2 * processes)))) if len(axes) > 3 else 1
    return [tuple(found[i : i + together]) for i in range(0, len(found), together)]


def _windows(stagings: Mapping[str, Staging], axes: tuple[str, ...], num_channels: int, side: int) -> set[Window]:
    found = set()
    for name, staging in stagings.items():
        if staging.finished or name == "foreground":
            continue
        for window in staging.windows(side):
            sides = dict(zip(staging.spec.axes, zip(window.start, window.shape, strict=True), strict=True))
            start, shape = zip(*(sides.get(axis, (0, num_channels)) for axis in axes), strict=True)
            found.add(Window(start, shape))
    return found


def estimate(
    found: Probe, config: IngestConfig, processes: int, compressed_share: float | None = None
) -> dict[str, int | float]:
    """What it would take to ingest a source.

    Args:
        found: the source.
        config: how it is ingested.
        processes: that decode.
        compressed_share: of the bytes, by a sample; None = not looked at.

    Returns:
        Shards, work units, bytes before compression (and, by the share, after), memory in bytes, time in seconds.
    """
    specs = [spec for spec in all_specs(found, config).values() if not spec.linked]
    num_bytes = sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs)
    image = image_spec(found, config)
    shard_bytes = math.prod(image.shard) * np.dtype(image.dtype).itemsize
    said: dict[str, int | float] = {
        "shards": sum(spec.grid(level).num_cells for spec in specs for level in range(len(spec.levels))),
        "work_units": 0 if image.linked else image.units.num_cells,
        "bytes_uncompressed": num_bytes * 4 // 3,
    }
    if compressed_share is not None:
        said["bytes_compressed"] = round(num_bytes * 4 / 3 * compressed_share)
    busy = min(processes, max(1, image.num_shards))
    said["memory_bytes"] = processes * SHARDS_IN_MEMORY * shard_bytes
    said["seconds"] = round(START_S + num_bytes / (BYTES_PER_SECOND * busy), 1)
    return said
