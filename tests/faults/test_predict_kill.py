"""Promise 1: kill it at any moment; the rerun resumes, and ends with the pixels of a run that nobody disturbed."""

import json
import multiprocessing
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.store import Workspace, verify, verify_array
from segcore.store.plan import latest_plan
from segcore.store.workspace import listed_labels
from tests.conftest import Bucket
from tests.faults.predict_once import predict_once, predict_until
from tests.inference.scenes import every_level, scene, unet_package
from tests.synthetic import put_image

NUM_SHARDS = 36
Point = tuple[str, str, int]
"""Before or after the n-th writing of a key that a pattern matches: see `predict_until`."""
LEFTOVER = re.compile(r"#\d+$|\.partial$")


SLOW = pytest.mark.slow


@pytest.fixture(scope="module", params=["local", pytest.param("s3", marks=SLOW)])
def ws(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    if request.param == "local":
        uri = str(tmp_path_factory.mktemp("kill"))
    else:
        uri = request.getfixturevalue("module_bucket").uri
    ws = Workspace.open(uri, create=True)
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
    """One predict in a process of its own; with `until`, one that logs what it writes, and may be killed at a point."""

    def __init__(
        self,
        server: Any,
        ws: Workspace,
        model: str,
        name: str,
        blend: str,
        folder: Path,
        until: tuple[Point | None] | None = None,
    ) -> None:
        settings = {"workspace": ws.uri, "model": model, "name": name, "blend": blend, "shard_px": 256}
        self._answer = folder / "answer.json"
        self._answer.unlink(missing_ok=True)
        settings |= {"images": ("a",), "tile_workers": 2}
        arguments = (settings, str(self._answer), {k: v for k, v in os.environ.items() if k.startswith("AWS_")})
        if until is None:
            self.process = server.Process(target=predict_once, args=arguments)
        else:
            self.process = server.Process(target=predict_until, args=(*arguments, str(folder / "log"), *until))
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
    found = [] if ws.objects.folder is None else ws.objects.folder.rglob("*")
    assert [path for path in found if LEFTOVER.search(path.name)] == []


def killed_at_random(
    start: Callable[[], Predict], ws: Workspace, name: str, rng: np.random.Generator, kills: int
) -> int:
    """Kill one mask's predict again and again; how often it was at work."""
    at_work = 0
    for _ in range(kills):
        before = ledgered(ws, name)
        run = start()
        goal = len(before) + int(rng.integers(0, 4))  # by its work: a busy machine's clock says little
        deadline = time.monotonic() + 60
        while len(ledgered(ws, name)) < goal and run.process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0, 0.1)))
        at_work += run.process.is_alive()
        run.process.kill()
        run.process.join()
        assert before <= ledgered(ws, name)
    return at_work


QUICK = ("gaussian", 1, 3)
OTHERS = [("crop", 1, 10), ("crop", 2, 10), ("crop", 3, 10), ("gaussian", 2, 10), ("gaussian", 3, 7)]
"""50 kills with those above, on a local disk and on S3; all but the quick ones are slow."""


@pytest.mark.parametrize(("blend", "seed", "kills"), [QUICK, *(pytest.param(*values, marks=SLOW) for values in OTHERS)])
def test_sigkill_at_random_moments_ends_with_the_same_pixels(
    server: Any,
    ws: Workspace,
    model: str,
    undisturbed: dict[str, list[np.ndarray]],
    tmp_path: Path,
    blend: str,
    seed: int,
    kills: int,
) -> None:
    """One mask, killed again and again: after each kill some more shards are there, and none is made twice."""
    name, rng = f"killed-{blend}-{seed}", np.random.default_rng(seed)
    at_work = killed_at_random(lambda: Predict(server, ws, model, name, blend, tmp_path), ws, name, rng, kills)
    assert at_work > kills // 2  # on a busy machine some come too late
    finished = len(ledgered(ws, name))
    details = Predict(server, ws, model, name, blend, tmp_path).details()
    assert details["error"] is None
    assert (details["shards_resumed"], details["shards_written"]) == (finished, NUM_SHARDS - finished)
    assert_as_undisturbed(ws, name, undisturbed[blend])
    assert verify_array(ws, "a", name) == []


