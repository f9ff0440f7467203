"""A night that is spread over workers: its masks are those of one process, also where a run is killed on the way."""

import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun, StateType

from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.store import Workspace
from tests.e2e.conftest import Environ, called, ended, engine_of, wait, worker
from tests.e2e.test_worker import PREDICT
from tests.inference.scenes import mask_of, unet_package

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
NUM_IMAGES = 5


def test_a_night_over_several_workers_survives_the_death_of_a_run(environ: Environ, client: SyncPrefectClient) -> None:
    inside, uri = Path(environ["SEGCORE_SOURCE_ROOTS"]), environ["SEGCORE_WORKSPACE_ROOTS"]
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 70, 90, 3), np.uint8)):
        Picture.fromarray(pixels).save(inside / f"{number}.png")
    model = unet_package(Workspace.open(uri, create=True)).model_id
    called(environ, "flows", "deploy", "--gpu-stages", "2")
    night = {"workspace": uri, "model": model, "sources": [str(inside)], "max_images_in_flight": 2, "predict": PREDICT}
    nightly = client.read_deployment_by_name("nightly/nightly").id
    begun = client.create_flow_run_from_deployment(nightly, parameters={"config": night})
    workers = [worker(environ, "--work-queue", "default", "--limit", "1")]
    try:
        wait(lambda: len(portions(client)) == 2, "no portion was asked for")
        assert {run.state_type for run in portions(client)} == {StateType.SCHEDULED}  # the night's worker takes none
        workers.append(worker(environ, "--work-queue", "portions", "--limit", "2"))
        engine_of(workers[1].pid).kill()
        run = ended(client, begun)
    finally:
        for each in workers:
            each.send_signal(signal.SIGINT)
        for each in workers:
            each.wait(60)
    assert run.state is not None
    assert (run.state.name, run.state.message) == ("Completed", "report: all done")
    states = [each.state_type for each in portions(client)]
    assert states.count(StateType.COMPLETED) == NUM_IMAGES
    assert states.count(StateType.CRASHED) == 1
    workspace = Workspace.open(uri)
    predict(PredictConfig.model_validate({"workspace": uri, "model": model, "name": "alone", **PREDICT}))
    for image_id in workspace.image_ids():
        np.testing.assert_array_equal(mask_of(workspace, image_id, model), mask_of(workspace, image_id, "alone"))
    assert list(workspace.objects.list("nights/portions")) == []


def portions(client: SyncPrefectClient) -> list[FlowRun]:
    return client.read_flow_runs(deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=["portion"])))
