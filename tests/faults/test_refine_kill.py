"""Promise 1 for refined masks and their objects: killed at any object that is written, they end as if nobody had."""

import multiprocessing
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from segcore.store import Workspace, verify
from tests.faults.refine_once import measure_until, refine_until
from tests.refine.made import put_mask, whole
from tests.refine.whole import blobs

SHAPE = (300, 560)
ASKED = {"open": "1", "fill_holes": "60", "min_size": "40", "objects": True}
NUM_CELLS = 6
NUM_RULES = 2
POINTS = (
    ("after", r"n/0/plan\.json$", 1),
    ("after", r"n/0/fragments/0/", 3),
    ("before", r"n/0/fragments/1/", 2),
    ("before", r"n/0/c/", 1),
    ("after", r"n/0/shards/0/", 4),
    ("before", r"n/0/finished\.json$", 1),
    ("after", r"n/0/finished\.json$", 1),
    ("after", r"n_instances/0/fragments/", 2),
    ("after", r"n_instances/0/shards/0/", 2),
    ("after", r"labels/n_instances/zarr\.json$", 1),
)


def test_sigkill_ends_with_the_same_mask_and_objects(tmp_path: Path) -> None:
    """One mask, killed at one point after the other; nothing is made twice."""
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    put_mask(ws, blobs(SHAPE, 2), 2)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.faults.refine_once"])
    log = tmp_path / "log"
    for name, points in (("calm", (None,)), ("n", (*POINTS, None))):
        for point in points:
            settings = {"workspace": ws.uri, "model": "m", "name": name, **ASKED}
            process = server.Process(target=refine_until, args=(settings, str(log), point))
            process.start()
            process.join(120)
            assert process.exitcode == (0 if point is None else -signal.SIGKILL), point
    for label in ("", "_instances"):
        for level in range(ws.label("a", "n").num_levels):
            np.testing.assert_array_equal(whole(ws, f"n{label}", level), whole(ws, f"calm{label}", level))
    keys = log.read_text().splitlines()
    for label, num_passes in (("n", NUM_RULES), ("n_instances", 1)):
        records = [key for key in keys if f"/{label}/0/shards/0/" in key]
        kept = [key for key in keys if f"/{label}/0/fragments/" in key]
        assert len(set(records)) == len(records) == NUM_CELLS
        assert len(set(kept)) == len(kept) == NUM_CELLS * num_passes
        assert list(ws.objects.list(f"state/a/{label}/0/fragments")) == []
    assert verify(ws) == []


def test_a_killed_measure_goes_on_with_the_next_image(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    for seed, image_id in enumerate("ab"):
        put_mask(ws, blobs((60, 90), 2, seed), 2, image_id=image_id)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.faults.refine_once"])
    log = tmp_path / "log"
    for point in (("after", r"state/a/m/measure", 1), ("before", r"objects\.parquet$", 1), None):
        process = server.Process(
            target=measure_until, args=({"workspace": ws.uri, "model": "m", "run": "r"}, str(log), point)
        )
        process.start()
        process.join(120)
        assert process.exitcode == (0 if point is None else -signal.SIGKILL), point
    tables = ["reports/r/objects.csv", "reports/r/objects.csv", "reports/r/objects.parquet"]
    assert log.read_text().splitlines() == [*(f"state/{name}/m/measure.parquet" for name in "ab"), *tables]
    table = pq.read_table(f"{ws.uri}/reports/r/objects.parquet")
    for image_id in "ab":
        own = [row["area_px"] for row in table.to_pylist() if row["image"] == image_id]
        ids = whole(ws, "m_instances", image_id=image_id)
        assert own == np.bincount(ids.ravel())[1:].tolist()
