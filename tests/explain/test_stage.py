"""Explain from the store to the store: tables and layers against closed forms; killed, resumed, refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from segcore.classes import default_classes
from segcore.config import ExplainConfig, PredictConfig, ReportConfig
from segcore.errors import ConfigError, StoreError
from segcore.explain import explain, places
from segcore.explain import stage as explain_stage
from segcore.explain.layers import kind_of, stored_values
from segcore.explain.places import chosen_tiles, class_px, finest_scanned
from segcore.geometry import Window
from segcore.inference import predict
from segcore.inference.contract import sized
from segcore.inference.model_grid import ModelGrid
from segcore.inference.tiling import crop_tiling
from segcore.instances.rule import Rule
from segcore.models import ModelConfig
from segcore.models.package import InputContract, ModelPackage, PackageInfo, write_package
from segcore.publish import report
from segcore.repair import repair
from segcore.results import StageResult
from segcore.spatial import Spacing
from segcore.store import Staging, Workspace, layer_name, verify
from tests.inference.scenes import conv_package, mask_of, scene, unet_package, volume_package
from tests.synthetic import put_image, put_label

SIDES = (700, 620)
WEIGHT, BIAS = 0.05, -5.0


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    put_image(ws, "a", scene(*SIDES))
    return ws


def of_one_band(ws: Workspace) -> ModelPackage:
    """Class 1 where band 1 is over 100; the other bands are not read. The baseline is a band of 0."""
    weights = np.zeros((2, 3, 1, 1))
    weights[1, 1] = WEIGHT
    return conv_package(ws, weights, np.array([0.0, BIAS]))


def predicted(ws: Workspace, package: ModelPackage, **settings: Any) -> None:
    settings |= {"model": package.model_id, "shard_px": 256, "precision": "float32", "name": "m"}
    assert [i.error for i in predict(PredictConfig.model_validate({"workspace": ws.uri, **settings})).items] == [None]


def explained(ws: Workspace, package: ModelPackage, **settings: Any) -> StageResult:
    given = {"workspace": ws.uri, "model": package.model_id, "name": "m", "tile_px": 64, "shard_px": 256}
    result = explain(ExplainConfig.model_validate({**given, **settings}))
    assert [item.error for item in result.items] == [None]
    return result


def layer_of(ws: Workspace, kind: str) -> npt.NDArray[np.uint8]:
    layer = ws.layer("a", "m", kind)
    return layer.read(Window.whole(layer.shape()))[0]


def test_the_table_names_the_band_that_is_read(ws: Workspace) -> None:
    package = of_one_band(ws)
    predicted(ws, package)
    result = explained(ws, package, mpx=10)
    document = json.loads(Path(result.paths[0]).read_text(encoding="utf-8"))
    assert Path(result.paths[0]) == Path(ws.uri, "reports/explain/m/band_occlusion.json")
    band = scene(*SIDES)[1].astype(float)
    chosen = band[mask_of(ws, "a", "m") == 1]
    probability = 1 / (1 + np.exp(-(WEIGHT * chosen + BIAS)))
    row = document["classes"]["foreground"]
    assert row["px"] == chosen.size
    assert row["confidence"] == pytest.approx(probability.mean(), abs=1e-5)
    assert row["drop"] == pytest.approx(
        {"band 0": 0.0, "band 1": probability.mean() - 1 / (1 + np.exp(-BIAS)), "band 2": 0.0}, abs=1e-5
    )
    assert row["lost_share"] == {"band 0": 0.0, "band 1": 1.0, "band 2": 0.0}
    assert result.details["classes"] == document["classes"]
    assert list(document["classes"]) == ["foreground"]
    needed = np.where(
        mask_of(ws, "a", "m") == 1, 1 / (1 + np.exp(-(WEIGHT * band + BIAS))) - 1 / (1 + np.exp(-BIAS)), 0
    )
    layer = ws.layer("a", "m", "band_occlusion-foreground")
    stored = stored_values(needed.clip(0).astype(np.float32), layer.attributes["scale"])
    assert np.abs(layer_of(ws, "band_occlusion-foreground").astype(int) - stored).max() <= 1


def test_a_layer_of_integrated_gradients_is_the_closed_form_in_every_tile(ws: Workspace) -> None:
    package = of_one_band(ws)
    predicted(ws, package)
    result = explained(ws, package, method="integrated_gradients", mpx=10, steps=50, tile_px=256)
    x, is_one = scene(*SIDES)[1].astype(np.float64), mask_of(ws, "a", "m") == 1
    values = np.where(is_one, 1 / (1 + np.exp(-(WEIGHT * x + BIAS))) - 1 / (1 + np.exp(-BIAS)), 0).astype(np.float32)
    layer = ws.layer("a", "m", "integrated_gradients-foreground")
    scale = layer.attributes["scale"]
    assert scale == pytest.approx(np.percentile(values[values > 0], 99.8), rel=1e-3)
    found = layer_of(ws, "integrated_gradients-foreground")
    assert np.abs(found.astype(int) - stored_values(values, scale)).max() <= 1
    row = result.details["classes"]["foreground"]
    assert row["adds"]["band 1"] == pytest.approx(row["confidence"] - row["baseline_confidence"], abs=1e-3)
    assert verify(ws) == []


def test_a_budget_is_kept_and_what_was_not_looked_at_is_0(ws: Workspace) -> None:
    package = unet_package(ws)
    predicted(ws, package)
    explained(ws, package, method="grad_cam", classes=("class 2",), mpx=0.02)
    layer = ws.layer("a", "m", "grad_cam-class-2")
    windows = [Window(tuple(w["start"]), tuple(w["shape"])) for w in layer.attributes["windows"]]
    assert 1 <= len(windows) <= 4
    assert sum(window.num_px for window in windows) <= 20_000
    inside = np.zeros(SIDES, bool)
    for window in windows:
        inside[window.slices] = True
    found = layer_of(ws, "grad_cam-class-2")
    assert (found[inside] > 0).all()
    assert not found[~inside].any()
    assert found.max() == 255
    assert layer.channels == ("grad_cam-class-2",)
    assert verify(ws) == []


def test_a_layer_does_not_depend_on_its_shards(ws: Workspace) -> None:
    package = unet_package(ws)
    predicted(ws, package)
    settings = {"method": "grad_cam", "classes": ("class 1",), "mpx": 0.02, "tile_px": 32}
    explained(ws, package, **settings)
    first = layer_of(ws, "grad_cam-class-1")
    explained(ws, package, **settings, shard_px=512, overwrite=True)
    np.testing.assert_array_equal(layer_of(ws, "grad_cam-class-1"), first)


def test_of_a_model_that_tells_objects_apart_only_the_classes_are_explained(ws: Workspace) -> None:
    """The logit of border is above all others, and no class."""
    weights = np.zeros((4, 3, 1, 1))
    weights[1, 1] = WEIGHT
    package = conv_package(ws, weights, np.array([0.0, BIAS, 50.0, -50.0]), instances=Rule(depth_px=8))
    predicted(ws, package)
    chosen = scene(*SIDES)[1].astype(float)[mask_of(ws, "a", "m") == 1]
    row = explained(ws, package, mpx=10).details["classes"]["foreground"]
    assert row["px"] == chosen.size > 0
    assert row["confidence"] == pytest.approx((1 / (1 + np.exp(-(WEIGHT * chosen + BIAS)))).mean(), abs=1e-5)


def test_image_norms_take_the_statistics_of_the_image(ws: Workspace) -> None:
    package = unet_package(ws, norm="image")
    predicted(ws, package)
    result = explained(ws, package, mpx=10, tile_px=256)
    # Tiles cover the image, and the region is where the same adapted network gives the class.
    px = {name: row["px"] for name, row in result.details["classes"].items()}
    ids, counts = np.unique(mask_of(ws, "a", "m"), return_counts=True)
    expected = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    assert px == {f"class {k}": pytest.approx(expected[k], rel=0.002) for k in (0, 1, 2)}


def test_killed_between_two_shards_it_ends_with_the_same(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    package = unet_package(ws)
    predicted(ws, package)
    settings = {"method": "grad_cam", "classes": ("class 1",), "mpx": 0.05}
    explained(ws, package, **settings)
    whole = layer_of(ws, "grad_cam-class-1")
    for prefix in ("layers", f"state/a/{layer_name('m', 'grad_cam-class-1')}"):
        ws.objects.delete_prefix(prefix)
    write = Staging.write_shard
    written: list[tuple[Any, ...]] = []
    again: list[tuple[Any, ...]] = []

    def killed(self: Staging, *args: Any, **extra: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(args[:2])
        write(self, *args, **extra)

    def noted(self: Staging, *args: Any, **extra: Any) -> None:
        again.append(args[:2])
        write(self, *args, **extra)

    monkeypatch.setattr(Staging, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        explained(ws, package, **settings)
    monkeypatch.setattr(Staging, "write_shard", noted)
    explained(ws, package, **settings)
    assert again
    assert not set(written) & set(again)
    np.testing.assert_array_equal(layer_of(ws, "grad_cam-class-1"), whole)
    assert verify(ws) == []


def test_other_settings_are_refused_unless_it_is_to_be_overwritten(ws: Workspace) -> None:
    package = unet_package(ws)
    predicted(ws, package)
    settings = {"method": "grad_cam", "classes": ("class 1",)}
    explained(ws, package, **settings, mpx=0.01)
    config = {"workspace": ws.uri, "model": package.model_id, "name": "m", "tile_px": 64, "shard_px": 256, **settings}
    refused = explain(ExplainConfig.model_validate({**config, "mpx": 0.02})).items[0]
    assert refused.state == "failed"
    assert "mpx: 0.01 -> 0.02" in (refused.error or "")
    explained(ws, package, **settings, mpx=0.02, overwrite=True)


def otsu_package(ws: Workspace) -> ModelPackage:
    config = ModelConfig(architecture="otsu", arguments={"in_channels": 3, "num_classes": 2})
    bands = ("band 0", "band 1", "band 2")
    contract = InputContract(bands=bands, dtype="uint8", spacing=None, mean=(0.0,) * 3, std=(255.0,) * 3)
    contract = contract.model_copy(update={"global_context": True})
    info = PackageInfo(name="otsu", architecture=config, contract=contract, classes=default_classes(2))
    return write_package(ws.objects, "models", info, {})


def test_what_cannot_be_explained_is_refused(ws: Workspace) -> None:
    package, classic = unet_package(ws), otsu_package(ws)
    config = {"workspace": ws.uri, "model": package.model_id, "name": "m"}
    with pytest.raises(StoreError, match=r"no image in .* has the mask m: run `segcore predict` first"):
        explain(ExplainConfig.model_validate(config))
    predicted(ws, package)
    for wrong, why in (
        ({"classes": ("trees",)}, "classes: the model has the classes class 0, class 1, class 2, got 'trees'"),
        (
            {"method": "grad_cam", "features": "downs"},
            "features: the network has no module 'downs'; its parts are down",
        ),
        ({"features": "down"}, "features: only grad_cam looks at them"),
        ({"model": classic.model_id, "method": "grad_cam"}, "method grad_cam: otsu has no weights"),
    ):
        with pytest.raises(ConfigError, match=why):
            explain(ExplainConfig.model_validate({**config, **wrong}))


def test_a_mask_is_explained_by_the_model_that_made_it_only(ws: Workspace) -> None:
    """What another model says of it is an error, and the table that stands stays."""
    package, other = unet_package(ws), of_one_band(ws)
    predicted(ws, package)
    path = explained(ws, package, mpx=0.05).paths[0]
    before = Path(path).read_bytes()
    result = explain(ExplainConfig(workspace=ws.uri, model=other.model_id, name="m"))
    assert [item.error for item in result.items] == [
        f"image a: mask m was made by {package.model_id}, got {other.model_id}; give the model that made it"
    ]
    assert result.paths == ()
    assert Path(path).read_bytes() == before
    assert json.loads(before)["images"] == ["a"]


def test_any_model_of_an_ensemble_explains_its_mask(ws: Workspace) -> None:
    package, other = unet_package(ws), unet_package(ws, channels=(8, 8))
    predicted(ws, package, ensemble=(other.model_id,))
    explained(ws, other, mpx=0.05)
    page = Path(report(ReportConfig(workspace=ws.uri, model="m")).paths[0]).read_text(encoding="utf-8")
    assert "tiles of 1 image, where the model gives the class" in page


def test_a_classic_method_tells_which_band_it_looks_at(ws: Workspace) -> None:
    package = otsu_package(ws)
    predicted(ws, package)
    result = explained(ws, package, mpx=0.1)
    assert json.loads(Path(result.paths[0]).read_bytes())["baseline"] == "0"
    row = result.details["classes"]["foreground"]
    assert set(row["drop"]) == {"band 0", "band 1", "band 2"}
    assert max(row["lost_share"].values()) > 0


def test_a_resampled_image_is_explained_as_the_model_sees_it(ws: Workspace) -> None:
    """Each pixel of the layer has the closed form of the model's pixel in which its centre lies."""
    put_image(ws, "a", scene(*SIDES), spacing=Spacing(values={"y": 0.8, "x": 0.8}, unit="micrometer", origin="user"))
    weights = np.zeros((2, 3, 1, 1))
    weights[1, 1] = WEIGHT
    wanted = Spacing(values={"y": 1.0, "x": 1.0}, unit="micrometer", origin="user")
    package = conv_package(ws, weights, np.array([0.0, BIAS]), spacing=wanted)
    predicted(ws, package, spacing_tolerance=0.3)
    explained(ws, package, method="integrated_gradients", mpx=10, steps=50, tile_px=256)
    grid = sized(ws.image("a"), wanted, 0.3)
    whole = Window.whole(grid.shape)
    x = grid.read(whole)[1].astype(np.float64)
    adds = np.where(x > 100, 1 / (1 + np.exp(-(WEIGHT * x + BIAS))) - 1 / (1 + np.exp(-BIAS)), 0).astype(np.float32)
    expected = grid.on_mask(adds, whole, Window.whole(grid.mask_shape))
    assert adds.shape != expected.shape == SIDES
    found, layer = (
        layer_of(ws, "integrated_gradients-foreground"),
        ws.layer("a", "m", "integrated_gradients-foreground"),
    )
    assert np.abs(found.astype(int) - stored_values(expected, layer.attributes["scale"])).max() <= 1
    assert verify(ws) == []