POINTS: dict[str, Point] = {
    "before the plan": ("before", r"plan\.json$", 1),
    "after the plan": ("after", r"plan\.json$", 1),
    "before the arrays' metadata": ("before", r"/0/zarr\.json$", 1),
    "after the arrays' metadata": ("after", r"/2/zarr\.json$", 1),
    "before the first shard": ("before", r"/0/c/", 1),
    "after a shard, before its record": ("before", r"/shards/0/", 5),
    "after a record": ("after", r"/shards/0/", 5),
    "before the last shard": ("before", r"/0/c/", NUM_SHARDS),
    "after the last record": ("after", r"/shards/0/", NUM_SHARDS),
    "between the shards and a coarser one": ("before", r"/1/c/", 1),
    "after a coarser shard, before its record": ("before", r"/shards/1/", 3),
    "after a coarser record": ("after", r"/shards/1/", 3),
    "mid-pyramid": ("before", r"/2/c/", 1),
    "mid-pyramid, after the shard": ("after", r"/2/c/", 1),
    "before finished.json": ("before", r"finished\.json$", 1),
    "between finished.json and the mark": ("after", r"finished\.json$", 1),
    "after the mark, before the list of labels": ("after", r"labels/[^/]+/zarr\.json$", 1),
    "after the list of labels": ("after", r"labels/zarr\.json$", 1),
}


@pytest.mark.parametrize("blend", ["crop", pytest.param("gaussian", marks=SLOW)])
@pytest.mark.parametrize("point", POINTS)
def test_sigkill_at_a_named_point_ends_with_the_same_pixels_and_nothing_done_twice(
    server: Any,
    ws: Workspace,
    model: str,
    undisturbed: dict[str, list[np.ndarray]],
    tmp_path: Path,
    point: str,
    blend: str,
) -> None:
    name = f"point-{list(POINTS).index(point)}-{blend}"
    killed = Predict(server, ws, model, name, blend, tmp_path, (POINTS[point],))
    killed.process.join(60)
    assert killed.process.exitcode == -signal.SIGKILL
    details = Predict(server, ws, model, name, blend, tmp_path, (None,)).details()
    assert details["error"] is None
    assert_as_undisturbed(ws, name, undisturbed[blend])
    assert verify_array(ws, "a", name) == []
    assert listed_labels(ws, "a") == ws.label_names("a")
    assert_written_once((tmp_path / "log").read_text().splitlines(), point)


@pytest.mark.slow
def test_sigkill_on_s3_ends_with_the_same_pixels(server: Any, bucket: Bucket, tmp_path: Path) -> None:
    """One mask killed at one point after the other, and one at random moments: the quick part of the above on S3."""
    ws = Workspace.open(bucket.uri, create=True)
    put_image(ws, "a", scene(1100, 700))
    model = unet_package(ws, channels=(8, 16)).model_id
    assert Predict(server, ws, model, "calm", "crop", tmp_path).details()["shards_written"] == 15
    expected = every_level(ws, "a", "calm")
    points: tuple[Point, ...] = (
        ("after", r"plan\.json$", 1),
        ("before", r"/shards/0/", 2),
        ("after", r"/shards/0/", 2),
        ("before", r"/shards/1/", 1),
        ("before", r"/2/c/", 1),
        ("before", r"finished\.json$", 1),
        ("after", r"finished\.json$", 1),
        ("after", r"labels/[^/]+/zarr\.json$", 1),
    )
    for point in points:
        killed = Predict(server, ws, model, "points", "crop", tmp_path, (point,))
        killed.process.join(60)
        assert killed.process.exitcode == -signal.SIGKILL, point
    assert Predict(server, ws, model, "points", "crop", tmp_path, (None,)).details()["error"] is None
    records = [key for key in (tmp_path / "log").read_text().splitlines() if "/shards/" in key]
    assert len(set(records)) == len(records) == 15 + 6 + 2
    rng = np.random.default_rng(0)
    assert killed_at_random(lambda: Predict(server, ws, model, "random", "crop", tmp_path), ws, "random", rng, 3) >= 2
    assert Predict(server, ws, model, "random", "crop", tmp_path).details()["error"] is None
    for name in ("points", "random"):
        assert_as_undisturbed(ws, name, expected)
    assert verify(ws) == []
    assert listed_labels(ws, "a") == ["calm", "points", "random"]


def assert_written_once(keys: list[str], point: str) -> None:
    """No record twice; no shard twice, but for the one that was killed before its record."""
    records = [key for key in keys if "/shards/" in key]
    assert len(set(records)) == len(records) > NUM_SHARDS
    shards = Counter(key for key in keys if "/c/" in key)
    twice = [key for key, count in shards.items() if count > 1]
    unrecorded = point in (
        "after a shard, before its record",
        "after a coarser shard, before its record",
        "mid-pyramid, after the shard",
    )
    assert len(twice) == unrecorded, twice


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
