"""Promise 1 for objects: killed in either pass, at any object that is written, they end as if nobody had."""

import multiprocessing
import signal
from pathlib import Path

import numpy as np
import pytest

from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.store import Workspace, verify
from tests.faults.predict_once import predict_until
from tests.inference.scenes import every_level
from tests.inference.test_objects import crowd, reader
from tests.synthetic import put_image

NUM_SHARDS = 15
OWN = "m_instances"
POINTS = (
    ("before", rf"{OWN}/0/plan\.json$", 1),
    ("after", rf"{OWN}/0/plan\.json$", 1),
    ("after", rf"{OWN}/0/fragments/", 4),
    ("before", rf"{OWN}/0/fragments/", NUM_SHARDS // 2),  # other threads may have written more than the four
    ("before", rf"{OWN}/0/c/", 1),
    ("after", rf"{OWN}/0/c/", 1),
    ("after", rf"{OWN}/0/shards/0/", 6),
    ("before", rf"{OWN}/1/c/", 1),
    ("before", rf"{OWN}/0/finished\.json$", 1),
    ("after", rf"{OWN}/0/finished\.json$", 1),
    ("after", rf"labels/{OWN}/zarr\.json$", 1),
)


@pytest.mark.slow
def test_sigkill_in_either_pass_ends_with_the_same_objects(tmp_path: Path) -> None:
    """One label, killed at one point after the other; no shard is recorded twice."""
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    put_image(ws, "a", crowd())
    settings = {"workspace": ws.uri, "model": reader(ws).model_id, "shard_px": 256, "precision": "float32"}
    predict(PredictConfig(**settings, name="calm"))  # type: ignore[arg-type]
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.faults.predict_once"])
    log, answer = tmp_path / "log", str(tmp_path / "answer.json")
    for point in (*POINTS, None):
        process = server.Process(
            target=predict_until, args=({**settings, "name": "m", "images": ("a",)}, answer, {}, str(log), point)
        )
        process.start()
        process.join(120)
        assert process.exitcode == (0 if point is None else -signal.SIGKILL), point
    for found, expected in zip(every_level(ws, "a", OWN), every_level(ws, "a", "calm_instances"), strict=True):
        np.testing.assert_array_equal(found, expected)
    keys = [key for key in log.read_text().splitlines() if OWN in key]
    records = [key for key in keys if "/shards/" in key]
    assert len(set(records)) == len(records) == NUM_SHARDS + 6 + 2
    fragments = [key for key in keys if "/fragments/" in key]
    assert len(set(fragments)) == len(fragments) == NUM_SHARDS
    assert list(ws.objects.list(f"state/a/{OWN}/0/fragments")) == []
    assert verify(ws) == []
