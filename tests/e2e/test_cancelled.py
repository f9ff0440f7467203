"""A run that is cancelled ends soon, with all that computes for it; one whose worker is killed goes on to its end."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from segcore.store import Workspace, verify
from tests.e2e.conftest import Environ, called, ended, engine_of, wait, worker
from tests.faults.test_server import finished
from tests.inference.scenes import scene, unet_package
from tests.synthetic import put_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CHILDREN_S, ALL_S = 5.0, 45.0
LARGE_PX, SMALL_PX = 5120, 1536
PREDICT = {"device": "cpu", "precision": "float32", "tile_px": 256, "tile_workers": 1, "shard_px": 256, "halo": 64}
SPREAD = {"dask": "LOCAL:2"}
Family = list[psutil.Process]


@pytest.fixture(scope="module")
def workspace(environ: Environ) -> Workspace:
    """Two images, the first of which nobody waits for, and the deployments that work on them."""
    found = Workspace.open(environ["SEGCORE_WORKSPACE_ROOTS"], create=True)
    for image_id, size_px in (("large", LARGE_PX), ("small", SMALL_PX)):
        put_image(found, image_id, scene(size_px, size_px))
    called(environ, "flows", "deploy")
    return found


def begun(client: SyncPrefectClient, ws: Workspace, image: str, **more: Any) -> FlowRun:
    config = {"workspace": ws.uri, "model": unet_package(ws).model_id, "name": "m", "images": [image], **PREDICT}
    predict = client.read_deployment_by_name("predict/predict").id
    return client.create_flow_run_from_deployment(predict, parameters={"config": config | more})


@contextmanager
def at_work(environ: Environ, ws: Workspace, image: str) -> Iterator[tuple["subprocess.Popen[bytes]", Family]]:
    """A worker for one run, and the run's engine and what computes for it, once a few shards are finished.

    Whatever a test finds, all are over at its end.
    """
    before, process, family = finished(ws, image), worker(environ, "--run-once"), Family()
    try:
        family.append(engine_of(process.pid))
        wait(lambda: finished(ws, image) >= before + 4, "no shard is finished", 240)
        children = family[0].children(recursive=True)  # Python's tracker of resources ends with the engine itself
        family += (child for child in children if "resource_tracker" not in " ".join(child.cmdline()))
        yield process, family
    finally:
        process.kill()
        process.wait()
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def state_of(client: SyncPrefectClient, run: FlowRun) -> tuple[str, str | None]:
    state = ended(client, run).state
    assert state is not None
    return state.name or "", state.message


def test_sigterm_leaves_nothing(environ: Environ, client: SyncPrefectClient, workspace: Workspace) -> None:
    run = begun(client, workspace, "large", **SPREAD)
    with at_work(environ, workspace, "large") as (process, (engine, *children)):
        assert len(children) >= 2
        engine.send_signal(signal.SIGTERM)
        assert psutil.wait_procs(children, CHILDREN_S)[1] == []
        assert psutil.wait_procs([engine], ALL_S - CHILDREN_S)[1] == []
        assert state_of(client, run)[0] == "Crashed"
        assert process.wait(60) == 0


def test_cancelled_as_the_pages_do(environ: Environ, client: SyncPrefectClient, workspace: Workspace) -> None:
    run = begun(client, workspace, "large")
    with at_work(environ, workspace, "large") as (process, everyone):
        client.set_flow_run_state(run.id, Cancelling())
        assert psutil.wait_procs(everyone, ALL_S)[1] == []
        assert state_of(client, run)[0] == "Cancelled"
        assert process.wait(60) == 0
    assert {problem.part for problem in verify(workspace)} <= {"unfinished"}


def test_sigkill_of_the_worker(environ: Environ, client: SyncPrefectClient, workspace: Workspace) -> None:
    run = begun(client, workspace, "small", **SPREAD)
    with at_work(environ, workspace, "small") as (process, everyone):
        process.kill()
        process.wait()
        assert state_of(client, run) == ("Completed", "predict: all done")
        assert psutil.wait_procs(everyone, ALL_S)[1] == []
    assert [problem for problem in verify(workspace) if problem.image == "small"] == []
