"""Objects of masks: those of the image that is cut nowhere, however the work was cut and however often killed."""

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from shapely.geometry import shape

from segcore.config import ExportConfig, PredictConfig
from segcore.errors import SegcoreError
from segcore.export import export
from segcore.geometry import Window
from segcore.inference import predict
from segcore.inference.contract import check_alike
from segcore.inference.night import Night
from segcore.instances import make, passes, shards
from segcore.instances.rule import Rule
from segcore.instances.stitch import objects_of
from segcore.models.check import verify_package
from segcore.models.package import ModelPackage, read_package
from segcore.progress import Silent
from segcore.repair import repair
from segcore.results import StageResult
from segcore.selection import select
from segcore.spatial import Spacing
from segcore.store import Staging, Workspace, verify
from tests.inference.scenes import conv_package, every_level, mask_of
from tests.instances.scenes import discs, seen_by, with_snakes
from tests.synthetic import put_image

RULE = Rule(depth_px=5, min_px=10)
SHAPE = (1100, 600)
"""More than a work unit of 4 x 4 shards of 256 px."""


@cache
def crowd() -> npt.NDArray[np.uint8]:
    """What the model sees: touching discs, and long objects that cross all shards."""
    return seen_by(with_snakes(discs(SHAPE, 1200), 7))


def reader(ws: Workspace, rule: Rule | None = RULE, **contract: Any) -> ModelPackage:
    """A model that says what such an image shows."""
    weights = np.zeros((4, 3, 1, 1), np.float32)
    weights[(1, 2, 3), (0, 1, 2)] = 1 / 20
    return conv_package(ws, weights, np.array([0, -128 / 20, -128 / 20, -110 / 20]), instances=rule, **contract)


class Heard(Silent):
    """Counts the shards that are told of."""

    def __init__(self) -> None:
        self.total = self.shards = 0

    def start(self, stage: str, total: int, unit: str) -> None:
        self.total += total

    def advance(self, amount: int = 1) -> None:
        self.shards += amount


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    put_image(ws, "a", crowd())
    return ws


def run(ws: Workspace, **settings: Any) -> StageResult:
    base = {"workspace": ws.uri, "model": reader(ws).model_id, "shard_px": 256, "precision": "float32", "name": "m"}
    result = predict(PredictConfig.model_validate({**base, **settings}))
    assert [item.error for item in result.items] == [None]
    return result


def whole(ws: Workspace, name: str = "m", rule: Rule = RULE) -> npt.NDArray[Any]:
    """The objects of a mask that is cut nowhere."""
    layer = ws.layer("a", name, "depth")
    depth = np.asarray(layer.read(Window.whole(layer.shape(0)))).reshape(layer.shape(0)[-2:])
    foreground = mask_of(ws, "a", name) == 1
    return objects_of(foreground, depth, rule)  # type: ignore[arg-type]


def test_objects_are_those_of_the_whole_image_at_every_level(ws: Workspace) -> None:
    result = run(ws)
    expected = whole(ws)
    levels = every_level(ws, "a", "m_instances")
    np.testing.assert_array_equal(levels[0], expected)
    for fine, coarse in pairwise(levels):
        np.testing.assert_array_equal(coarse, fine[::2, ::2])
    label = ws.label("a", "m_instances")
    assert (label.dtype, len(levels)) == (np.uint32, ws.label("a", "m").num_levels)
    assert (
        result.details["objects"]
        == result.items[0].details["objects"]
        == label.attributes["objects"]
        == expected.max()
        > 500
    )
    assert label.attributes["model"] == ws.label("a", "m").attributes["model"]
    assert ws.layer_names("a") == ["m.depth"]
    assert verify(ws) == []
    assert not list(ws.objects.list(f"state/a/m_instances/{label.attributes['plan']}/fragments"))


def test_the_depth_is_that_of_both_answers(ws: Workspace) -> None:
    run(ws)
    pixels = ws.image("a").read(Window((0, 0, 0), (3, *SHAPE))).astype(np.float64)
    border, depth = (1 / (1 + np.exp(-(pixels[k] - at) / 20)) for k, at in ((1, 128), (2, 110)))
    found = ws.layer("a", "m", "depth").read(Window((0, 0, 0), (1, *SHAPE)))[0]
    np.testing.assert_allclose(found / 255, depth * (1 - border), atol=0.51 / 255)


