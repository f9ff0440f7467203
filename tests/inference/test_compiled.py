"""Compiled: one program for each shape of tile, the model's own answers within rounding, and only where it pays."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from segcore.config import PredictConfig
from segcore.errors import ConfigError, SegcoreError
from segcore.inference import predict, settle, tile_choice, tuning
from segcore.inference.compiled import Compiled
from segcore.inference.decision import Decision
from segcore.inference.job import Job
from segcore.inference.model_grid import ModelGrid
from segcore.inference.numerics import Network, Recipe
from segcore.inference.plan import freeze
from segcore.inference.search import screen_config
from segcore.inference.tuning import Tuning
from segcore.models.package import ModelPackage
from segcore.store import Workspace, verify
from tests.inference.scenes import conv_package, mask_of, scene, unet_package
from tests.synthetic import put_image

CPU = torch.device("cpu")


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "a", scene(300, 275))
    return ws


@pytest.fixture
def package(ws: Workspace) -> ModelPackage:
    weights = np.random.default_rng(0).normal(size=(3, 3, 3, 3))
    return conv_package(ws, weights, -weights.sum(axis=(1, 2, 3)) * 120, tile_px=64, halo_px=2)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes for which a program was made, which here is the model itself."""
    shapes: list[tuple[int, ...]] = []

    def program(self: Compiled, tiles: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        shapes.append(tuple(tiles.shape))
        return self._model

    monkeypatch.setattr(Compiled, "_program", program)
    return shapes


def config_of(ws: Workspace, package: ModelPackage, **settings: Any) -> PredictConfig:
    given = {"workspace": ws.uri, "model": package.model_id, "shard_px": 256, "precision": "float32", "name": "m"}
    return PredictConfig.model_validate({**given, "device": "cpu", **settings})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Inductor uses what torch itself calls deprecated
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_model_answers_as_the_plain_one(ws: Workspace, package: ModelPackage) -> None:
    assert predict(config_of(ws, package, compile="off", name="plain")).items[0].error is None
    (item,) = predict(config_of(ws, package, compile="on", tile_workers=3)).items
    assert item.error is None
    assert ws.label("a", "m").attributes["predict"]["compiled"] is True
    assert "compiled" not in ws.label("a", "plain").attributes["predict"]
    plain = mask_of(ws, "a", "plain")
    assert np.bincount(plain.ravel()).min() > 5_000
    assert (mask_of(ws, "a", "m") == plain).mean() > 0.9999
    assert verify(ws) == []


def test_one_program_for_each_shape_however_many_ask(asked: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(3, 2, 3, padding=1).eval()
    compiled, found = Compiled(model, CPU), []
    tiles = {side: torch.randn(1, 3, side, side) for side in (8, 12)}

    def ask() -> None:
        for side in (8, 12, 8):
            found.append(torch.equal(compiled(tiles[side]), model(tiles[side])))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 24
    assert sorted(asked) == [(1, 3, 8, 8), (1, 3, 12, 12)]


def test_compiled_or_not_is_in_the_plan(ws: Workspace, package: ModelPackage, asked: list[tuple[int, ...]]) -> None:
    assert predict(config_of(ws, package, compile="on")).items[0].error is None
    assert asked == [(1, 3, 68, 68)]
    assert "compiled" in str(predict(config_of(ws, package, compile="off")).items[0].error)
    assert predict(config_of(ws, package)).items[0].state == "skipped"  # auto leaves what is finished
    assert predict(config_of(ws, package, name="plain")).items[0].error is None
    assert "compiled" in str(predict(config_of(ws, package, compile="on", name="plain")).items[0].error)
    assert len(asked) == 1


def test_what_cannot_be_compiled_is_one_line(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Undecided(nn.Module):
        def forward(self, tiles: torch.Tensor) -> torch.Tensor:
            return tiles if tiles.sum() > 0 else -tiles

    with pytest.raises(SegcoreError, match=r"compile: the model cannot be compiled for cpu .*; give compile: off$"):
        Compiled(Undecided().eval(), CPU)(torch.ones(1, 3, 8, 8))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ConfigError, match=r"^compile on: expected a C\+\+ compiler \(no-such-compiler, .*compile: auto$"
    ):
        predict(config_of(ws, package, compile="on"))
    assert predict(config_of(ws, package)).items[0].error is None


@pytest.mark.parametrize(
    ("rates", "settings", "is_compiled"),
    [
        ({64: 1e6, 128: 1.06e6}, {}, True),
        ({64: 1.04e6, 128: 1e6}, {}, False),
        (None, {}, False),  # it could not be measured
        ({64: 9e6}, {"compile": "off"}, False),
        ({64: 9e6}, {"batch": 4}, False),
        ({64: 9e6}, {"samples": 3}, False),
    ],
)
def test_auto_compiles_what_is_measured_to_be_faster(
    ws: Workspace,
    package: ModelPackage,
    monkeypatch: pytest.MonkeyPatch,
    rates: dict[int, float] | None,
    settings: dict[str, Any],
    is_compiled: bool,
) -> None:
    put_image(ws, "small", scene(100, 90))
    monkeypatch.setattr(tile_choice, "TUNED_FROM_PX", 256)
    found: dict[Any, Tuning | None] = {
        False: Tuning(device="gpu", px_per_s={64: 1e6, 128: 0.9e6}),
        True: None if rates is None else Tuning(device="gpu", px_per_s=rates),
    }
    monkeypatch.setattr(settle, "Network", lambda *args: Mock(**{"adapted.return_value": args[-1].can_compile}))
    monkeypatch.setattr(settle, "tuned", lambda ws, network, *rest: found[network])
    monkeypatch.setattr(settle, "lacking", lambda device: None)
    config = config_of(ws, package, device="auto", **settings)
    recipe = Recipe(Decision(3, 255), samples=config.samples)
    job = settle._fastest(ws, Job(config, package, torch.device("cuda"), recipe, batch=config.batch))
    assert (job.recipe.can_compile, job.tuning) == (is_compiled, found[is_compiled])
    for image_id, expected in (("a", is_compiled), ("small", False)):
        grid = ModelGrid(ws.image(image_id))
        assert freeze(job, grid, job.tiling(grid)).get("compiled", False) == expected


def test_either_way_is_measured_and_kept_for_itself(
    ws: Workspace, package: ModelPackage, asked: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "CPU_TILES_PX", (32,))
    for compiled in (False, True):
        network = Network(package, CPU, "float32", 1, Recipe(Decision(3, 255), can_compile=compiled))
        found = tuning.tuned(ws, network, package.contract, package.model_id, dry_run=False)
        assert found is not None
        assert list(found.px_per_s) == [32, 64]
        assert tuning.tuned(ws, network, package.contract, package.model_id, dry_run=False) == found
    names = {key.rsplit("/", 1)[-1].split("-")[0] for key, _ in ws.objects.list(f"state/models/{package.model_id}")}
    assert names == {"tile", "compiled"}
    assert asked == [(1, 3, 36, 36), (1, 3, 68, 68)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_sub_networks_are_compiled_for_each_shape(ws: Workspace) -> None:
    package = unet_package(ws, channels=(4, 8), tile_px=64, dropout=0.5)
    put_image(ws, "b", scene(60, 60, seed=1))
    given = {"samples": 2, "tile_workers": 1}
    assert [item.error for item in predict(config_of(ws, package, compile="on", **given)).items] == [None, None]
    assert [item.error for item in predict(config_of(ws, package, name="plain", **given)).items] == [None, None]
    for image_id in ("a", "b"):
        assert (mask_of(ws, image_id, "m") == mask_of(ws, image_id, "plain")).mean() > 0.999


def test_the_screen_is_compiled_or_not_as_the_mask(ws: Workspace, package: ModelPackage) -> None:
    recipe = Recipe(Decision(3, 255))
    job = Job(config_of(ws, package, compile="off", screen=package.model_id), package, CPU, recipe)
    assert screen_config(job, ("a",)).compile == "off"
