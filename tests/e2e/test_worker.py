"""Worker: a server with all its services, `segcore deploy`, a real Prefect worker, and a night that it runs."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.events import emit_event
from prefect.events.schemas.automations import EventTrigger
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running

from flows.automations import TAG, automations
from flows.server import TemporaryServer
from segcore.champion import promote
from segcore.store import Workspace
from tests.inference.scenes import unet_package

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of a worker and its server."""
    home = tmp_path_factory.mktemp("served")
    server = TemporaryServer(home / "prefect", pages=True)
    server.wait()
    yield {
        **os.environ,
        "PREFECT_API_URL": server.url,
        "PREFECT_HOME": str(home / "worker"),
        "SEGCORE_SOURCE_ROOTS": str(home / "in"),
        "SEGCORE_WORKSPACE_ROOTS": str(home / "w"),
        "SEGCORE_HOME": str(Path(__file__).parents[2]),
    }
    server.stop()


@pytest.fixture
def client(environ: dict[str, str]) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: environ["PREFECT_API_URL"]}), get_client(sync_client=True) as found:
        yield found


def called(environ: dict[str, str], *command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_night_that_a_worker_runs_and_one_that_asks_for_too_much(
    environ: dict[str, str], client: SyncPrefectClient
) -> None:
    inside, uri = Path(environ["SEGCORE_SOURCE_ROOTS"]), environ["SEGCORE_WORKSPACE_ROOTS"]
    inside.mkdir()
    Picture.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)).save(inside / "mueller.png")
    workspace = Workspace.open(uri, create=True)
    promote(workspace, unet_package(workspace).model_id)
    called(environ, "flows", "deploy")
    night = {
        "workspace": uri,
        "sources": [str(inside)],
        "exports": ["png"],
        "export_folder": f"{uri}/files",
        "ingest": {"processes": 1, "ids": "hash"},
        "predict": {"device": "cpu", "precision": "float32", "tile_px": 64, "tile_workers": 1, "shard_px": 256},
    }
    nightly, ingest = (client.read_deployment_by_name(f"{name}/{name}").id for name in ("nightly", "ingest"))
    good = client.create_flow_run_from_deployment(nightly, parameters={"config": night})
    greedy = client.create_flow_run_from_deployment(
        ingest, parameters={"config": {"workspace": uri, "sources": ["/etc"]}}
    )
    called(environ, "prefect", "worker", "start", "--pool", "segcore", "--type", "process", "--run-once")
    good, greedy = ended(client, good), ended(client, greedy)
    assert good.state is not None
    assert (good.state.name, good.state.message) == ("Completed", "report: all done")
    assert "mueller" not in good.name
    assert good.tags == ["segcore"]
    of_the_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[good.id]))
    keys = {artifact.key for artifact in client.read_artifacts(artifact_filter=of_the_run)}
    assert keys >= {"nightly-images", "nightly-summary", "progress-ingest", "progress-predict"}
    assert len(list(Path(uri, "files", "png").glob("*.png"))) == 1
    assert greedy.state is not None
    assert greedy.state.name == "Failed"
    assert str(greedy.state.message).startswith("sources /etc: lies outside what this deployment may read")


def ended(client: SyncPrefectClient, run: FlowRun) -> FlowRun:
    """The run, when it has ended."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        found = client.read_flow_run(run.id)
        if found.state is not None and found.state.is_final():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{run.name} has not ended")


def test_a_run_that_falls_silent_is_marked_as_crashed(environ: dict[str, str], client: SyncPrefectClient) -> None:
    from flows.retrain import retrain

    crashed = next(each for each in automations(client.create_flow(retrain), 30, None) if "crashed" in each.name)
    trigger: Any = crashed.trigger
    assert isinstance(trigger, EventTrigger)
    soon = trigger.model_copy(update={"within": timedelta(seconds=10)})
    client.create_automation(crashed.model_copy(update={"name": "soon", "trigger": soon}))
    silent, alive, foreign = (
        client.create_flow_run(retrain, parameters={"config": {}}, state=Running(), tags=tags)
        for tags in ([TAG], [TAG], ["theirs"])
    )
    for beat in range(12):
        for run in [alive] if beat else [silent, alive, foreign]:
            tags = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in run.tags]
            resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
            emit_event("prefect.flow-run.heartbeat", resource, related=tags)
        time.sleep(3)
    found = client.read_flow_run(silent.id)
    assert found.state is not None
    assert found.state.name == "Crashed"
    assert "no heartbeat for 90 s" in str(found.state.message)
    for run in (alive, foreign):  # the second one's deployment may beat more slowly than ours
        still = client.read_flow_run(run.id)
        assert still.state is not None
        assert still.state.name == "Running"
