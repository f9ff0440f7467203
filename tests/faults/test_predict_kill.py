"""Promise 1: kill it at any moment; the rerun resumes, and ends with the pixels of a run that nobody disturbed."""

import json
import multiprocessing
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.store import Workspace, verify
from segcore.store.plan import latest_plan
from tests.faults.predict_once import predict_once
from tests.inference.scenes import every_level, scene, unet_package
from tests.synthetic import put_image

NUM_SHARDS = 36
LEFTOVER = re.compile(r"#\d+$|\.partial$")


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    ws = Workspace.open(str(tmp_path_factory.mktemp("kill")), create=True)
    put_image(ws, "a", scene(1500, 1300))
    return ws


@pytest.fixture(scope="module")
def model(ws: Workspace) -> str:
    return unet_package(ws, channels=(8, 16)).model_id


@pytest.fixture(scope="module")
def undisturbed(ws: Workspace, model: str) -> dict[str, list[np.ndarray]]:
    levels = {}
    for blend in ("crop", "gaussian"):
        config = PredictConfig(workspace=ws.uri, model=model, name=f"calm-{blend}", blend=blend, shard_px=256)  # type: ignore[arg-type]
        assert predict(config).exit_code == 0
        levels[blend] = every_level(ws, "a", f"calm-{blend}")
    return levels


@pytest.fixture(scope="module")
def server() -> Any:
    """Forks processes that have torch imported already: what is killed is predict, not its imports."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.faults.predict_once"])
    return server


class Predict:
    """One predict in a process of its own."""

    def __init__(self, server: Any, ws: Workspace, model: str, name: str, blend: str, folder: Path) -> None:
        settings = {"workspace": ws.uri, "model": model, "name": name, "blend": blend}
        self._answer = folder / "answer.json"
        self._answer.unlink(missing_ok=True)
        arguments = ({**settings, "shard_px": 256, "tile_workers": 2}, str(self._answer))
        self.process = server.Process(target=predict_once, args=arguments)
        self.process.start()

    def details(self) -> dict[str, Any]:
        """What it found, once it has ended by itself."""
        self.process.join(120)
        assert self.process.exitcode == 0
        details: dict[str, Any] = json.loads(self._answer.read_text())
        return details


def ledgered(ws: Workspace, name: str) -> set[tuple[int, ...]]:
    """Level-0 shards that the ledger says are finished."""
    plan = latest_plan(ws.objects, "a", name)
    return set() if plan is None else {shard for level, shard in plan.recorded() if level == 0}


def assert_as_undisturbed(ws: Workspace, name: str, expected: list[np.ndarray]) -> None:
    for level, (ours, theirs) in enumerate(zip(every_level(ws, "a", name), expected, strict=True)):
        np.testing.assert_array_equal(ours, theirs, err_msg=f"level {level}")
    assert ws.objects.folder is not None
    left = [path for path in ws.objects.folder.rglob("*") if LEFTOVER.search(path.name)]
    assert left == []


@pytest.mark.parametrize(("blend", "kills"), [("crop", 10), ("gaussian", 3)])
def test_sigkill_at_random_moments_ends_with_the_same_pixels(
    server: Any,
    ws: Workspace,
    model: str,
    undisturbed: dict[str, list[np.ndarray]],
    tmp_path: Path,
    blend: str,
    kills: int,
) -> None:
    """One mask, killed again and again: after each kill some more shards are there, and none is made twice."""
    name, rng = f"killed-{blend}", np.random.default_rng(1)
    at_work = 0
    for _ in range(kills):
        before = ledgered(ws, name)
        run = Predict(server, ws, model, name, blend, tmp_path)
        goal = len(before) + int(rng.integers(0, 4))  # by its work: a busy machine's clock says little
        deadline = time.monotonic() + 60
        while len(ledgered(ws, name)) < goal and run.process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0, 0.1)))
        at_work += run.process.is_alive()
        run.process.kill()
        run.process.join()
        assert before <= ledgered(ws, name)
    assert at_work >= kills - 1
    finished = len(ledgered(ws, name))
    details = Predict(server, ws, model, name, blend, tmp_path).details()
    assert details["error"] is None
    assert (details["shards_resumed"], details["shards_written"]) == (finished, NUM_SHARDS - finished)
    assert_as_undisturbed(ws, name, undisturbed[blend])
    assert verify(ws, ("a",)) == []


def test_sigterm_lets_the_lease_go(
    server: Any, ws: Workspace, model: str, undisturbed: dict[str, list[np.ndarray]], tmp_path: Path
) -> None:
    run = Predict(server, ws, model, "ended", "crop", tmp_path)
    while not ledgered(ws, "ended"):
        time.sleep(0.01)
    run.process.terminate()
    run.process.join(30)
    assert run.process.exitcode == 128 + signal.SIGTERM
    newest = max(int(key.rsplit("/", 1)[-1]) for key, _ in ws.objects.list("state/a/ended/lease"))
    assert json.loads(ws.objects.get(f"state/a/ended/lease/{newest}") or b"{}")["released"]
    finished = len(ledgered(ws, "ended"))
    details = Predict(server, ws, model, "ended", "crop", tmp_path).details()
    assert (details["shards_resumed"], details["shards_written"]) == (finished, NUM_SHARDS - finished)
    assert_as_undisturbed(ws, "ended", undisturbed["crop"])
