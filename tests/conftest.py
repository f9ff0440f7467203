"""What all tests share: a private Prefect home, an S3 server, and a line that says how much was skipped for no data."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Before anything imports prefect: no test touches the user's own runs, or calls home.
_HOME = tempfile.TemporaryDirectory(prefix="segcore-prefect-")
os.environ["PREFECT_HOME"] = _HOME.name
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ.pop("PREFECT_API_URL", None)
# Several test runs share a machine's cores; torch and BLAS would each take all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

NO_DATA = "SEGCORE_DATA"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real images that SEGCORE_DATA names; `../shared/data` by default."""
    default = Path(__file__).parents[2] / "shared" / "data"
    found = Path(os.environ.get("SEGCORE_DATA", default))
    if not found.is_dir():
        pytest.skip(f"{NO_DATA}: no folder of real images at {found}")
    return found


@dataclass(frozen=True)
class Bucket:
    """A bucket of its own on the S3 server, which anybody may read."""

    name: str
    address: str
    """Of the bucket, as a web server has it."""
    client: Any
    """boto3's."""

    @property
    def uri(self) -> str:
        return f"s3://{self.name}"

    def put(self, path: Path, key: str) -> None:
        """Put a file, or all files of a folder, below a key."""
        for found in [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]:
            below = "" if found == path else f"/{found.relative_to(path)}"
            self.client.put_object(Bucket=self.name, Key=f"{key}{below}", Body=found.read_bytes(), ACL="public-read")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of moto's S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A new bucket; reached through the environment, as any S3 is."""
    import boto3
    import fsspec

    settings = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    client = boto3.client("s3", region_name="us-east-1")
    name = f"segcore-{uuid.uuid4()}"
    client.create_bucket(Bucket=name, ACL="public-read")
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # it keeps servers of tests before
    yield Bucket(name, f"{s3_server}/{name}", client)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    client.close()


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One temporary Prefect server for all flow tests; started only where a test asks for it."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    # Without the heartbeat each flow ends a second earlier.
    with (
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


@pytest.fixture(scope="session")
def s3_prefix() -> Iterator[str]:
    """A bucket on moto's S3 server, reached through the environment as any S3 is."""
    import boto3
    from moto.server import ThreadedMotoServer

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


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NO_DATA in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests were skipped for lack of real images (set {NO_DATA})")
