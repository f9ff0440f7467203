"""The kinds of place that a workspace can lie in; every store test runs on each."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from segcore.store import Workspace


@pytest.fixture(scope="session")
def s3_prefix() -> Iterator[str]:
    """A bucket on moto's S3 server, reached through the environment as any S3 is."""
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="segcore-tests")
    yield "s3://segcore-tests"
    server.stop()
    for key, value in before.items():
        if value is None:
            del os.environ[key]
        else:
            os.environ[key] = value


@pytest.fixture(params=["local", "memory", "s3"])
def workspace_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "workspace")
    if request.param == "memory":
        return f"memory://{uuid.uuid4()}"
    prefix: str = request.getfixturevalue("s3_prefix")
    return f"{prefix}/{uuid.uuid4()}"


@pytest.fixture
def workspace(workspace_uri: str) -> Workspace:
    return Workspace.open(workspace_uri, create=True)


@pytest.fixture
def local_workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "local"), create=True)
