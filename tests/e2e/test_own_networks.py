"""Our own networks go the whole way: trained, predicted, packaged, built anew from the package, the same mask again."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from segcore.config import PredictConfig, TrainConfig
from segcore.inference import predict
from segcore.models import build_model
from segcore.models.package import read_package
from segcore.store import Workspace
from segcore.training import train
from tests.inference.scenes import mask_of, scene
from tests.synthetic import put_image, put_label

NETWORKS = {
    "segnet": {"channels": "4,8"},
    "attention_unet": {"channels": "4,8"},
    "fcn32s": {},
    "fcn16s": {},
    "fcn8s": {},
    "pspnet": {"head_channels": "8"},
    "deeplabv3plus": {"head_channels": "8"},
    "segformer": {},
    "tile_classifier": {"channels": "4,8", "hidden": "8"},
}
QUICK = ("segnet", "tile_classifier")
"""Of one kind each: a mask at full resolution, and one of squares."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_a_network_goes_the_whole_way(name: str, tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    for k, split in enumerate(("train", "val")):
        pixels = scene(64, 96, seed=k)
        put_image(ws, f"i{k}", pixels, split=split)
        put_label(ws, f"i{k}", "target", (pixels[1] > 120).astype(np.uint8))
    common: dict[str, Any] = {"workspace": ws.uri, "device": "cpu"}
    given = {
        "architecture": name,
        "arguments": NETWORKS[name],
        "max_steps": 2,
        "threads": 1,
        "run": "r",
        "tile_px": 64,
        "batch": 2,
    }
    model = train(TrainConfig.model_validate({**common, **given})).details["model"]
    folder = shutil.copytree(tmp_path / "w" / "models" / model, tmp_path / "copied" / model)
    for mask, of in (("one", model), ("two", str(folder))):
        items = predict(PredictConfig.model_validate({**common, "model": of, "name": mask})).items
        assert [item.error for item in items] == [None] * 2
    for image in ("i0", "i1"):
        np.testing.assert_array_equal(mask_of(ws, image, "one"), mask_of(ws, image, "two"))
    package = read_package(None, str(folder))
    trained = build_model(package.architecture).eval()
    trained.load_state_dict(load_file(tmp_path / "w" / "runs" / "r" / "best.safetensors"))
    torch.manual_seed(0)
    tiles = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(package.load_weights()(tiles), trained(tiles))
