"""Tuning: the tile by which an image is done soonest, measured once; memory that is kept meanwhile."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcore.config import PredictConfig
from segcore.inference import allocator, predict, tile_choice, tuning
from segcore.inference.model_grid import ModelGrid
from segcore.inference.numerics import Network
from segcore.inference.tile_choice import tiling_for
from segcore.inference.tuning import Tuning
from segcore.models.package import ModelPackage
from segcore.store import Staging, Workspace, verify
from tests.inference.scenes import mask_of, scene, unet_package
from tests.synthetic import put_image

CPU = torch.device("cpu")


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "a", scene(700, 530))
    return ws


@pytest.fixture
def package(ws: Workspace) -> ModelPackage:
    return unet_package(ws, tile_px=64, halo_px=16)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_choice, "TUNED_FROM_PX", 512)
    monkeypatch.setattr(tuning, "CPU_TILES_PX", (32, 128))


def config_of(ws: Workspace, package: ModelPackage, **values: Any) -> PredictConfig:
    given = {"workspace": ws.uri, "model": package.model_id, "shard_px": 256, "precision": "float32"}
    return PredictConfig.model_validate({**given, **values})


def test_all_sizes_are_measured_beside_the_packages_own(package: ModelPackage) -> None:
    found = tuning.measure(Network(package, CPU, "float32", batch=1), package.contract)
    assert list(found.px_per_s) == [32, 64, 128]
    assert min(found.px_per_s.values()) > 0


def test_large_tiles_of_many_classes_are_not_tried(package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile of 128 px has 160^2 * 4 bytes of logits per class, the package's own is taken whatever it has."""
    assert tuning.candidates_px(package.contract, CPU, 3) == (32, 64, 128)
    monkeypatch.setattr(tuning, "LOGITS_BYTES", 3 * 4 * 160**2 - 1)
    assert tuning.candidates_px(package.contract, CPU, 3) == (32, 64)
    assert tuning.candidates_px(package.contract, CPU, 30) == (64,)


def test_a_dear_tile_is_the_last_one(package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "DEAREST_S", 0.0)
    asked: list[torch.Tensor] = []
    network = Network(package, CPU, "float32", batch=1)
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda tiles: asked.append(tiles) or forward(tiles))
    assert list(tuning.measure(network, package.contract).px_per_s) == [32]
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("rates", "side"),
    [
        ({64: 1e6, 128: 1e6}, 128),  # as fast by pixels: less halo
        ({64: 2e6, 128: 1e6}, 64),
        ({32: 9e6, 64: 1e6, 128: 1e6}, 32),
    ],
)
def test_an_image_takes_what_is_done_soonest(
    ws: Workspace, package: ModelPackage, rates: dict[int, float], side: int
) -> None:
    found = Tuning(device="cpu", px_per_s=rates)
    grid = ModelGrid(ws.image("a"))
    assert tiling_for(config_of(ws, package), package, grid, found).core == (side, side)
    assert tiling_for(config_of(ws, package, tile_px=64), package, grid, found).core == (64, 64)
    for asked in ({"halo": 16}, {"blend": "gaussian"}):
        config = config_of(ws, package, **asked)
        assert tiling_for(config, package, grid, found) == tiling_for(config, package, grid)


def test_a_small_image_keeps_the_packages_own(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile_choice, "TUNED_FROM_PX", 701)
    found = Tuning(device="cpu", px_per_s={64: 1e6, 128: 1e9})
    assert tiling_for(config_of(ws, package), package, ModelGrid(ws.image("a")), found).core == (64, 64)


