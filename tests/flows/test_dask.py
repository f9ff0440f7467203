"""Dask: its workers do what children and threads of ours do, to the same pixels, and leave nothing behind."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image as Picture

from flows import dask
from flows.dask import Done, dask_crew, perform
from flows.functions import stage_function
from segcore.config import ExportConfig, IngestConfig, PredictConfig, ScoreConfig
from segcore.errors import ConfigError, SegcoreError
from segcore.isolation import Crew, Task
from segcore.progress import SILENT
from segcore.store import Workspace, verify
from tests.flows import dask_tasks
from tests.inference.scenes import every_level, scene, unet_package
from tests.inference.test_objects import reader
from tests.synthetic import put_image, put_label

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with dask_crew("LOCAL:2") as crew:
        yield crew


def test_outcomes_come_back_with_their_tasks_and_a_few_tasks_are_taken_ahead(crew: Crew) -> None:
    taken = 0

    def tasks() -> Iterator[Task]:
        nonlocal taken
        for number in range(30):
            taken += 1
            yield Task(dask_tasks.square, (number,), f"task {number}")

    beats: dict[str, int] = {}
    found = {}
    for back, outcome in enumerate(crew.run(tasks(), lambda task, n: beats.__setitem__(task.label, n)), start=1):
        assert taken - back < 2 * crew.processes
        found[outcome.task.args[0]] = outcome.result
    assert found == {number: number**2 for number in range(30)}
    assert beats == {f"task {number}": number for number in range(1, 30)}


@pytest.mark.parametrize(
    ("how", "line"), [("user", "a.tif: cut off"), ("ours", "image a: ZeroDivisionError: no line breaks")]
)
def test_an_error_is_one_line_of_its_task(crew: Crew, how: str, line: str) -> None:
    failed, fine = sorted(
        crew.run([Task(dask_tasks.fail, (how,), "image a"), Task(dask_tasks.square, (3,), "b")]),
        key=lambda outcome: outcome.task.label,
        reverse=True,
    )
    assert isinstance(failed.error, SegcoreError)
    assert str(failed.error) == line
    assert "dask_tasks.py" in (failed.traceback or "")
    assert (fine.error, fine.result) == (None, 9)


def test_a_dask_worker_that_dies_is_replaced_and_its_task_done_again(crew: Crew, tmp_path: Path) -> None:
    (outcome,) = crew.run([Task(dask_tasks.die_once, (str(tmp_path),), "image a")])
    assert outcome.error is None
    assert psutil.pid_exists(outcome.result)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to cores here")
def test_each_dask_worker_has_its_share_of_the_cores(crew: Crew) -> None:
    places = {outcome.result for outcome in crew.run(Task(dask_tasks.place, (), "p") for _ in range(8))}
    cores = sorted(os.sched_getaffinity(0))
    assert {own for _, own in places} <= {tuple(cores[0::2]), tuple(cores[1::2] or cores[:1])}
    assert len(places) <= 2


def test_another_version_of_segcore_is_refused() -> None:
    done = perform(Task(dask_tasks.square, (3,), "a"), None, "0.0.0")
    assert isinstance(done, Done)
    assert done.result is None
    assert "expected 0.0.0; install the same there" in str(done.error)


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "CONNECT_S", 1)
    with (
        pytest.raises(SegcoreError, match=r"dask: no scheduler answers at tcp://127\.0\.0\.1:1 "),
        dask_crew("tcp://127.0.0.1:1"),
    ):
        pass


@contextlib.contextmanager
def scheduler_elsewhere(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A scheduler that somebody else runs, with one dask worker: its process and its address."""
    file = folder / "scheduler.json"
    shared = (f"--scheduler-file={file}", "--no-dashboard")

    def started(command: str, *options: str) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-m", f"distributed.cli.{command}", *shared, *options]
        return subprocess.Popen(arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    scheduler, worker = (
        started("dask_scheduler", "--host=127.0.0.1", "--port=0"),
        started("dask_worker", "--nthreads=1"),
    )
    try:
        while not file.is_file() or not file.stat().st_size:
            time.sleep(0.05)
        yield scheduler, json.loads(file.read_text(encoding="utf-8"))["address"]
    finally:
        worker.terminate()  # its nanny ends it; killed, it would leave it behind
        worker.wait()
        scheduler.kill()
        scheduler.wait()


def test_a_scheduler_that_is_lost_in_mid_run_ends_the_stage_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask, "CONNECT_S", 10)
    with scheduler_elsewhere(tmp_path) as (scheduler, address):

        def tasks(last: int) -> Iterator[Task]:
            for number in range(20):
                if number == last:
                    scheduler.kill()
                yield Task(dask_tasks.square, (number,), f"task {number}")

        with pytest.raises(SegcoreError, match="the scheduler is gone; run it again"), dask_crew(address) as crew:
            list(crew.run(tasks(last=6)))