@pytest.mark.parametrize(
    "settings",
    [
        {"shard_px": 512, "tile_workers": 3},
        {"shard_px": 2048, "tile_px": 512},
        {"views": "flips"},
        {"blend": "gaussian", "tile_px": 160, "halo": 16},
        {"layers": ("probs", "entropy"), "layer_level": 1},
    ],
)
def test_however_the_work_is_cut_the_objects_are_the_same(ws: Workspace, settings: dict[str, Any]) -> None:
    """One pixel of the model sees one of the image, so that no view and no blend changes an answer."""
    run(ws)
    run(ws, name="other", **settings)
    for name in ("m", "m_instances"):
        np.testing.assert_array_equal(mask_of(ws, "a", name.replace("m", "other", 1)), mask_of(ws, "a", name))


@pytest.mark.parametrize("at", ["fragments", "shards", "end"])
def test_a_killed_call_goes_on_where_it_was(ws: Workspace, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Nothing that was finished is done again, in either pass."""
    calls = {"fragments": 0, "shards": 0, "end": 0}
    dies_at = {"fragments": 12, "shards": 9, "end": 0}

    def counting(name: str, function: Any, counts: Any) -> Any:
        def counted(self: Any, *given: Any, **named: Any) -> Any:
            if counts(self, *given):
                if at == name and calls[name] == dies_at[name]:
                    raise KeyboardInterrupt
                calls[name] += 1
            return function(self, *given, **named)

        return counted

    def is_own(self: Any, *given: Any) -> bool:
        return self.name == "m_instances" and (not given or given[0] == 0 or isinstance(given[0], dict))

    monkeypatch.setattr(passes, "MAX_THREADS", 1)
    monkeypatch.setattr(passes, "KEPT_SHARDS", 0)
    monkeypatch.setattr(shards.Source, "fragments", counting("fragments", shards.Source.fragments, lambda *_: True))
    monkeypatch.setattr(Staging, "write_shard", counting("shards", Staging.write_shard, is_own))
    monkeypatch.setattr(Staging, "finish", counting("end", Staging.finish, is_own))
    with pytest.raises(KeyboardInterrupt):
        run(ws)
    assert ws.label_names("a") == ["m"]
    keys = [key for key, _ in ws.objects.list("state/a/m_instances/0")]
    num_kept, num_done = (sum(part in key for key in keys) for part in ("/fragments/", "/shards/0/"))
    expected = {"fragments": (12, 0), "shards": (15, 9), "end": (15, 15)}
    assert (num_kept, num_done) == expected[at]
    calls, at = dict.fromkeys(calls, 0), "over"
    run(ws)
    assert calls == {"fragments": (15 - num_kept) + (15 - num_done), "shards": 15 - num_done, "end": 1}
    np.testing.assert_array_equal(mask_of(ws, "a", "m_instances"), whole(ws))
    assert verify(ws) == []


def test_on_a_resampled_image_the_rule_is_in_pixels_of_the_mask(tmp_path: Path) -> None:
    """The model's pixels are larger by half: so are objects in the mask, and what the rule says of them."""
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    large, small = (Spacing(values={"y": um, "x": um}, unit="micrometer", origin="test") for um in (1.5, 1.0))
    put_image(ws, "a", seen_by(discs((299, 280), 60, radii=(8, 20))), spacing=small)
    package = reader(ws, spacing=large)
    settings = {"workspace": ws.uri, "model": package.model_id, "precision": "float32", "spacing_tolerance": 1.0}
    (item,) = predict(PredictConfig.model_validate({**settings, "name": "m"})).items
    assert (item.error, item.details["step"]) == (None, [1.5, 1.5])
    rule = RULE.scaled((1.5, 1.5))
    assert rule.depth_px > RULE.depth_px
    assert ws.label("a", "m_instances").attributes["rule"] == rule.model_dump()
    np.testing.assert_array_equal(mask_of(ws, "a", "m_instances"), whole(ws, rule=rule))
    assert item.details["objects"] > 30


def test_another_mask_makes_other_objects(ws: Workspace) -> None:
    run(ws)
    first = mask_of(ws, "a", "m_instances")
    run(ws, thresholds={"foreground": 0.999}, overwrite=True)
    second = mask_of(ws, "a", "m_instances")
    assert (second != first).any()
    np.testing.assert_array_equal(second, whole(ws))


def test_objects_of_an_earlier_mask_are_not_worked_on(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that ends between the mask and its objects leaves those of the mask before."""
    run(ws)
    assert select(ws, "m_instances")[0].error is None
    monkeypatch.setattr("segcore.inference.objects.Begun", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(ws, thresholds={"foreground": 0.999}, overwrite=True)
    (found,) = select(ws, "m_instances")
    assert found.error == "image a: objects m_instances: they were made of an earlier mask m; predict again"
    assert select(ws, "m")[0].error is None
    monkeypatch.undo()
    run(ws, thresholds={"foreground": 0.999})
    assert select(ws, "m_instances")[0].error is None


def test_a_mask_of_a_model_without_objects_takes_the_old_ones_away(ws: Workspace) -> None:
    run(ws)
    assert ws.label("a", "m_instances").attributes["mask_digest"] == ws.label("a", "m").digest
    run(ws, model=reader(ws, rule=None).model_id, overwrite=True)
    assert ws.label_names("a") == ["m"]
    assert verify(ws) == []


def test_an_image_whose_objects_fail_is_reported_and_the_others_go_on(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_image(ws, "b", seen_by(discs((200, 300), 60)))
    read = shards.Source._read

    def broken(self: Any, window: Window) -> Any:
        if self.image.image_id == "a":
            raise SegcoreError("no such disk")
        return read(self, window)

    monkeypatch.setattr(shards.Source, "_read", broken)
    config = {"workspace": ws.uri, "model": reader(ws).model_id, "name": "m"}
    result = predict(PredictConfig.model_validate(config))
    assert [(item.image, item.state) for item in result.items] == [("a", "failed"), ("b", "done")]
    assert result.items[0].error == "no such disk"
    assert result.exit_code == 3
    monkeypatch.undo()
    again = predict(PredictConfig.model_validate(config))
    assert [(item.image, item.state) for item in again.items] == [("a", "done"), ("b", "skipped")]
    assert again.items[1].details["objects"] == mask_of(ws, "b", "m_instances").max()


def test_objects_that_could_not_be_begun_are_held_by_nobody(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "Shards", Mock(side_effect=SegcoreError("no such disk")))
    config = PredictConfig.model_validate({"workspace": ws.uri, "model": reader(ws).model_id, "name": "m"})
    assert [item.error for item in predict(config).items] == ["no such disk"]
    monkeypatch.undo()
    assert [item.state for item in predict(config).items] == ["done"]


def test_a_night_that_stops_early_has_objects_of_the_masks_before(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for image_id in "bcd":
        put_image(ws, image_id, seen_by(discs((200, 300), 60)))
    begin = Night._begin

    def ended(self: Any, image_id: str) -> Any:
        if image_id == "d":
            raise KeyboardInterrupt
        return begin(self, image_id)

    monkeypatch.setattr(Night, "_begin", ended)
    monkeypatch.setattr("segcore.inference.night.TOGETHER_SHARDS", 16)
    with pytest.raises(KeyboardInterrupt):
        run(ws)
    assert [ws.label_names(image_id) for image_id in "ab"] == [["m", "m_instances"]] * 2, "15 shards, and 2"
    assert "m_instances" not in ws.label_names("c")
    monkeypatch.undo()
    heard = Heard()
    config = {"workspace": ws.uri, "model": reader(ws).model_id, "shard_px": 256, "precision": "float32", "name": "m"}
    result = predict(PredictConfig.model_validate(config), heard)
    assert [(item.image, item.state) for item in result.items] == [
        *zip("abcd", ("skipped",) * 2 + ("done",) * 2, strict=True)
    ]
    assert heard.shards == heard.total == 3 * (15 + 3 * 2)
    assert result.details["objects"] == sum(mask_of(ws, image_id, "m_instances").max() for image_id in "abcd")


def test_a_dry_run_counts_the_ids(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def stated() -> dict[str, Any]:
        return run(ws, dry_run=True).items[0].details

    first = stated()["write_bytes"]
    monkeypatch.setattr("segcore.inference.objects.Begun", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(ws)
    monkeypatch.undo()
    without = stated()
    run(ws)
    arrays = [ws.label("a", "m"), ws.label("a", "m_instances"), ws.layer("a", "m", "depth")]
    num_bytes = [
        sum(np.prod(each.shape(level)) for level in range(each.num_levels)) * each.dtype.itemsize for each in arrays
    ]
    assert first == sum(num_bytes)
    assert (without["complete"], without["write_bytes"]) == (False, num_bytes[1])
    assert stated() == {"complete": True, "tiles": 0, "shards": 0, "write_bytes": 0}


def test_shards_of_a_small_image_are_grown_once(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a larger one those of the first pass that are kept."""
    grown = []
    fragments = shards.Source.fragments

    def counted(self: Any, window: Window) -> Any:
        grown.append(window)
        return fragments(self, window)

    monkeypatch.setattr(shards.Source, "fragments", counted)
    run(ws)
    assert len(grown) == 2 * 15 - make.KEPT_SHARDS
    np.testing.assert_array_equal(mask_of(ws, "a", "m_instances"), whole(ws))
    grown.clear()
    run(ws, name="other", shard_px=1024)
    assert len(grown) == 2


def test_another_depth_makes_other_objects(ws: Workspace) -> None:
    """The mask's own plan does not say of what type its layers are."""
    run(ws, layer_dtype="float16")
    first = ws.label("a", "m_instances")
    run(ws, overwrite=True)
    second = ws.label("a", "m_instances")
    assert ws.layer("a", "m", "depth").dtype == np.uint8
    assert first.digest != second.digest
    np.testing.assert_array_equal(mask_of(ws, "a", "m_instances"), whole(ws))


def test_the_memory_of_a_dry_run_is_enough_for_the_objects(ws: Workspace) -> None:
    """Of the whole process, though shards of this size are nearly nothing."""
    config = {"workspace": ws.uri, "model": reader(ws).model_id, "name": "m"}
    planned = predict(PredictConfig.model_validate({**config, "dry_run": True}))
    assert ws.label_names("a") == []
    needed = make.working_bytes(SHAPE, 2048, RULE)
    assert needed > make.BYTES_PER_PX * SHAPE[0] * SHAPE[1]
    assert planned.details["memory_mib"] * 2**20 > needed


def test_a_package_says_that_it_tells_objects_apart(ws: Workspace) -> None:
    package = reader(ws)
    assert read_package(ws, package.model_id).info.instances == RULE
    assert verify_package(ws, package.model_id) == []
    plain = reader(ws, rule=None)
    assert (package.num_logits, plain.num_logits, len(package.classes), len(plain.classes)) == (4, 4, 2, 4)


def test_models_that_tell_objects_otherwise_are_not_averaged(ws: Workspace) -> None:
    one, other = reader(ws), reader(ws, rule=Rule(depth_px=5, min_px=11))
    with pytest.raises(SegcoreError, match=r"5 px of depth, and of 10 px at least, .* 5 px of depth, and of 11 px"):
        check_alike(one, other)
    check_alike(one, reader(ws, halo_px=7))


@pytest.mark.parametrize("lost", ["m_instances", "m", "layer"])
def test_repair_makes_again_what_is_lost(ws: Workspace, lost: str) -> None:
    run(ws)
    expected = {name: every_level(ws, "a", name) for name in ("m", "m_instances")}
    array = "layers/a/m.depth.ome.zarr" if lost == "layer" else f"images/a.ome.zarr/labels/{lost}"
    for key in [key for key, _ in ws.objects.list(f"{array}/0/c") if key.endswith("/1/1")]:
        ws.objects.delete(key)
    assert verify(ws) != []
    assert all(done.fixed for done in repair(ws))
    assert verify(ws) == []
    for name, levels in expected.items():
        for found, before in zip(every_level(ws, "a", name), levels, strict=True):
            np.testing.assert_array_equal(found, before)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_objects_become_polygons_with_the_class_of_most_of_their_pixels(tmp_path: Path) -> None:
    """Each polygon covers the pixels of its object, across the windows that are traced."""
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    ids = with_snakes(discs((300, 280), 70), 2)
    pixels = seen_by(ids)
    kind = np.where(np.arange(280) < 140, 0, 255) * np.ones((300, 1))
    put_image(ws, "a", np.concatenate([pixels, kind[None].astype(np.uint8)]))
    weights = np.zeros((5, 4, 1, 1), np.float32)
    weights[(1, 2, 3, 4), (0, 0, 1, 2)] = 1 / 20
    weights[2, 3] = 1 / 100
    package = conv_package(ws, weights, np.array([0, -6.4, -7.4, -6.4, -5.5]), instances=RULE)
    predict(PredictConfig(workspace=ws.uri, model=package.model_id, name="m", precision="float32"))
    out = tmp_path / "out"
    result = export(ExportConfig(workspace=ws.uri, model="m_instances", output=str(out), format="geojson"))
    assert [item.error for item in result.items] == [None]
    objects, mask = mask_of(ws, "a", "m_instances"), mask_of(ws, "a", "m")
    assert set(np.unique(mask)) == {0, 1, 2}
    features = json.loads((out / "a.geojson").read_text())["features"]
    numbers = [each["properties"]["object"] for each in features]
    assert sorted(numbers) == list(range(1, objects.max() + 1))
    assert {each["properties"]["class"] for each in features} == {"class 1", "class 2"}
    for each in features:
        own = objects == each["properties"]["object"]
        assert shape(each["geometry"]).area == own.sum()
        assert each["properties"]["class_id"] == np.bincount(mask[own]).argmax()
    assert (
        export(ExportConfig(workspace=ws.uri, model="m_instances", output=str(out), format="png")).items[0].error
        == "image a: a PNG holds class ids, not those of objects; export as geotiff"
    )
    export(ExportConfig(workspace=ws.uri, model="m_instances", output=str(out)))
    with rasterio.open(out / "a.tif") as file:
        np.testing.assert_array_equal(file.read(1), objects)
        assert file.nodata == 0
