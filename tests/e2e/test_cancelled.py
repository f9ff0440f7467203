"""A run that is cancelled ends soon, with all that computes for it; one whose worker is killed goes on to its end."""

import signal
import subprocess
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from segcore.store import Workspace, verify
from segcore.store.plan import latest_plan
from tests.e2e.conftest import Environ, called, ended, engine_of, wait, worker
from tests.inference.scenes import scene, unet_package
from tests.synthetic import put_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CHILDREN_S, ALL_S = 5.0, 45.0
LARGE_PX, SMALL_PX = 6144, 1536
PREDICT = {"device": "cpu", "precision": "float32", "tile_px": 256, "tile_workers": 1, "shard_px": 256, "halo": 64}
SPREAD = {"dask": "LOCAL:2"}
NAME = "m"


@pytest.fixture(scope="module")
def workspace(environ: Environ) -> Workspace:
    """Two images, the first of which nobody waits for, and the deployments that work on them."""
    found = Workspace.open(environ["SEGCORE_WORKSPACE_ROOTS"], create=True)
    for image_id, size_px in (("large", LARGE_PX), ("small", SMALL_PX)):
        put_image(found, image_id, scene(size_px, size_px))
    called(environ, "flows", "deploy")
    return found


def begun(client: SyncPrefectClient, ws: Workspace, image: str, **more: Any) -> FlowRun:
    config = {"workspace": ws.uri, "model": unet_package(ws).model_id, "name": NAME, "images": [image], **PREDICT}
    predict = client.read_deployment_by_name("predict/predict").id
    return client.create_flow_run_from_deployment(predict, parameters={"config": config | more})


def at_work(ws: Workspace, process: "subprocess.Popen[bytes]", image: str) -> list[psutil.Process]:
    """The engine of a run that has finished a few shards, then its children."""

    def finished() -> int:
        plan = latest_plan(ws.objects, image, NAME)
        return 0 if plan is None else len(list(plan.recorded()))

    before, engine = finished(), engine_of(process.pid)
    wait(lambda: finished() >= before + 4, "no shard is finished", 240)
    return [engine, *engine.children(recursive=True)]


def state_of(client: SyncPrefectClient, run: FlowRun) -> str:
    return str(ended(client, run).state_name)


@pytest.mark.parametrize("spread", [{}, SPREAD], ids=["one process", "dask"])
def test_sigterm_leaves_nothing(environ: Environ, client: SyncPrefectClient, workspace: Workspace, spread: Any) -> None:
    run, process = begun(client, workspace, "large", **spread), worker(environ, "--run-once")
    engine, *children = at_work(workspace, process, "large")
    assert bool(children) == bool(spread)
    engine.send_signal(signal.SIGTERM)
    assert psutil.wait_procs(children, CHILDREN_S)[1] == []
    assert psutil.wait_procs([engine], ALL_S - CHILDREN_S)[1] == []
    assert state_of(client, run) == "Crashed"
    assert process.wait(60) == 0


def test_cancelled_as_the_pages_do(environ: Environ, client: SyncPrefectClient, workspace: Workspace) -> None:
    run, process = begun(client, workspace, "large", **SPREAD), worker(environ, "--run-once")
    everyone = at_work(workspace, process, "large")
    client.set_flow_run_state(run.id, Cancelling())
    assert psutil.wait_procs(everyone, ALL_S)[1] == []
    assert state_of(client, run) == "Cancelled"
    assert process.wait(60) == 0
    assert {problem.part for problem in verify(workspace)} <= {"unfinished"}


def test_sigkill_of_the_worker(environ: Environ, client: SyncPrefectClient, workspace: Workspace) -> None:
    run, process = begun(client, workspace, "small", **SPREAD), worker(environ, "--run-once")
    everyone = at_work(workspace, process, "small")
    process.kill()
    process.wait()
    found = ended(client, run).state
    assert found is not None
    assert (found.name, found.message) == ("Completed", "predict: all done")
    assert psutil.wait_procs(everyone, ALL_S)[1] == []
    assert [problem for problem in verify(workspace) if problem.image == "small"] == []
