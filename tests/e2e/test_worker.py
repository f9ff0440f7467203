"""Worker: `segcore deploy`, a Prefect worker, a night that it runs, and what a person reads of it in the morning."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image as Picture
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.events import emit_event
from prefect.events.schemas.automations import EventTrigger
from prefect.states import Running

from flows.automations import PORTION_TAG, TAG, automations
from segcore.champion import promote
from segcore.store import Workspace
from tests.chromium import chromium
from tests.e2e.conftest import Environ, called, ended
from tests.inference.scenes import unet_package

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PREDICT = {"device": "cpu", "precision": "float32", "tile_px": 64, "tile_workers": 1, "shard_px": 256}


class Runs(NamedTuple):
    """Three that one worker took."""

    good: FlowRun
    partly: FlowRun
    """One of its sources is no image."""
    greedy: FlowRun
    """It wants to read what it may not."""


@pytest.fixture(scope="module")
def runs(environ: Environ, client: SyncPrefectClient) -> Runs:
    inside, uri = Path(environ["SEGCORE_SOURCE_ROOTS"]), environ["SEGCORE_WORKSPACE_ROOTS"]
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
        "predict": PREDICT,
    }
    nightly, ingest = (client.read_deployment_by_name(f"{name}/{name}").id for name in ("nightly", "ingest"))

    def run(deployment: Any, **config: Any) -> FlowRun:
        begun = client.create_flow_run_from_deployment(deployment, parameters={"config": config})
        called(environ, "prefect", "worker", "start", "--pool", "segcore", "--type", "process", "--run-once")
        return ended(client, begun)

    good = run(nightly, **night)
    (inside / "broken.png").write_bytes(b"no image")
    return Runs(good, run(nightly, **night), run(ingest, workspace=uri, sources=["/etc"]))


def test_a_night_that_a_worker_runs(runs: Runs, environ: Environ, client: SyncPrefectClient) -> None:
    state = runs.good.state
    assert state is not None
    assert (state.name, state.message) == ("Completed", "report: all done")
    assert "mueller" not in runs.good.name
    assert runs.good.tags == ["segcore"]
    assert artifacts(client, runs.good).keys() >= {
        *("nightly-images", "nightly-summary"),
        *("progress-ingest", "progress-predict"),
    }
    assert len(list(Path(environ["SEGCORE_WORKSPACE_ROOTS"], "files", "png").glob("*.png"))) == 1


def artifacts(client: SyncPrefectClient, run: FlowRun) -> dict[str, Any]:
    """Ids of what a run shows, by key."""
    of_the_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
    return {str(artifact.key): artifact.id for artifact in client.read_artifacts(artifact_filter=of_the_run)}


def test_a_run_that_asks_for_too_much(runs: Runs) -> None:
    state = runs.greedy.state
    assert state is not None
    assert state.name == "Failed"
    assert str(state.message).startswith("sources /etc: lies outside what this deployment may read")


def test_what_a_person_reads_in_the_morning(
    runs: Runs, environ: Environ, client: SyncPrefectClient, tmp_path: Path
) -> None:
    """Prefect's pages in a browser: how each run ended and why, what became of each image, where the report is."""
    found, pages = artifacts(client, runs.partly), environ["PREFECT_API_URL"].removesuffix("/api")
    with chromium(tmp_path) as page:
        page.show(1280, 1400)

        def shows(path: str, *texts: str) -> None:
            page.open(f"{pages}/{path}", "document.readyState === 'complete'")
            for text in texts:
                page.wait(f"document.body.innerText.includes({text!r})")

        shows(f"runs/flow-run/{runs.good.id}", runs.good.name, "Completed", "predict", "segcore")
        shows(f"runs/flow-run/{runs.partly.id}", "PartlyDone", "broken.png")
        shows(f"runs/flow-run/{runs.greedy.id}", "Failed", "lies outside what this deployment may read")
        shows(f"artifacts/artifact/{found['nightly-images']}", "ingest", "predict", "failed", "skipped")
        shows(f"artifacts/artifact/{found['nightly-summary']}", "report.html", "broken.png")
        shows("artifacts/key/nightly-images", runs.good.name, runs.partly.name)
        shows("runs", runs.good.name, runs.partly.name)


def test_a_run_that_falls_silent_is_marked_as_crashed(environ: Environ, client: SyncPrefectClient) -> None:
    from flows.retrain import retrain

    crashed = next(each for each in automations(client.create_flow(retrain), 30, None) if "crashed" in each.name)
    trigger: Any = crashed.trigger
    assert isinstance(trigger, EventTrigger)
    soon = trigger.model_copy(update={"within": timedelta(seconds=10)})
    client.create_automation(crashed.model_copy(update={"name": "soon", "trigger": soon}))
    silent, of_a_night, alive, foreign = (
        client.create_flow_run(retrain, parameters={"config": {}}, state=Running(), tags=tags)
        for tags in ([TAG], [PORTION_TAG], [TAG], ["theirs"])
    )
    for beat in range(12):
        for run in [alive] if beat else [silent, of_a_night, alive, foreign]:
            tags = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in run.tags]
            resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
            emit_event("prefect.flow-run.heartbeat", resource, related=tags)
        time.sleep(3)
    for run in (silent, of_a_night):
        found = client.read_flow_run(run.id)
        assert found.state is not None
        assert found.state.name == "Crashed"
        assert "no heartbeat for 90 s" in str(found.state.message)
    for run in (alive, foreign):  # the second one's deployment may beat more slowly than ours
        still = client.read_flow_run(run.id)
        assert still.state is not None
        assert still.state.name == "Running"
