"""Kill repair at any of its writes: what it repaired is not complete, and repairing again makes it whole."""

import multiprocessing
import shutil
import signal
from pathlib import Path

import pytest

from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.repair import repair
from segcore.store import Workspace, verify
from tests.faults.predict_once import repair_until
from tests.inference.scenes import every_level, scene, unet_package
from tests.synthetic import put_image

MASK = "mask"
POINTS = {
    "after the mark is gone": ("after", r"labels/zarr\.json$", 1),
    "before the shard": ("before", r"/0/c/", 1),
    "before its record": ("before", r"/shards/0/", 1),
    "after its record": ("after", r"/shards/0/", 1),
    "before the coarser shard": ("before", r"/1/c/", 1),
    "before finished.json": ("before", r"finished\.json$", 1),
    "after finished.json": ("after", r"finished\.json$", 1),
}
WHOLE = {"after the mark": ("after", r"labels/mask/zarr\.json$", 1), "in the end": ("before", r"finished\.json$", 2)}
"""Points at which the mask is complete again."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    ws = Workspace.open(str(tmp_path_factory.mktemp("repair") / "w"), create=True)
    put_image(ws, "a", scene(1100, 700))
    config = PredictConfig(workspace=ws.uri, model=unet_package(ws).model_id, name=MASK, shard_px=256)
    assert predict(config).exit_code == 0
    return ws


@pytest.mark.parametrize("point", [*POINTS, *WHOLE])
def test_sigkill_in_a_repair(made: Workspace, tmp_path: Path, point: str) -> None:
    shutil.copytree(made.uri, tmp_path / "w")
    ws = Workspace.open(str(tmp_path / "w"))
    ws.objects.put("images/a.ome.zarr/labels/mask/0/c/1/1", b"damaged")
    ws.objects.delete("state/a/mask/0/shards/1/0.0")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.faults.predict_once"])
    process = server.Process(target=repair_until, args=(ws.uri, (POINTS | WHOLE)[point]))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert ws.is_complete("a", MASK) == (point in WHOLE)
    assert all(one.fixed for one in repair(ws))
    assert verify(ws) == []
    for one, other in zip(every_level(ws, "a", MASK), every_level(made, "a", MASK), strict=True):
        assert (one == other).all()
