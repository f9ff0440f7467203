"""Small images, targets and masks, written through the store as ingest and predict write them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.classes import ClassInfo, default_classes
from segcore.geometry import Ints
from segcore.spatial import Affine, Georef, Spacing
from segcore.store import Ngff, PyramidSpec, Staging, Workspace, layer_name


def put_image(
    workspace: Workspace,
    image_id: str,
    pixels: npt.NDArray[Any],
    spacing: Spacing | None = None,
    georef: Georef | None = None,
    split: str | None = None,
    nodata: float | None = None,
    has_valid: bool = False,
    group: str | None = None,
    ngff: Ngff = "0.5",
    axes: tuple[str, ...] = ("c", "y", "x"),
    affine: Affine | None = None,
    channels: tuple[str, ...] = (),
) -> None:
    """An image; one of another shape or type replaces it."""
    dtype = str(pixels.dtype)
    spec = PyramidSpec(axes=axes, shape=pixels.shape, dtype=dtype, kind="image", nodata=nodata, shard_px=256, ngff=ngff)
    attributes = {
        "source": f"/sources/{image_id}.tif",
        "spacing": spacing.model_dump(mode="json") if spacing else None,
        "georef": georef.model_dump(mode="json") if georef else None,
        "affine": affine.model_dump(mode="json") if affine else None,
        "split": split,
        "nodata": nodata,
        "group": group,
        "has_valid": has_valid,
    }
    with Staging.begin(workspace, image_id, "image", {"source": image_id}, spec, overwrite=True) as staging:
        staging.put_all(pixels)
        numbered = tuple(f"band {i}" for i in range(pixels.shape[axes.index("c")]))
        staging.finish(attributes, channels=channels or numbered)


def put_label(
    workspace: Workspace,
    image_id: str,
    name: str,
    ids: npt.NDArray[Any],
    classes: tuple[ClassInfo, ...] | None = None,
    version: int = 0,
    attributes: dict[str, Any] | None = None,
    axes: tuple[str, ...] = ("y", "x"),
    base_level: int = 0,
) -> None:
    """A target, mask or `valid`; another `version` is another plan, and overwrites."""
    spec = PyramidSpec(
        axes=axes,
        shape=ids.shape,
        dtype=str(ids.dtype),
        kind="mask",
        fill=0 if name == "valid" else int(np.iinfo(ids.dtype).max),
        shard_px=256,
        ngff=workspace.ngff_of(image_id),
        base_level=base_level,
    )
    with Staging.begin(workspace, image_id, name, {"version": version}, spec, overwrite=True) as staging:
        staging.put_all(ids)
        own = {"digest": f"{name}-{version}", "base_level": base_level}
        staging.finish(own | (attributes or {}), classes=classes or default_classes(2))


def put_objects(
    workspace: Workspace, image_id: str, name: str, ids: npt.NDArray[Any], attributes: dict[str, Any] | None = None
) -> None:
    """Object ids of axes (y, x), 0 = none."""
    spec = PyramidSpec(axes=("y", "x"), shape=ids.shape, dtype=str(ids.dtype), kind="instances", shard_px=256)
    with Staging.begin(workspace, image_id, name, {"ids": name, **(attributes or {})}, spec, overwrite=True) as staging:
        staging.put_all(ids)
        staging.finish({"digest": name} | (attributes or {}), classes=())


def put_discs(
    workspace: Workspace,
    held_out: Sequence[bool],
    shape_yx: tuple[int, int],
    centres: tuple[tuple[int, int], tuple[int, int]],
    radius: int,
    num_bands: int,
) -> None:
    """Images i0, i1... of a bright disc on a dark, noisy ground, with their targets.

    Args:
        workspace: where they are put.
        held_out: of each image, whether it validates; the others train.
        shape_yx: of each.
        centres: from which to which, in y and in x, the disc's centre may lie.
        radius: of the disc in px.
        num_bands: of each image.
    """
    y, x = np.mgrid[: shape_yx[0], : shape_yx[1]]
    for number, validates in enumerate(held_out):
        rng = np.random.default_rng(number)
        disc = (y - rng.integers(*centres[0])) ** 2 + (x - rng.integers(*centres[1])) ** 2 < radius**2
        pixels = rng.normal(60 + 80 * disc, 12, (num_bands, *shape_yx)).clip(0, 255).astype(np.uint8)
        put_image(workspace, f"i{number}", pixels, split="val" if validates else "train")
        put_label(workspace, f"i{number}", "target", disc.astype(np.uint8))


def write(staging: Staging, pixels: npt.NDArray[Any], stop_after: int | None = None) -> list[Ints]:
    """Write all pending shards, or the first few; returns those written."""
    written: list[Ints] = []
    for unit in staging.windows():
        writer = staging.writer(unit)
        for shard in staging.pending(unit):
            if len(written) == stop_after:
                return written
            writer.put(shard, pixels[staging.shard_window(shard).slices])
            written.append(shard)
    return written


def put_probs(
    workspace: Workspace,
    image_id: str,
    mask: str,
    values: npt.NDArray[Any],
    channels: tuple[str, ...],
    level: int = 0,
    predict: dict[str, Any] | None = None,
    axes: tuple[str, ...] = ("c", "y", "x"),
) -> None:
    """The layer probs of a mask, uint8 or float16, whose finest level is a level of the image."""
    spec = PyramidSpec(
        axes=axes, shape=values.shape, dtype=str(values.dtype), kind="image", shard_px=256, base_level=level
    )
    name, plan = layer_name(mask, "probs"), {"channels": list(channels), "predict": predict}
    with Staging.begin(workspace, image_id, name, plan, spec, overwrite=True) as staging:
        staging.put_all(values)
        staging.finish({"layer": "probs"} | ({"predict": predict} if predict else {}), channels=channels)