def test_dask_workers_in_another_folder_write_where_they_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ws = Workspace.open("w", create=True)
    put_image(ws, "a", scene(100, 90, 0))
    put_label(ws, "a", "m", np.ones((100, 90), np.uint8))
    with scheduler_elsewhere(tmp_path / "there") as (_, address):
        config = ExportConfig(workspace="w", model="m", output="files", format="png", dask=address)
        (item,) = stage_function("export")(config, SILENT).items
    assert (item.state, item.error) == ("done", None)
    assert _contents(tmp_path / "here" / "files") == {"a.png": np.ones((100, 90)).tolist()}


@pytest.mark.parametrize("where", ["LOCAL", "LOCAL:0", "local:-1", "127.0.0.1:8786", ""])
def test_what_is_no_place_is_refused(where: str) -> None:
    with pytest.raises(ValueError, match="dask"):
        IngestConfig(workspace="w", dask=where)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"segcore\[dask\]"), dask_crew("LOCAL:1"):
        pass


@pytest.mark.slow
def test_stages_on_dask_workers_give_the_same_and_leave_no_process(tmp_path: Path) -> None:
    for number in range(3):
        Picture.fromarray(scene(700, 600, number).transpose(1, 2, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:2000])
    before = set(psutil.Process().children(recursive=True))
    levels: dict[str | None, Any] = {}
    for where in (None, "LOCAL:2"):
        ws = Workspace.open(str(tmp_path / f"ws-{where}".replace(":", "")), create=True)
        shared = {"workspace": ws.uri, "shard_px": 256, "dask": where}
        ingested = stage_function("ingest")(IngestConfig(sources=(str(tmp_path / "*.png"),), **shared), SILENT)
        assert sorted(item.state for item in ingested.items) == ["done", "done", "done", "failed"]
        assert "broken.png" in str(next(item.error for item in ingested.items if item.error))
        model = unet_package(ws, channels=(4, 8)).model_id
        shared["precision"] = "float32"  # `auto` is measured, once a workspace
        predicted = stage_function("predict")(PredictConfig(model=model, name="m", **shared), SILENT)
        assert [item.state for item in predicted.items] == ["done"] * 3
        apart = stage_function("predict")(PredictConfig(model=reader(ws).model_id, name="o", **shared), SILENT)
        assert [item.state for item in apart.items] == ["done"] * 3
        assert apart.details["objects"] > 10
        of_mask = {"workspace": ws.uri, "dask": where, "model": "m"}
        scored = stage_function("score")(ScoreConfig(**of_mask), SILENT)
        assert [item.details.pop("reused") for item in scored.items] == [where is not None] * 3
        files = tmp_path / f"files-{len(levels)}"
        exported = stage_function("export")(ExportConfig(**of_mask, output=str(files), format="png"), SILENT)
        assert [item.state for item in exported.items] == ["done"] * 3
        assert list(verify(ws)) == []
        images = [ws.image(image_id) for image_id in ws.image_ids()]
        told = [image.digest for image in images], [item.details for item in scored.items], _contents(files)
        names = ("m", "o_instances")
        levels[where] = told, [every_level(ws, image.image_id, name) for image in images for name in names]
    assert levels[None][0] == levels["LOCAL:2"][0]
    for alone, spread in zip(levels[None][1], levels["LOCAL:2"][1], strict=True):
        assert all((mine == theirs).all() for mine, theirs in zip(alone, spread, strict=True))
    deadline = time.monotonic() + 20
    while (left := _started_since(before)) and time.monotonic() < deadline:
        time.sleep(0.1)  # one that was killed takes a moment to be gone
    assert left == []


def _contents(folder: Path) -> dict[str, Any]:
    return {path.name: np.asarray(Picture.open(path)).tolist() for path in folder.glob("*.png")}


def _started_since(before: set[psutil.Process]) -> list[str]:
    """Command lines of processes below this one, but Python's own tracker and the children that all tests share."""
    commands = []
    for process in set(psutil.Process().children(recursive=True)) - before:
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            is_shared = "isolation_child" in command and process.ppid() == os.getpid()
            commands += [] if is_shared or "resource_tracker" in command else [command]
    return commands
