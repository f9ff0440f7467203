"""Helper: a mask that others infer is the mask of one process, bit for bit, whoever fails on the way."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import PredictConfig
from segcore.errors import StoreError
from segcore.geometry import Window
from segcore.inference import helper, predict
from segcore.inference.numerics import Network
from segcore.inference.orders import Order
from segcore.store import Layer, Workspace, verify
from segcore.store.plan import latest_plan
from tests.inference.room import Room
from tests.inference.scenes import every_level, scene, unet_package, volume_package
from tests.synthetic import put_image

IMAGES = {"a": (2300, 1300), "b": (700, 500)}
"""The first has six work units of 1024 px."""


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    for seed, (image_id, sides) in enumerate(IMAGES.items()):
        put_image(ws, image_id, scene(*sides, seed))
    return ws


@pytest.fixture
def asked(ws: Workspace) -> dict[str, Any]:
    model = unet_package(ws, channels=(4, 8)).model_id
    return {"workspace": ws.uri, "model": model, "shard_px": 256, "tile_workers": 2}


SETTINGS: dict[str, dict[str, Any]] = {
    "crop": {},
    "gaussian": {"blend": "gaussian", "tile_px": 160, "halo": 32},
    "layers": {"layers": ("probs", "margin"), "layer_level": 1},
    "batch": {"batch": 2, "views": "flips"},
}


@pytest.mark.parametrize(
    "settings",
    [pytest.param(how, id=name, marks=pytest.mark.slow if name != "crop" else ()) for name, how in SETTINGS.items()],
)
def test_the_mask_does_not_depend_on_who_infers(ws: Workspace, asked: dict[str, Any], settings: dict[str, Any]) -> None:
    alone = predict(PredictConfig(**asked, **settings, name="alone"))
    crew = Room()
    result = predict(PredictConfig(**asked, **settings, name="crew"), crew=crew)
    assert [item.state for item in (*alone.items, *result.items)] == ["done"] * 4
    assert [order.unit.shape for order in crew.orders if order.config.images == ("a",)].count((1024, 1024)) == 2
    assert len(crew.orders) == 7
    for image_id in IMAGES:
        pairs = zip(every_level(ws, image_id, "alone"), every_level(ws, image_id, "crew"), strict=True)
        assert all((mine == theirs).all() for mine, theirs in pairs)
    for kind in settings.get("layers", ()):
        mine, theirs = (ws.layer("a", name, kind) for name in ("alone", "crew"))
        for level in range(mine.num_levels):
            assert (_whole(mine, level) == _whole(theirs, level)).all()
    assert list(verify(ws)) == []
    told = [{key: item.details[key] for key in ("tiles", "shards_written")} for item in (*alone.items, *result.items)]
    assert told[:2] == told[2:]


@pytest.mark.parametrize("settings", [{"tile_planes": 3}, {"tile_px": 96, "halo": 8, "blend": "gaussian"}])
def test_a_volume_does_not_depend_on_who_infers(
    ws: Workspace, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segcore.inference.gaussian.STRIP_BYTES", 1)  # as few planes at once as there can be
    pixels = np.random.default_rng(0).integers(0, 256, (1, 7, 300, 260), np.uint8)
    put_image(ws, "v", pixels, axes=("c", "z", "y", "x"))
    model = volume_package(ws, num_channels=1, kernel_px=3, kernel_planes=3, axes=("z", "y", "x")).model_id
    asked = {"workspace": ws.uri, "model": model, "shard_px": 256, "images": ("v",), "tile_workers": 1, **settings}
    crew = Room()
    for name, by in (("alone", None), ("crew", crew)):
        assert predict(PredictConfig.model_validate({**asked, "name": name}), crew=by).exit_code == 0
    assert len(crew.orders) > 1
    alone, spread = (ws.label("v", name) for name in ("alone", "crew"))
    for level in range(alone.num_levels):
        window = Window.whole(alone.shape(level))
        assert (alone.read(window, level) == spread.read(window, level)).all()
    assert list(verify(ws)) == []


def _whole(layer: Layer, level: int) -> Any:
    return layer.read(Window.whole(layer.shape(level)), level)


def test_coarser_shards_of_a_unit_are_its_helpers(ws: Workspace, asked: dict[str, Any]) -> None:
    """What is left for the leader is only what no unit can make."""
    written: list[tuple[int, tuple[int, ...]]] = []

    def stop(number: int, order: Order) -> None:
        if number == 2:
            state = latest_plan(ws.objects, "a", "m")
            assert state is not None
            written.extend(state.records())
            raise StoreError("no more")

    predict(PredictConfig(**asked, name="m", images=("a",)), crew=Room(stop))
    assert sorted(written) == [
        *((0, (y, x)) for y in range(4) for x in range(4)),
        *((1, (y, x)) for y in range(2) for x in range(2)),
        (2, (0, 0)),
    ]


def test_a_unit_that_fails_fails_its_image_alone_and_the_next_call_goes_on(
    ws: Workspace, asked: dict[str, Any]
) -> None:
    def fail(number: int, order: Order) -> None:
        if number == 3:
            raise StoreError("image a: a lamp broke")

    config = PredictConfig(**asked, name="m")
    first = predict(config, crew=Room(fail))
    assert [(item.image, item.state, item.error) for item in first.items] == [
        ("a", "failed", "image a: a lamp broke"),
        ("b", "done", None),
    ]
    crew = Room()
    second = predict(config, crew=crew)
    assert [item.state for item in second.items] == ["done", "skipped"]
    assert second.items[0].details["shards_resumed"] == 24
    assert predict(PredictConfig(**asked, name="alone")).exit_code == 0
    pairs = zip(every_level(ws, "a", "m"), every_level(ws, "a", "alone"), strict=True)
    assert all((mine == theirs).all() for mine, theirs in pairs)


def test_an_order_that_came_twice_is_done_once(
    ws: Workspace, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inferred: list[int] = []
    forward = Network.forward

    def counted(self: Network, *args: Any, **kwargs: Any) -> Any:
        inferred.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Network, "forward", counted)
    numbers: list[int] = []

    def twice(number: int, order: Order) -> None:
        if number == 1:
            helper.work_off(lambda amount=1: None, order)
            numbers.append(len(inferred))
            helper.work_off(lambda amount=1: None, order)
            numbers.append(len(inferred))

    result = predict(PredictConfig(**asked, name="m", images=("b",)), crew=Room(twice))
    assert result.exit_code == 0
    assert numbers[0] == numbers[1] == len(inferred) > 0


def test_a_helper_remembers_nothing_of_a_workspace_that_was_made_anew(ws: Workspace, asked: dict[str, Any]) -> None:
    """Dask workers of a cluster outlive it: the same names, another image."""
    assert predict(PredictConfig(**asked, name="m", images=("b",)), crew=Room()).exit_code == 0
    shutil.rmtree(ws.uri)
    anew = Workspace.open(ws.uri, create=True)
    put_image(anew, "b", scene(500, 900, 7))
    assert unet_package(anew, channels=(4, 8)).model_id == asked["model"]
    for name, crew in (("alone", None), ("m", Room())):
        assert predict(PredictConfig(**asked, name=name, images=("b",)), crew=crew).exit_code == 0
    pairs = zip(every_level(anew, "b", "alone"), every_level(anew, "b", "m"), strict=True)
    assert all((mine == theirs).all() for mine, theirs in pairs)


def test_a_helper_that_would_make_another_mask_refuses(
    ws: Workspace, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_engine(number: int, order: Order) -> None:
        monkeypatch.setattr("segcore.inference.plan.ENGINE", 1_000_000)

    result = predict(PredictConfig(**asked, name="m", images=("b",)), crew=Room(other_engine))
    (item,) = result.items
    assert item.state == "failed"
    assert "plan" in (item.error or "")
    assert "engine" in (item.error or "")
    state = latest_plan(ws.objects, "b", "m")
    assert state is not None
    assert not state.records()