def test_what_is_not_usable_is_0_and_counts_nowhere(ws: Workspace) -> None:
    pixels = scene(*SIDES)
    pixels[:, 100:300, 50:400] = 7
    put_image(ws, "a", pixels, nodata=7)
    package = conv_package(ws, np.zeros((2, 3, 1, 1)), np.array([0.0, 1.0]))  # all is class 1
    predicted(ws, package)
    row = explained(ws, package, method="grad_cam", features="conv", mpx=10, tile_px=256).details["classes"]
    usable = ~(pixels == 7).all(axis=0)
    assert row["foreground"]["px"] == usable.sum()
    np.testing.assert_array_equal(layer_of(ws, "grad_cam-foreground") > 0, usable)


@pytest.mark.parametrize("planes_seen", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_volumes_are_explained_plane_by_plane_or_several_at_once(tmp_path: Path, planes_seen: int) -> None:
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    volume = np.stack([scene(128, 128, seed=k) for k in range(5)], axis=1)
    put_image(ws, "a", volume, axes=("c", "z", "y", "x"))
    axes = ("z", "y", "x") if planes_seen > 1 else ("y", "x")
    package = volume_package(ws, 3, 3, planes_seen, axes) if planes_seen > 1 else unet_package(ws)
    predicted(ws, package)
    result = explained(ws, package, method="integrated_gradients", steps=4, mpx=10)
    mask, total = mask_of(ws, "a", "m"), 0
    for k, row in enumerate(result.details["classes"].values()):
        assert row["px"] == pytest.approx((mask == k).sum(), rel=0.01)
        total += row["px"]
        found = layer_of(ws, f"integrated_gradients-class-{k}")
        assert found.shape == (5, 128, 128)
        assert (found > 0).all()
    assert total == mask.size
    assert verify(ws) == []


def test_the_tiles_of_a_class_are_spread_over_where_it_is(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    put_image(ws, "a", np.zeros((3, 512, 512), np.uint8))
    ids = np.zeros((512, 512), np.uint8)
    ids[:, 256:], ids[0, 0] = 1, 1  # one pixel alone is too little
    put_label(ws, "a", "m", ids)
    grid = ModelGrid(ws.image("a"))
    tiling = crop_tiling((512, 512), (64, 64), (16, 16), (16, 16), 256)
    label = ws.label("a", "m")
    counts = class_px(label, grid, tiling, 2, 0)
    blocks = ids.reshape(8, 64, 8, 64).sum(axis=(1, 3)).ravel()
    np.testing.assert_array_equal(counts[:, 1], blocks)
    chosen = chosen_tiles(label, grid, tiling, [1], 4)[1]
    assert [tile.index for tile in chosen] == [(0, 4), (2, 6), (5, 5), (7, 7)]
    assert chosen[0].write == Window((0, 256), (64, 64))
    assert len(chosen_tiles(label, grid, tiling, [1], 100)[1]) == 32


def test_what_is_too_small_for_the_coarse_level_is_found_on_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    put_image(ws, "a", np.zeros((3, 1024, 512), np.uint8))
    ids = np.zeros((1024, 512), np.uint8)
    ids[301, 101], ids[100:102, 64:128] = 1, 2
    put_label(ws, "a", "m", ids, default_classes(3))
    label, tiling = ws.label("a", "m"), crop_tiling((1024, 512), (64, 64), (16, 16), (16, 16), 256)
    assert not (label.read(Window((0, 0), (512, 256)), 1) == 1).any()
    monkeypatch.setattr(places, "MAX_SCAN_PX", 512 * 256)
    chosen = chosen_tiles(label, ModelGrid(ws.image("a")), tiling, [1, 2], 4)
    assert finest_scanned(label) == 0
    assert {k: [tile.index for tile in tiles] for k, tiles in chosen.items()} == {1: [(4, 1)], 2: [(1, 1)]}


def test_repair_names_the_command_that_makes_a_lost_layer_again(ws: Workspace) -> None:
    package = unet_package(ws)
    predicted(ws, package)
    settings = {"method": "grad_cam", "classes": ("class 1",), "mpx": 0.05}
    explained(ws, package, **settings)
    whole = layer_of(ws, "grad_cam-class-1")
    lost = [key for key, _ in ws.objects.list("layers/a") if "/0/c/" in key]
    ws.objects.delete(lost[0])
    (problem,) = verify(ws)
    assert problem.part == "shard"
    repaired = repair(ws)
    assert any("make it again with the command that made it" in done.action for done in repaired)
    explained(ws, package, **settings, overwrite=True)
    np.testing.assert_array_equal(layer_of(ws, "grad_cam-class-1"), whole)
    assert verify(ws) == []


def test_the_report_shows_why(ws: Workspace) -> None:
    package = of_one_band(ws)
    predicted(ws, package)
    before = Path(report(ReportConfig(workspace=ws.uri, model="m", run="before")).paths[0]).read_text(encoding="utf-8")
    assert 'id="why"' not in before
    result = explained(ws, package, mpx=0.1)
    explained(ws, package, method="integrated_gradients", mpx=0.1)
    page = Path(report(ReportConfig(workspace=ws.uri, model="m", run="after")).paths[0]).read_text(encoding="utf-8")
    drop = result.details["classes"]["foreground"]["drop"]["band 1"]
    assert f">{100 * drop:+.1f}<" in page
    assert "Integrated gradients: foreground in the tile at y " in page
    assert page.count("<img ") == before.count("<img ") + 4
    assert "giving all of its pixels the mean of the training set." in page
    key = "reports/explain/m/integrated_gradients.json"
    kept = ws.objects.get(key) or b""
    ws.objects.put(key, b"[1, 2")
    page = Path(report(ReportConfig(workspace=ws.uri, model="m", run="damaged")).paths[0]).read_text(encoding="utf-8")
    assert 'id="why"' in page  # the layers are shown still
    ws.objects.put(key, kept)
    # A mask that was made anew, by another model, is not explained by what was said of the old one.
    other = unet_package(ws)
    settings = {"model": other.model_id, "shard_px": 256, "precision": "float32", "name": "m", "overwrite": True}
    predict(PredictConfig.model_validate({"workspace": ws.uri, **settings}))
    page = Path(report(ReportConfig(workspace=ws.uri, model="m", run="anew")).paths[0]).read_text(encoding="utf-8")
    assert 'id="why"' not in page


def test_names_of_layers_hold_nothing_that_a_path_should_not() -> None:
    classes = default_classes(3)
    odd = tuple(
        info.model_copy(update={"name": name}) for info, name in zip(classes, ("a/b", "a b", "../é"), strict=True)
    )
    assert [kind_of("grad_cam", info, odd) for info in odd] == ["grad_cam-a-b-0", "grad_cam-a-b-1", "grad_cam-class-2"]


def test_out_of_memory_is_told(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    package = of_one_band(ws)
    predicted(ws, package)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(explain_stage.Looker, "look", full)
    (item,) = explain(ExplainConfig(workspace=ws.uri, model=package.model_id, name="m")).items
    assert "give a smaller tile_px" in (item.error or "")
