import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcore.config import PredictConfig
from segcore.inference import precision as module
from segcore.inference import prepared as making
from segcore.inference import settle
from segcore.inference.model_grid import ModelGrid
from segcore.inference.numerics import NotFiniteError
from segcore.inference.precision import calibrate, calibration_tiles, device_slug
from segcore.inference.tiling import crop_tiling
from segcore.store import Workspace
from tests.inference.scenes import scene, unet_package
from tests.synthetic import put_image

CPU = torch.device("cpu")


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "a", scene(300, 300))
    return ws


def resolved(ws: Workspace, monkeypatch: pytest.MonkeyPatch, px_per_s: dict[str, float], ids: dict[str, Any]) -> str:
    """`auto` on a CPU that claims bfloat16, with answers and speeds as given."""

    def answers(network: Any, tiles: Any, nodata: Any) -> Any:
        if network.precision not in ids:
            raise NotFiniteError("overflow", 0)
        return ids[network.precision], 1 / px_per_s[network.precision]

    monkeypatch.setattr(settle, "faster_formats", lambda device: ["bfloat16"])
    monkeypatch.setattr(module, "timed_ids", answers)
    package = unet_package(ws)
    config = PredictConfig(workspace=ws.uri, model=package.model_id, device="cpu")
    return settle.resolve(ws, config, package, ("a",)).precision


@pytest.mark.parametrize(
    ("speed", "wrong", "expected"),
    [(2.0, 0, "bfloat16"), (2.0, 20, "float32"), (0.5, 0, "float32"), (2.0, 9, "bfloat16"), (1.1, 0, "float32")],
)
def test_auto_takes_what_is_clearly_faster_and_agrees(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, speed: float, wrong: int, expected: str
) -> None:
    exact = np.zeros(10_000, dtype=np.uint8)
    other = exact.copy()
    other[:wrong] = 1
    found = resolved(ws, monkeypatch, {"float32": 1.0, "bfloat16": speed}, {"float32": exact, "bfloat16": other})
    assert found == expected


def test_auto_is_found_once_and_kept(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {"float32": np.zeros(4), "bfloat16": np.zeros(4)}
    assert resolved(ws, monkeypatch, {"float32": 1.0, "bfloat16": 2.0}, ids) == "bfloat16"
    key = f"state/models/{unet_package(ws).model_id}/{device_slug(CPU)}.json"
    kept = json.loads(ws.objects.get(key) or b"")
    assert kept["px_per_s"]["bfloat16"] == pytest.approx(2 * kept["px_per_s"]["float32"])
    assert resolved(ws, monkeypatch, {"float32": 9.0, "bfloat16": 1.0}, ids) == "bfloat16"
    changed = json.dumps(kept).replace('"precision": "bfloat16"', '"precision": "bfloat17"').encode()
    for damaged in (b"damaged", changed):
        ws.objects.put(key, damaged)
        assert resolved(ws, monkeypatch, {"float32": 9.0, "bfloat16": 1.0}, ids) == "float32"


def test_calibrate_measures_agreement(ws: Workspace) -> None:
    tiling = crop_tiling((300, 300), (64, 64), (16, 16), (2, 2), 256)
    tiles = calibration_tiles(ModelGrid(ws.image("a")), tiling, False, count=2)
    assert [tile.shape for tile in tiles] == [(1, 3, 96, 96)] * 2
    found = calibrate([unet_package(ws)], CPU, ["float32", "bfloat16"], tiles)
    assert found.agreement["float32"] == 1.0
    assert 0.9 < found.agreement["bfloat16"] <= 1.0


@pytest.mark.parametrize("overflows", ["bfloat16", "float32"])
def test_a_precision_that_overflows_is_not_taken_and_stops_nothing(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, overflows: str
) -> None:
    ids = {name: np.zeros(10) for name in ("float32", "bfloat16") if name != overflows}
    assert resolved(ws, monkeypatch, {"float32": 1.0, "bfloat16": 2.0}, ids) == "float32"


def test_auto_holds_for_every_model_of_an_ensemble(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 is faster and right for the first model, and wrong for the second."""
    first, second = unet_package(ws), unet_package(ws, channels=(4, 8))
    prepared = making.prepared

    def coarse(package: Any, device: Any, precision: str) -> Any:
        model = prepared(package, device, "float32")
        if package.model_id == second.model_id and precision == "bfloat16":
            model.get_submodule("head").weight.mul_(-1)
        return model

    def timed(network: Any, tiles: Any, nodata: Any) -> Any:
        return timed_ids(network, tiles, nodata)[0], 1 + (network.precision == "float32")

    timed_ids = module.timed_ids
    monkeypatch.setattr(making, "prepared", coarse)
    monkeypatch.setattr(making, "DTYPES", {"float32": torch.float32, "bfloat16": torch.float32})
    monkeypatch.setattr(module, "timed_ids", timed)
    monkeypatch.setattr(settle, "faster_formats", lambda device: ["bfloat16"])
    for ensemble, expected in (((), "bfloat16"), ((second.model_id,), "float32"), ((), "bfloat16")):
        config = PredictConfig(workspace=ws.uri, model=first.model_id, device="cpu", ensemble=ensemble)
        assert settle.resolve(ws, config, first, ("a",)).precision == expected
