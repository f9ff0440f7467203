"""The estimate of `--dry-run` against runs of the same settings; times are left to benchmarks/estimate.py."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import PredictConfig
from segcore.inference import estimate as module
from segcore.inference import predict
from segcore.inference.batch import Batches
from segcore.inference.contract import check_contract
from segcore.inference.footprint import memory_bytes
from segcore.inference.job import Job
from segcore.inference.night import networks_of
from segcore.inference.rehearsal import Cost, rehearse
from segcore.inference.settle import resolve
from segcore.models.package import ModelPackage
from segcore.results import StageResult
from segcore.store import Workspace, layer_name
from segcore.store.places import array_prefix
from segcore.store.plan import latest_plan
from tests.inference.scenes import conv_package, scene, unet_package
from tests.synthetic import put_image, put_label

LAYERS = ("probs", "entropy")


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "a", scene(700, 1100))
    return ws


@pytest.fixture
def package(ws: Workspace) -> ModelPackage:
    return unet_package(ws)


def run(ws: Workspace, package: ModelPackage, **settings: Any) -> StageResult:
    given = {"name": "m", "shard_px": 256, "tile_workers": 2, **settings}
    return predict(PredictConfig(workspace=ws.uri, model=package.model_id, **given))


def raw_bytes(ws: Workspace, image_id: str, *names: str) -> int:
    """Of all levels of arrays in the store, by their own metadata."""
    total = 0
    for name in names:
        for file in Path(ws.uri, array_prefix(image_id, name)).glob("*/zarr.json"):
            array = json.loads(file.read_text())
            if array["node_type"] == "array":
                total += int(np.prod(array["shape"])) * np.dtype(array["data_type"]).itemsize
    return total


def stored_bytes(ws: Workspace, image_id: str, *names: str) -> int:
    places = (Path(ws.uri, array_prefix(image_id, name)) for name in names)
    return sum(file.stat().st_size for place in places for file in place.glob("*/c/**/*") if file.is_file())


@pytest.mark.parametrize("blend", ["crop", pytest.param("gaussian", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"views": "flips", "layers": LAYERS},
        {"layers": LAYERS, "layer_level": 1, "layer_dtype": "float16"},
        {"ensemble": True},
        {"foreground": "tissue"},
    ],
    ids=["plain", "views", "layers", "ensemble", "foreground"],
)
def test_what_is_counted_is_what_a_run_does(
    ws: Workspace, package: ModelPackage, blend: str, settings: dict[str, Any]
) -> None:
    if "ensemble" in settings:
        settings = {"ensemble": (unet_package(ws, channels=(4, 8)).model_id,)}
    if "layer_level" in settings:  # of smaller tiles a chunk of that level would hold the same answers again and again
        package = unet_package(ws, tile_px=256)
    if "foreground" in settings:
        ids = np.zeros((700, 1100), dtype=np.uint8)
        ids[300:400, 500:700] = 1
        put_label(ws, "a", "tissue", ids)
    stated = run(ws, package, blend=blend, dry_run=True, **settings)
    made = run(ws, package, blend=blend, **settings)
    (told,), (found,) = stated.items, made.items
    for key in ("tiles", "skipped_share", "skipped_by", "level"):
        assert told.details.get(key) == found.details.get(key), key
    assert told.details["shards"] == found.details["shards_written"] == 15
    names = ("m", *(layer_name("m", kind) for kind in settings.get("layers", ())))
    assert told.details["write_bytes"] == raw_bytes(ws, "a", *names) > 700 * 1100
    assert 0.5 < told.details["disk_bytes"] / stored_bytes(ws, "a", *names) < 2
    assert stated.details["tiles"] == told.details["tiles"]
    assert stated.details["memory_mib"] > 0.8 * made.peak_mib


@pytest.mark.parametrize("blend", ["crop", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_of_an_interrupted_mask_the_rest_is_stated(ws: Workspace, package: ModelPackage, blend: str) -> None:
    run(ws, package, blend=blend)
    whole = run(ws, package, blend=blend, name="other", dry_run=True).items[0].details
    state = latest_plan(ws.objects, "a", "m")
    assert state is not None
    lost = [(0, (0, 0)), (0, (1, 3)), (1, (0, 0))]
    for level, shard in lost:
        state.delete_record(level, shard)
    ws.objects.delete(f"{array_prefix('a', 'm')}/zarr.json")
    ws.objects.delete(f"{state.prefix}/finished.json")
    before = sorted(key for key, _ in ws.objects.list(""))
    told = run(ws, package, blend=blend, dry_run=True).items[0].details
    assert sorted(key for key, _ in ws.objects.list("")) == before
    found = run(ws, package, blend=blend).items[0].details
    assert told["shards"] == found["shards_written"] == 2
    assert told["tiles"] == found["tiles"] < whole["tiles"]
    assert told["write_bytes"] == 2 * 256 * 256 + 256 * 256
    complete = run(ws, package, blend=blend, dry_run=True).items[0].details
    assert complete == {"complete": True, "tiles": 0, "shards": 0, "write_bytes": 0}


def test_a_lost_object_counts_as_left_and_its_record_stays(ws: Workspace, package: ModelPackage) -> None:
    run(ws, package)
    lost = Path(ws.uri, array_prefix("a", "m"), "0", "c", "0", "1")
    lost.unlink()
    before = sorted(key for key, _ in ws.objects.list(""))
    told = run(ws, package, overwrite=True, dry_run=True).items[0].details
    assert sorted(key for key, _ in ws.objects.list("")) == before
    assert told["shards"] == run(ws, package, overwrite=True).items[0].details["shards_written"] == 1


def test_what_predict_would_refuse_is_refused(ws: Workspace, package: ModelPackage) -> None:
    put_image(ws, "b", scene(300, 300, 1))
    run(ws, package, images=("a",))
    told = run(ws, package, dry_run=True, halo=32)
    found = run(ws, package, halo=32)
    assert [(item.image, item.state) for item in told.items] == [("a", "failed"), ("b", "skipped")]
    assert told.items[0].error == found.items[0].error
    assert told.exit_code == found.exit_code == 3


def test_an_image_that_the_model_fails_on_does_not_hide_the_cost_of_others(ws: Workspace) -> None:
    put_image(ws, "bad", np.full((3, 900, 1000), 255, dtype=np.uint8))
    package = conv_package(ws, np.full((2, 3, 1, 1), 1e38, dtype=np.float32), np.zeros(2, dtype=np.float32))
    put_image(ws, "dark", np.zeros((3, 300, 300), dtype=np.uint8))
    told = run(ws, package, images=("bad", "dark"), dry_run=True)
    assert [item.state for item in told.items] == ["failed", "skipped"]
    assert "expected finite logits" in (told.items[0].error or "")
    assert told.items[1].details["expected_cpu_s"] >= 0


def settled(ws: Workspace, package: ModelPackage, **settings: Any) -> Job:
    config = PredictConfig(workspace=ws.uri, model=package.model_id, tile_workers=1, shard_px=256, **settings)
    return resolve(ws, config, package, ("a",))


def cost_of(ws: Workspace, job: Job) -> Cost:
    networks = networks_of(job)
    grid = check_contract(job.package.contract, ws.image("a")).grid
    return rehearse(job, grid, networks, Batches(networks[0], job.package.contract))


@pytest.mark.slow
@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_the_cost_of_a_tile_grows_with_its_views(ws: Workspace, blend: str) -> None:
    package = unet_package(ws, channels=(16, 32))
    one, eight = (cost_of(ws, settled(ws, package, blend=blend, views=views)) for views in ("none", "d4"))
    assert 3 < eight.tile_cpu_s / one.tile_cpu_s < 20
    assert one.write_cpu_s > 0 < one.empty_cpu_s
    assert 0 < one.stored_share < 1


def test_the_rehearsal_leaves_nothing_behind(ws: Workspace, package: ModelPackage) -> None:
    cost_of(ws, settled(ws, package, layers=LAYERS))
    assert list(Workspace.open("memory://segcore-rehearsal", create=True).objects.list("state")) == []


def test_the_stated_memory_is_of_all_that_is_under_way(ws: Workspace, package: ModelPackage) -> None:
    """By hand: 88 MiB of slack; 2 workers, one reader, 4 slots; tiles of 128 px with a halo of 16, shards of 256 px."""
    config = PredictConfig(workspace=ws.uri, model=package.model_id, shard_px=256, tile_workers=2, precision="float32")
    job = resolve(ws, config, package, ("a",))
    grid = check_contract(job.package.contract, ws.image("a"), None).grid
    tiling, mib = job.tiling(grid), 1 << 20
    cost = Cost(0, 0, 0, 0, 0, base_bytes=100 * mib, tiles_bytes=10 * mib, batch_px=160**2)
    pieces = 2 * 4 * (512 + 32) * (256 + 32) * 3
    shards = (1 + 1 + 2 + 4) * 256**2 + sum(min(256, y) * min(256, x) for y, x in ((350, 550), (175, 275)))
    logits = 2 * 4 * 3 * 160**2
    expected = (100 + 88 + 10) * mib + logits + 1.15 * (pieces + shards)
    assert memory_bytes(job, cost, grid, tiling) == pytest.approx(expected, abs=2)
    smaller = replace(cost, batch_px=160**2 // 4)  # rehearsed on an image of smaller tiles
    assert memory_bytes(job, smaller, grid, tiling) == pytest.approx(expected + 30 * mib, abs=2)


def test_one_image_that_breaks_the_model_leaves_the_others_stated(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_image(ws, "b", scene(300, 300, seed=2))
    begun = module.begin

    def broken(ws: Workspace, job: Job, grid: Any, *args: Any, **settings: Any) -> Any:
        if grid.image.image_id == "a":
            raise ZeroDivisionError("odd")
        return begun(ws, job, grid, *args, **settings)

    monkeypatch.setattr(module, "begin", broken)
    first, second = run(ws, package, dry_run=True).items
    assert first.error == "image a: ZeroDivisionError: odd"
    assert second.details["tiles"] == 9
