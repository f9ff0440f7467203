"""The batch: no answer depends on a tile's place in it, whatever the tile's size and whichever model or view it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.inference import prepared as module
from segcore.inference.batch import Batches
from segcore.inference.numerics import Network
from segcore.inference.tiling import crop_tiling
from segcore.store import Workspace
from tests.inference.scenes import mask_of, scene, unet_package
from tests.synthetic import put_image


class Uneven(nn.Module):
    """A model whose kernels change with the place in the batch, for tiles of some width alone."""

    def __init__(self, model: nn.Module, width: int | None) -> None:
        super().__init__()
        self.model, self.width = model, width

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(tiles)
        if self.width in (None, tiles.shape[-1]):
            logits[:, 0] += 3 * torch.arange(len(tiles)).reshape(-1, 1, 1)
        return logits


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "narrow", scene(200, 40))  # of two tiles, 128 px high and as wide as the image
    put_image(ws, "wide", scene(300, 300, seed=1))
    return ws


def spoiled(monkeypatch: pytest.MonkeyPatch, model_id: str, width: int | None = None) -> None:
    """Of one model."""
    prepared = module.prepared

    def wrapped(package: Any, *args: Any) -> nn.Module:
        model = prepared(package, *args)
        return Uneven(model, width) if package.model_id == model_id else model

    monkeypatch.setattr(module, "prepared", wrapped)


def run(ws: Workspace, model_id: str, name: str, **settings: Any) -> dict[str, int]:
    """The batch of each image's plan."""
    config = {"workspace": ws.uri, "model": model_id, "name": name, "shard_px": 256, "precision": "float32"}
    result = predict(PredictConfig.model_validate({**config, **settings}))
    assert [item.error for item in result.items] == [None, None]
    return {image: ws.label(image, name).attributes["predict"]["batch"] for image in ("narrow", "wide")}


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_each_size_of_tile_has_its_own(ws: Workspace, monkeypatch: pytest.MonkeyPatch, blend: str) -> None:
    model_id = unet_package(ws).model_id
    spoiled(monkeypatch, model_id, {"crop": 160, "gaussian": 128}[blend])
    assert run(ws, model_id, "one", blend=blend) == {"narrow": 1, "wide": 1}
    assert run(ws, model_id, "four", blend=blend, batch=4) == {"narrow": 4, "wide": 1}
    for image in ("narrow", "wide"):
        np.testing.assert_array_equal(mask_of(ws, image, "four"), mask_of(ws, image, "one"))


def test_every_model_of_an_ensemble_is_asked(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = unet_package(ws).model_id, unet_package(ws, channels=(4, 8)).model_id
    spoiled(monkeypatch, second)
    assert run(ws, first, "alone", batch=4) == {"narrow": 4, "wide": 4}
    assert run(ws, first, "both", batch=4, ensemble=(second,)) == {"narrow": 1, "wide": 1}


def test_every_view_is_asked(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    model_id = unet_package(ws).model_id
    spoiled(monkeypatch, model_id, 80)  # the tile of 160 px at half its size
    assert run(ws, model_id, "plain", batch=4) == {"narrow": 4, "wide": 4}
    assert run(ws, model_id, "scaled", batch=4, view_scales=(0.5,)) == {"narrow": 4, "wide": 1}


def test_a_tile_that_is_alone_has_no_other_place(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    package = unet_package(ws)
    spoiled(monkeypatch, package.model_id)
    batches = Batches(Network(package, torch.device("cpu"), "float32", batch=4), package.contract)
    for shape, batch in (((100, 100), 4), ((100, 300), 1)):
        assert batches.of(crop_tiling(shape, (128, 128), (16, 16), (2, 2), 256)) == batch
