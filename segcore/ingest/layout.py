"""Layout: what a probed source becomes in the store: its arrays, and the plans that freeze them."""

import math
from typing import Any

import numpy as np

from segcore.ingest.child import Probe
from segcore.store import PyramidSpec, fitting_nodata, fitting_shard_px

SHARDS_IN_MEMORY = 4
"""Per child: one that is read, and one under way on each coarser level of the work unit."""

BYTES_PER_SECOND = 40e6
"""Of one decoding process, pixels before compression, pyramid and digest included; measured on a tiled RGB TIFF on one
core of a shared server (deflate and JPEG alike). Formats that decode slowly (JPEG 2000, video) take a few times longer,
and so do sources behind a slow network."""
START_S = 2.0
"""Until the first process has loaded its libraries."""


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
    plan |= {"opening": request["opening"]} if "opening" in request else {}
    if name in ("target", "target_instances"):
        plan |= {"targets": request["targets"], "kind": found.target_kind, "classes": request["classes"]}
    elif name == "valid":
        plan |= {"valid": request["valid"]}
    return plan


def estimate(
    found: Probe, shard_px: int, processes: int, compressed_share: float | None = None
) -> dict[str, int | float]:
    """What `inspect` and `--dry-run` say of a source, before anything is done.

    Args:
        found: the source.
        shard_px: side of a shard.
        processes: that decode; an image of one work unit keeps only one busy.
        compressed_share: of the bytes, by a sample; None = not looked at.

    Returns:
        Shards, work units, bytes before compression (and, by the share, after), memory in bytes, time in seconds.
    """
    specs = all_specs(found, shard_px)
    num_bytes = sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs.values())
    image = specs["image"]
    shard_bytes = math.prod(image.shard) * np.dtype(image.dtype).itemsize
    busy = min(processes, image.units.num_cells)
    said: dict[str, int | float] = {
        "shards": sum(spec.grid(level).num_cells for spec in specs.values() for level in range(len(spec.levels))),
        "work_units": image.units.num_cells,
        "bytes_uncompressed": num_bytes * 4 // 3,
    }
    if compressed_share is not None:
        said["bytes_compressed"] = round(num_bytes * 4 / 3 * compressed_share)
    said["memory_bytes"] = processes * SHARDS_IN_MEMORY * shard_bytes
    said["seconds"] = round(START_S + num_bytes / (BYTES_PER_SECOND * busy), 1)
    return said
