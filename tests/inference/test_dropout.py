"""Samples: sub-networks of a model with dropout, the same for all tiles; their variance is that of a brute force."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segcore.config import PredictConfig
from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.inference import predict
from segcore.inference.dropout import has_dropout, kept_channels, sub_network
from segcore.models.package import ModelPackage
from segcore.store import Workspace, verify
from tests.inference.scenes import MEAN, STD, mask_of, padded, scene, unet_package
from tests.synthetic import put_image

HEIGHT, WIDTH, SAMPLES, SHARE = 300, 275, 3, 0.3


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "a", scene(HEIGHT, WIDTH))
    return ws


@pytest.fixture
def package(ws: Workspace) -> ModelPackage:
    return unet_package(ws, channels=(8, 8, 8), dropout=SHARE)


def run(ws: Workspace, package: ModelPackage, name: str, **settings: Any) -> tuple[Any, Any]:
    """The mask, and the variance as it is stored."""
    given = {"workspace": ws.uri, "model": package.model_id, "name": name, "shard_px": 256, "precision": "float32"}
    settings = {"samples": SAMPLES, "layers": ("variance",), "halo": "exact", "device": "cpu", **settings}
    (item,) = predict(PredictConfig.model_validate({**given, **settings})).items
    assert item.error is None
    layer = ws.layer("a", name, "variance")
    return mask_of(ws, "a", name), layer.read(Window.whole(layer.shape(0)))[0]


def by_hand(package: ModelPackage, sample: int, tiles: torch.Tensor) -> torch.Tensor:
    """Logits of one sub-network: the model's own layers, called one by one, with channels taken out between them."""
    net: Any = package.load_weights()

    def dropped(features: torch.Tensor, name: str) -> torch.Tensor:
        drawn = np.random.default_rng([0, sample, *name.encode()]).random(features.shape[1])
        return features * torch.tensor((drawn >= SHARE) / (1 - SHARE), dtype=torch.float32)[:, None, None]

    fine = net.down[0](tiles)
    middle = dropped(net.down[1](net.pool[0](fine)), "drop_down.1")
    coarse = dropped(net.down[2](net.pool[1](middle)), "drop_down.2")
    up = dropped(net.merge[0](torch.cat((middle, net.up[0](coarse)), dim=1)), "drop_up.0")
    logits: torch.Tensor = net.head(net.merge[1](torch.cat((fine, net.up[1](up)), dim=1)))
    return logits


def test_mask_and_variance_are_those_of_the_sub_networks(ws: Workspace, package: ModelPackage) -> None:
    mask, variance = run(ws, package, "m", layer_dtype="float16")
    halo = 64
    tiles = padded(scene(HEIGHT, WIDTH), halo, package.contract.stride).astype(np.float32)
    normal = torch.from_numpy((tiles - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))).float()[None]
    with torch.inference_mode():
        every = [by_hand(package, sample, normal)[0].softmax(dim=0).numpy() for sample in range(SAMPLES)]
    probs = np.stack(every)[..., halo : halo + HEIGHT, halo : halo + WIDTH].astype(np.float64)
    expected = 4 * probs.var(axis=0).max(axis=0)
    assert expected.max() > 0.1, "the sub-networks have to differ"
    np.testing.assert_allclose(variance, expected, atol=1e-3)
    assert (mask == probs.mean(axis=0).argmax(axis=0)).mean() > 0.9999
    assert ws.label("a", "m").attributes["predict"]["samples"] == {"count": SAMPLES, "seed": 0}
    assert verify(ws) == []


def test_samples_do_not_depend_on_how_the_work_is_cut(ws: Workspace, package: ModelPackage) -> None:
    mask, variance = run(ws, package, "one", tile_px=64, tile_workers=1)
    for name, cut in {"workers": {"tile_workers": 4}, "shards": {"tile_workers": 2, "shard_px": 512}}.items():
        found = run(ws, package, name, tile_px=64, **cut)
        np.testing.assert_array_equal(found[0], mask)
        np.testing.assert_array_equal(found[1], variance)
    larger = run(ws, package, "tiles", tile_px=256)
    np.testing.assert_array_equal(larger[0], mask)
    np.testing.assert_allclose(larger[1].astype(int), variance, atol=1)  # at a half, the last bit of a softmax decides


def test_samples_go_with_views_and_models(ws: Workspace, package: ModelPackage) -> None:
    other = unet_package(ws, channels=(8, 8), dropout=SHARE)
    _, alone = run(ws, package, "alone", samples=2)
    _, joint = run(ws, package, "joint", samples=2, views="flips", ensemble=(other.model_id,))
    assert (alone != joint).mean() > 0.5
    _, single = run(ws, package, "single", samples=1, views="flips")
    assert single.max() > 0


def test_a_model_without_dropout_is_refused(ws: Workspace, package: ModelPackage) -> None:
    plain = unet_package(ws)
    words = rf"samples 2: expected a model with dropout, {plain.model_id} has none; train one with --dropout 0.2"
    with pytest.raises(ConfigError, match=words):
        run(ws, plain, "m", samples=2)
    with pytest.raises(ConfigError, match=words):
        run(ws, package, "m", samples=2, ensemble=(plain.model_id,))
    with pytest.raises(ConfigError, match=r"variance needs several views .* or `samples`"):
        run(ws, package, "m", samples=1)


def test_another_number_of_samples_is_another_plan(ws: Workspace, package: ModelPackage) -> None:
    run(ws, package, "m")
    result = predict(PredictConfig(workspace=ws.uri, model=package.model_id, name="m", samples=5, shard_px=256))
    assert "samples" in str(result.items[0].error)


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (nn.Dropout(0.5), (2, 6, 5, 4), 1),
        (nn.Dropout2d(0.5), (2, 6, 5, 4), 1),
        (nn.Dropout3d(0.5), (2, 6, 3, 5, 4), 1),
        (nn.Dropout1d(0.5), (2, 6, 7), 1),
        (nn.Dropout(0.5), (2, 7, 6), 2),
        (nn.Dropout(1.0), (2, 6), 1),
    ],
)
def test_whole_channels_are_dropped(layer: nn.Module, shape: tuple[int, ...], axis: int) -> None:
    model = nn.Sequential(nn.Identity(), layer).eval()
    ones = torch.ones(shape)
    found = sub_network(model, 1)(ones).movedim(axis, -1)
    factors = kept_channels("1", 1, layer.p, 6)  # type: ignore[arg-type]
    assert torch.equal(found, factors.expand(found.shape))
    assert set(factors.tolist()) == ({0.0} if layer.p == 1 else {0.0, 2.0})
    assert torch.equal(model(ones), ones)  # the model itself drops nothing


def test_sub_networks_share_weights_and_differ_by_sample_and_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout2d(0.5), nn.Conv2d(8, 8, 1), nn.Dropout(0.5)).eval()
    nets = [sub_network(model, sample) for sample in range(2)]
    for net in nets:
        for own, shared in zip(net.parameters(), model.parameters(), strict=True):
            assert own is shared
    drawn = {(name, sample): kept_channels(name, sample, 0.5, 64).tolist() for name in "13" for sample in range(2)}
    assert len({tuple(values) for values in drawn.values()}) == 4
    share = np.mean([kept_channels("1", sample, 0.2, 1000).numpy() == 0 for sample in range(10)])
    assert share == pytest.approx(0.2, abs=0.02)


def test_has_dropout_sees_what_drops() -> None:
    assert has_dropout(nn.Sequential(nn.Sequential(nn.Dropout2d(0.1))))
    assert not has_dropout(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout2d(0.0), nn.AlphaDropout(0.5)))
