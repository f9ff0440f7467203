"""Layers beside the mask: the probabilities of the plain way, at any level, however the work was cut."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from segcore.config import PredictConfig
from segcore.geometry import Window
from segcore.inference import predict
from segcore.inference.numerics import Network
from segcore.models.package import ModelPackage
from segcore.results import StageResult
from segcore.store import Staging, Workspace, layer_name, verify
from segcore.store.pyramid import mean_2x2
from tests.inference.scenes import conv_package, mask_of, padded, scene, unet_package
from tests.synthetic import put_image

HEIGHT, WIDTH, HALO = 700, 530, 16


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    put_image(ws, "a", scene(HEIGHT, WIDTH))
    return ws


@pytest.fixture
def package(ws: Workspace) -> ModelPackage:
    return unet_package(ws)


def run(ws: Workspace, package: ModelPackage, **settings: Any) -> StageResult:
    config = {"workspace": ws.uri, "model": package.model_id, "shard_px": 256, "precision": "float32", "name": "m"}
    result = predict(PredictConfig.model_validate({**config, **settings}))
    assert [item.error for item in result.items] == [None]
    return result


def layer_of(ws: Workspace, kind: str, level: int = 0, name: str = "m") -> npt.NDArray[Any]:
    layer = ws.layer("a", name, kind)
    return layer.read(Window.whole(layer.shape(level)), level)


def plain_probs(package: ModelPackage) -> npt.NDArray[Any]:
    """Probabilities (K, Y, X) of the model run once on all of the image."""
    network = Network(package, torch.device("cpu"), "float32", batch=1)
    wide = padded(scene(HEIGHT, WIDTH), HALO, package.contract.stride)
    with torch.inference_mode():
        probs = network.logits(wide[None])[0].softmax(dim=0).numpy()
    return probs[:, HALO : HALO + HEIGHT, HALO : HALO + WIDTH]


def test_probabilities_are_those_of_the_whole_image(ws: Workspace, package: ModelPackage) -> None:
    run(ws, package, layers=("probs", "margin"), layer_classes=("class 2", "class 0"))
    expected = plain_probs(package)
    assert ws.layer_names("a") == ["m.margin", "m.probs"]
    assert ws.layer("a", "m", "probs").channels == ("class 2", "class 0")
    found = layer_of(ws, "probs")
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found / 255, expected[[2, 0]], atol=0.51 / 255)
    ordered = np.sort(expected, axis=0)
    np.testing.assert_allclose(layer_of(ws, "margin")[0] / 255, ordered[-1] - ordered[-2], atol=0.51 / 255)
    np.testing.assert_array_equal(layer_of(ws, "probs", 1), mean_2x2(found))
    assert verify(ws) == []


@pytest.mark.parametrize("level", [1, 2])
def test_a_coarse_layer_is_the_mean_of_the_fine_one(ws: Workspace, package: ModelPackage, level: int) -> None:
    """Several shards of the mask go into one of the layer; odd sides are averaged as in every pyramid."""
    put_image(ws, "a", scene(1101, 1057))
    run(ws, package, layers=("entropy",), layer_dtype="float16")
    fine = layer_of(ws, "entropy")[0].astype(np.float32)
    run(ws, package, layers=("entropy",), layer_dtype="float16", layer_level=level, name="coarse")
    coarse = layer_of(ws, "entropy", name="coarse")[0]
    assert ws.layer("a", "coarse", "entropy").num_levels + level == ws.image("a").num_levels
    for _ in range(level):
        fine = np.pad(fine, [(0, n % 2) for n in fine.shape], mode="edge")
        fine = fine.reshape(fine.shape[0] // 2, 2, fine.shape[1] // 2, 2).mean(axis=(1, 3))
    assert coarse.shape == fine.shape
    np.testing.assert_allclose(coarse, fine, atol=2e-3)
    assert verify(ws) == []


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_layers_do_not_depend_on_how_the_work_is_cut(ws: Workspace, package: ModelPackage, blend: str) -> None:
    common = {"layers": ("probs",), "blend": blend, "tile_px": 128}
    run(ws, package, **common, name="one", tile_workers=1)
    run(ws, package, **common, name="two", tile_workers=3, shard_px=512)
    np.testing.assert_array_equal(layer_of(ws, "probs", name="one"), layer_of(ws, "probs", name="two"))
    np.testing.assert_array_equal(mask_of(ws, "a", "one"), mask_of(ws, "a", "two"))


def test_a_killed_run_goes_on_with_its_layers(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"layers": ("probs", "entropy"), "layer_level": 1}
    run(ws, package, **settings, name="reference")
    write, written = Staging.write_shard, [0]

    def dies(self: Staging, *args: Any, **kwargs: Any) -> None:
        written[0] += 1
        if written[0] in (5, 14):
            raise KeyboardInterrupt
        write(self, *args, **kwargs)

    monkeypatch.setattr(Staging, "write_shard", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(ws, package, **settings)
    run(ws, package, **settings)
    for kind in ("probs", "entropy"):
        np.testing.assert_array_equal(layer_of(ws, kind), layer_of(ws, kind, name="reference"))
    np.testing.assert_array_equal(mask_of(ws, "a", "m"), mask_of(ws, "a", "reference"))
    assert verify(ws) == []


def test_layers_may_be_asked_for_later(ws: Workspace, package: ModelPackage) -> None:
    run(ws, package)
    marks = {key: ws.objects.get(key) for key, _ in ws.objects.list("state/a/m")}
    result = run(ws, package, layers=("margin",))
    assert result.items[0].state == "done"
    assert layer_of(ws, "margin").shape == (1, HEIGHT, WIDTH)
    after = {key: ws.objects.get(key) for key, _ in ws.objects.list("state/a/m")}
    assert {key for key in marks if "lease" not in key and after[key] != marks[key]} == set(), "the mask was written"
    assert run(ws, package, layers=("margin",)).items[0].state == "skipped"


def test_unusable_pixels_have_no_probability(ws: Workspace, package: ModelPackage) -> None:
    pixels = scene(300, 280, seed=5)
    pixels[:, :90] = 0
    put_image(ws, "a", pixels, nodata=0)
    for dtype, unknown in (("uint8", 0), ("float16", np.nan)):
        run(ws, package, layers=("probs",), layer_dtype=dtype, name=dtype)
        values = layer_of(ws, "probs", name=dtype)
        np.testing.assert_array_equal(values[:, :90], np.full((3, 90, 280), unknown))
        assert values[:, 95:].max() > 0


def test_an_ensemble_averages_probabilities(ws: Workspace) -> None:
    """Two one-layer models of 4 : 1 and 1 : 9 odds, whatever the pixel."""
    weights = np.zeros((2, 3, 1, 1))
    one = conv_package(ws, weights, np.log([0.8, 0.2]))
    two = conv_package(ws, weights, np.log([0.1, 0.9]))
    result = run(ws, one, ensemble=(two.model_id,), layers=("probs", "variance"), layer_dtype="float16", name=None)
    (name,) = ws.label_names("a")
    assert name.startswith("ensemble-")
    assert result.details["name"] == name
    np.testing.assert_allclose(layer_of(ws, "probs", name=name)[:, 5, 5], [0.45, 0.55], atol=1e-3)
    np.testing.assert_allclose(layer_of(ws, "variance", name=name)[0, 5, 5], 4 * 0.35**2, atol=1e-3)
    assert (mask_of(ws, "a", name) == 1).all()


def test_views_average_what_a_turned_tile_gives(ws: Workspace) -> None:
    """A kernel that looks to the right alone: mirrored, it looks to the left."""
    kernel = np.zeros((2, 3, 3, 3))
    kernel[1, 0, 1, 2] = 1 / 40
    package = conv_package(ws, kernel, np.array([0.0, -3.0]), halo_px=1)
    run(ws, package, views="flips", layers=("probs",), layer_dtype="float16")
    red = np.pad(scene(HEIGHT, WIDTH)[0].astype(np.float64), 1, mode="reflect")

    def sigmoid(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return 1 / (1 + np.exp(-(values / 40 - 3)))

    expected = (sigmoid(red[1:-1, 2:]) + sigmoid(red[1:-1, :-2])) / 2
    np.testing.assert_allclose(layer_of(ws, "probs")[1], expected, atol=2e-3)


def test_wishes_that_cannot_be_are_refused(ws: Workspace, package: ModelPackage) -> None:
    from segcore.errors import ConfigError, ContractError

    with pytest.raises(ConfigError, match="variance needs several views"):
        run(ws, package, layers=("variance",))
    with pytest.raises(ConfigError, match=r"layer_classes: .* got 'tree'"):
        run(ws, package, layers=("probs",), layer_classes=("tree",))
    with pytest.raises(ConfigError, match="thresholds: leave out a class"):
        run(ws, package, thresholds={f"class {k}": 0.9 for k in range(3)})
    with pytest.raises(ConfigError, match=r"halo exact: .* other scales"):
        run(ws, package, halo="exact", view_scales=(1.25,))
    other = unet_package(ws, num_classes=2)
    with pytest.raises(ContractError, match=r"ensemble: .* has the classes class 0, class 1, class 2"):
        run(ws, package, ensemble=(other.model_id,))
    result = predict(
        PredictConfig(workspace=ws.uri, model=package.model_id, layers=("probs",), layer_level=9, name="far")
    )
    assert "layer_level 9: image a has the levels 0 to" in str(result.items[0].error)
    assert layer_name("x", "probs").startswith("_")


def test_layers_that_are_asked_for_later_are_those_of_the_mask(ws: Workspace, package: ModelPackage) -> None:
    run(ws, package, blend="gaussian")
    asked = {"workspace": ws.uri, "model": package.model_id, "shard_px": 256, "precision": "float32", "name": "m"}
    (item,) = predict(PredictConfig.model_validate({**asked, "layers": ("probs",)})).items
    assert "mask m was made otherwise" in str(item.error)
    assert "blend: 'gaussian' -> 'crop'" in str(item.error).replace('"', "'")
    assert ws.layer_names("a") == []
    run(ws, package, layers=("probs",), blend="gaussian")
    run(ws, package, name="plain", layers=("probs",), blend="gaussian")
    np.testing.assert_array_equal(layer_of(ws, "probs"), layer_of(ws, "probs", name="plain"))
    assert run(ws, package, layers=("probs",)).items[0].state == "skipped"


def test_a_layer_that_cannot_be_takes_no_mask_away(ws: Workspace, package: ModelPackage) -> None:
    run(ws, package)
    before = mask_of(ws, "a", "m")
    asked = {"overwrite": True, "tile_px": 64, "layers": ("entropy",), "layer_level": 9}
    result = predict(
        PredictConfig.model_validate({"workspace": ws.uri, "model": package.model_id, "name": "m", **asked})
    )
    assert "layer_level 9" in str(result.items[0].error)
    np.testing.assert_array_equal(mask_of(ws, "a", "m"), before)


@pytest.mark.parametrize(("shard_px", "level"), [pytest.param(256, 3, marks=pytest.mark.slow), (768, 3)])
def test_shards_of_very_coarse_layers_are_smaller_than_a_chunk(
    ws: Workspace, package: ModelPackage, shard_px: int, level: int
) -> None:
    put_image(ws, "a", scene(2100, 2050, cell=64))
    run(ws, package, layers=("margin",), layer_level=level, shard_px=shard_px, tile_px=256)
    side = 2**level
    assert layer_of(ws, "margin").shape == (1, -(-2100 // side), -(-2050 // side))
    assert verify(ws) == []