def test_what_was_measured_is_kept_and_frozen(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = [{64: 1e6, 128: 1e9}, {64: 1e9, 128: 1e6}]
    monkeypatch.setattr(tuning, "measure", lambda network, contract: Tuning(device="cpu", px_per_s=rates.pop(0)))
    for name in ("one", "two"):
        (item,) = predict(config_of(ws, package, name=name)).items
        assert item.error is None
        assert ws.label("a", name).attributes["predict"]["tile_px"] == [128, 128]
    np.testing.assert_array_equal(mask_of(ws, "a", "one"), mask_of(ws, "a", "two"))
    (key,) = (key for key, _ in ws.objects.list("state/models") if "/tile-" in key)
    assert verify(ws) == []
    ws.objects.put(key, b"{}")  # damaged: as good as none
    (item,) = predict(config_of(ws, package, name="three")).items
    assert ws.label("a", "three").attributes["predict"]["tile_px"] == [64, 64]


def test_a_mask_that_was_begun_keeps_its_tile(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed on one machine, it goes on where another tile would be faster."""
    reference = config_of(ws, package, tile_px=128, name="reference")
    assert predict(reference).items[0].error is None
    write, written = Staging.write_shard, [0]

    def dies(self: Staging, *args: Any, **kwargs: Any) -> None:
        written[0] += 1
        if written[0] == 3:
            raise KeyboardInterrupt
        write(self, *args, **kwargs)

    rates = [{64: 1e6, 128: 1e9}, {64: 1e9, 128: 1e6}]
    monkeypatch.setattr(tuning, "measure", lambda network, contract: Tuning(device="cpu", px_per_s=rates.pop(0)))
    with monkeypatch.context() as patch:
        patch.setattr(Staging, "write_shard", dies)
        with pytest.raises(KeyboardInterrupt):
            predict(config_of(ws, package, name="killed"))
    (key,) = (key for key, _ in ws.objects.list("state/models") if "/tile-" in key)
    ws.objects.delete(key)
    (item,) = predict(config_of(ws, package, name="killed")).items
    assert (item.error, item.details["shards_resumed"] > 0) == (None, True)
    np.testing.assert_array_equal(mask_of(ws, "a", "killed"), mask_of(ws, "a", "reference"))


class FakeLibrary:
    """Of the C library, what was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def mallopt(self, parameter: int, value: int) -> None:
        self.calls.append((f"mallopt {parameter}", value))

    def malloc_trim(self, pad: int) -> None:
        self.calls.append(("malloc_trim", pad))


def test_memory_is_kept_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary()
    monkeypatch.setattr(allocator, "_glibc", lambda: library)
    with allocator.memory_is_kept():
        assert [name for name, _ in library.calls] == ["mallopt -3", "mallopt -1", "mallopt -8"]
    assert library.calls[-1] == ("malloc_trim", 0)
    monkeypatch.setattr(allocator, "_glibc", lambda: None)  # another C library
    with allocator.memory_is_kept():
        pass


def test_the_fastest_tile_counts_what_tiles_at_the_border_cost(ws: Workspace, package: ModelPackage) -> None:
    """Tiles of 128 px are slower, and infer so much less where they are cut at the border, not where they are whole."""
    put_image(ws, "b", scene(528, 528, seed=1))
    tuning_ = Tuning(device="cpu", px_per_s={64: 1.3e6, 128: 1.0e6})
    grid, config = ModelGrid(ws.image("b")), config_of(ws, package)
    assert tiling_for(config, package, grid, tuning_).core == (128, 128)
    whole = tiling_for(config, package, grid, tuning_, lambda tiling: replace(tiling, is_cut=False))
    seconds = {side: math.ceil(528 / side) ** 2 * (side + 32) ** 2 / rate for side, rate in tuning_.px_per_s.items()}
    assert whole.core[0] == min(seconds, key=lambda side: seconds[side]) == 64


def test_a_mask_begun_on_another_kind_of_image_is_another_plan(ws: Workspace, package: ModelPackage) -> None:
    """Its tiles have other axes, and are not taken for the image's own."""
    assert predict(config_of(ws, package, name="m")).items[0].state == "done"
    ws.objects.delete_prefix("images/a.ome.zarr")
    ws.objects.delete_prefix("state/a/image")
    put_image(ws, "a", np.stack([scene(530, 520), scene(530, 520, seed=3)], axis=1), axes=("c", "z", "y", "x"))
    assert "plan.tile_px" in str(predict(config_of(ws, package, name="m")).items[0].error)
    assert predict(config_of(ws, package, name="m", overwrite=True)).items[0].state == "done"
    assert ws.label("a", "m").shape() == (2, 530, 520)
