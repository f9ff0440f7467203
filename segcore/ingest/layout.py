"""Layout: what a probed source becomes in the store: its arrays, and the plans that freeze them."""

import math
from typing import Any

import numpy as np

from segcore.ingest.child import Probe
from segcore.store import PyramidSpec, fitting_nodata, fitting_shard_px

SHARDS_IN_MEMORY = 4
"""Per child: one that is read, and one under way on each coarser level of the work unit."""


def image_spec(found: Probe, shard_px: int) -> PyramidSpec:
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
        shard_px=fitting_shard_px(info.axes, info.shape, info.dtype, shard_px),
    )


def all_specs(found: Probe, shard_px: int) -> dict[str, PyramidSpec]:
    """The arrays by name, the image first: where it is refused, its labels have to stay as they are."""
    image = image_spec(found, shard_px)

    def label(dtype: str, kind: Any) -> PyramidSpec:
        sides = {axis: n for axis, n in zip(image.axes, image.shape, strict=True) if axis != "c"}
        return PyramidSpec(
            axes=tuple(sides), shape=tuple(sides.values()), dtype=dtype, kind=kind, shard_px=image.shard_px
        )

    specs = {"image": image}
    if found.has_valid:
        specs["valid"] = label("uint8", "mask")
    if found.target_dtype is not None:
        specs["target"] = label(found.target_dtype, "mask")
    if found.has_instances:
        specs["target_instances"] = label("uint32", "instances")
    return specs


def plan_of(name: str, found: Probe, request: dict[str, Any]) -> dict[str, Any]:
    """All that decides the pixels of an array."""
    plan = {"source": request["source"], "reader": found.info.reader}
    if name in ("target", "target_instances"):
        plan |= {"targets": request["targets"], "kind": found.target_kind, "classes": request["classes"]}
        plan |= {key: request[key] for key in ("reading", "aoi") if key in request}
        if found.target_kind == "shapes":
            plan["names"] = {info.name: info.id for info in found.classes}
    elif name == "valid":
        plan |= {"valid": request["valid"]}
    return plan


def estimate(found: Probe, shard_px: int, processes: int) -> dict[str, int]:
    """What `--dry-run` says of a source: shards, work units, bytes before compression, memory."""
    specs = all_specs(found, shard_px)
    num_bytes = sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs.values())
    image = specs["image"]
    shard_bytes = math.prod(image.shard) * np.dtype(image.dtype).itemsize
    return {
        "shards": sum(spec.grid(level).num_cells for spec in specs.values() for level in range(len(spec.levels))),
        "work_units": image.units.num_cells,
        "bytes_uncompressed": num_bytes * 4 // 3,
        "memory_bytes": processes * SHARDS_IN_MEMORY * shard_bytes,
    }
