"""The kinds of place that a workspace can lie in; every store test runs on each, on S3 as a slow one."""

import uuid
from pathlib import Path

import pytest

from segcore.store import Workspace
from tests.conftest import Bucket


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def workspace_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "workspace")
    if request.param == "memory":
        return f"memory://{uuid.uuid4()}"
    bucket: Bucket = request.getfixturevalue("bucket")
    return f"{bucket.uri}/workspace"


@pytest.fixture
def workspace(workspace_uri: str) -> Workspace:
    return Workspace.open(workspace_uri, create=True)


@pytest.fixture
def local_workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "local"), create=True)
