"""Networks of other libraries go the whole way: trained, packaged, read back, the same mask each time, explained."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import ExplainConfig, PredictConfig, TrainConfig
from segcore.explain import explain
from segcore.inference import predict
from segcore.store import Workspace
from segcore.training import train
from tests.inference.scenes import mask_of, scene
from tests.synthetic import put_image, put_label
from tests.zoo import load_zoo

NETWORKS = {
    "dynunet": {"dims": "2", "channels": "4,8,8"},
    "segresnet": {"dims": "2", "first_channels": "8"},
    "swinunetr": {"dims": "2", "features": "12"},
    "unetr": {"dims": "2", "hidden": "24", "heads": "3", "features": "8", "grid_px": "64"},
    "smp.unet": {"encoder": "resnet18"},
    "timm.convnext_atto": {"decoder": "16"},
    "timm.vit_tiny_patch16_224": {"decoder": "16"},
}


VOLUMES = {
    "dynunet": {"channels": "4,8,8"},
    "segresnet": {"first_channels": "8", "depths": "1,1"},
    "swinunetr": {"features": "12"},
    "unetr": {"hidden": "24", "heads": "3", "features": "8", "grid_px": "64", "grid_planes": "16"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VOLUMES)
def test_a_network_of_volumes_goes_the_whole_way_as_it_comes(name: str, tmp_path: Path) -> None:
    """More planes than a tile has, with tile, halo and blend of the package."""
    if name in ("swinunetr", "unetr") and importlib.util.find_spec("einops") is None:
        pytest.skip("extra `volumes` is incomplete: einops")
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    for k, split in enumerate(("train", "val")):
        pixels = scene(40, 48, seed=k)[:1].repeat(33 if name == "swinunetr" else 17, axis=0)[:, None]
        put_image(ws, f"i{k}", pixels, split=split, axes=("z", "c", "y", "x"))
        put_label(ws, f"i{k}", "target", (pixels[:, 0] > 120).astype(np.uint8), axes=("z", "y", "x"))
    common: dict[str, Any] = {"workspace": ws.uri, "device": "cpu"}
    given = {"architecture": name, "arguments": VOLUMES[name], "max_steps": 2, "tile_px": 64, "threads": 1}
    model = train(TrainConfig.model_validate({**common, **given})).details["model"]
    how = {"model": model, "images": ("i1",), "precision": "float32"}
    items = predict(PredictConfig.model_validate({**common, **how})).items
    assert [item.error for item in items] == [None]
    assert set(np.unique(mask_of(ws, "i1", model))) <= {0, 1}


@pytest.mark.slow  # a few seconds each, and half a minute where transformers are explained on a busy machine
@pytest.mark.parametrize("name", NETWORKS)
def test_a_borrowed_network_goes_the_whole_way(name: str, tmp_path: Path) -> None:
    if "." in name:
        load_zoo()
    elif name in ("swinunetr", "unetr") and importlib.util.find_spec("einops") is None:
        pytest.skip("extra `volumes` is incomplete: einops")
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    for k, split in enumerate(("train", "train", "val")):
        pixels = scene(160, 192, seed=k)
        put_image(ws, f"i{k}", pixels, split=split)
        put_label(ws, f"i{k}", "target", (pixels[1] > 120).astype(np.uint8))
    common: dict[str, Any] = {"workspace": ws.uri, "device": "cpu"}
    given = {"architecture": name, "arguments": NETWORKS[name], "max_steps": 3, "threads": 1}
    model = train(TrainConfig.model_validate({**common, **given})).details["model"]
    for mask in ("one", "two"):
        items = predict(PredictConfig.model_validate({**common, "model": model, "name": mask})).items
        assert [item.error for item in items] == [None] * 3
    np.testing.assert_array_equal(mask_of(ws, "i2", "one"), mask_of(ws, "i2", "two"))
    for method in ("grad_cam", "integrated_gradients"):
        how = {"model": model, "name": "one", "method": method, "steps": 2, "mpx": 0.005, "tile_px": 64}
        items = explain(ExplainConfig.model_validate({**common, **how})).items
        assert [item.error for item in items] == [None] * 3
