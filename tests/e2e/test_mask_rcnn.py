"""Mask R-CNN goes the whole way: trained on numbered objects, packaged, read back, its objects found and stitched."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import PredictConfig, TrainConfig, build_config
from segcore.inference import predict
from segcore.models.check import verify_package
from segcore.models.package import read_package
from segcore.store import Workspace, verify
from segcore.training import train
from tests.inference.scenes import mask_of
from tests.instances.scenes import discs
from tests.synthetic import put_image, put_label
from tests.zoo import load_torchvision

ARGUMENTS = {
    "encoder": "resnet18", "features": "16", "hidden": "64", "anchors": "16,32,64,128,256", "proposals": "80",
    "sampled": "32", "max_objects": "100",
}  # fmt: skip


def put_scene(ws: Workspace, image_id: str, seed: int, split: str | None, side: int) -> None:
    """Bright discs on a dark, noisy ground; some touch or lie behind others."""
    ids = discs((side, side), side * side // 1100, seed, (9, 14))
    light = np.random.default_rng(seed).normal(60 + 90 * (ids > 0), 8, (2, side, side))
    put_image(ws, image_id, light.clip(0, 255).astype(np.uint8), split=split)
    put_label(ws, image_id, "target", (ids > 0).astype(np.uint8))
    put_label(ws, image_id, "target_instances", ids.astype(np.uint32))


@pytest.mark.slow  # a minute of training, with torchvision without its compiled part
def test_from_numbered_objects_to_ids(tmp_path: Path) -> None:
    load_torchvision()
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    for number in range(4):
        put_scene(ws, f"i{number}", number, "val" if number == 3 else "train", 128)
    given: dict[str, Any] = {
        "workspace": ws.uri, "task": "instances", "architecture": "mask_rcnn", "arguments": ARGUMENTS, "tile_px": 64,
        "batch": 4, "threads": 1, "max_steps": 120, "learning_rate": 1e-3, "device": "cpu", "validate_every": 1000,
    }  # fmt: skip
    result = train(build_config(TrainConfig, given))
    package = read_package(ws, result.details["model"])
    assert verify_package(ws, package.model_id) == []
    assert package.contract.whole_objects
    assert (package.contract.halo_px, package.contract.tile_px, package.num_logits) == (64, 512, 4)
    assert package.info.instances is not None
    assert package.info.instances.depth_px == 1
    put_scene(ws, "new", 9, None, 300)
    for name in ("one", "two"):
        how = {"model": package.model_id, "images": ("new",), "shard_px": 256, "tile_px": 64, "name": name}
        (item,) = predict(PredictConfig.model_validate({"workspace": ws.uri, "device": "cpu", **how})).items
        assert item.error is None
    assert verify(ws) == []
    one = mask_of(ws, "new", "one_instances")
    np.testing.assert_array_equal(one, mask_of(ws, "new", "two_instances"))
    target = mask_of(ws, "new", "target_instances")
    assert hits(one, target) > 0.8 * one.max()
    assert hits(one, target) > 0.3 * len(np.unique(target))


def hits(found: np.ndarray, other: np.ndarray) -> int:
    """Objects of one map that are there in the other, with most of their pixels in common."""
    pairs = np.zeros((found.max() + 1, other.max() + 1))
    np.add.at(pairs, (found, other), 1)
    overlap = pairs / (pairs.sum(1)[:, None] + pairs.sum(0) - pairs)
    return int((overlap[1:, 1:] > 0.5).sum())
