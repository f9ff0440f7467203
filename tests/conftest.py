"""What all tests share: a private Prefect home, an S3 server, and a line that says how much was skipped for no data."""

import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from segcore.isolation import ChildPool

# Before anything imports prefect: no test touches the user's own runs, or calls home.
_HOME = tempfile.TemporaryDirectory(prefix="segcore-prefect-")
os.environ["PREFECT_HOME"] = _HOME.name
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ.pop("PREFECT_API_URL", None)
# Several test runs share a machine's cores; torch and BLAS would each take all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

NO_DATA = "SEGCORE_DATA"
S3_ENVIRON = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


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


@contextmanager
def new_bucket(server: str) -> Iterator[Bucket]:
    import boto3
    import fsspec

    filesystem = fsspec.get_filesystem_class("s3")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in S3_ENVIRON.items():
            patch.setenv(key, value)
        patch.setenv("AWS_ENDPOINT_URL", server)
        client = boto3.client("s3", region_name="us-east-1")
        name = f"segcore-{uuid.uuid4()}"
        client.create_bucket(Bucket=name, ACL="public-read")
        filesystem.clear_instance_cache()  # it keeps servers of tests before
        yield Bucket(name, f"{server}/{name}", client)
        filesystem.clear_instance_cache()
        client.close()


@pytest.fixture
def bucket(s3_server: str) -> Iterator[Bucket]:
    """A new bucket; reached through the environment, as any S3 is."""
    with new_bucket(s3_server) as made:
        yield made


@pytest.fixture(scope="module")
def module_bucket(s3_server: str) -> Iterator[Bucket]:
    """One that all tests of a module share."""
    with new_bucket(s3_server) as made:
        yield made


class KeptPool(ChildPool):
    """Its children stay when it is left, but for those that are at work."""

    def __exit__(self, *_: object) -> None:
        for child in self._busy.values():
            child.kill()
        self._busy.clear()


@pytest.fixture(scope="session", autouse=True)
def children_kept() -> Iterator[None]:
    """The children of one ingest serve the next: a second of imports for each of some hundred runs.

    How a pool starts and ends its children is shown in test_isolation.py.
    """
    from segcore.export import dicom_headers
    from segcore.ingest import run

    pools: dict[Any, KeptPool] = {}

    def kept(processes: int, memory_mib: int = 1024) -> KeptPool:
        environ = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
        what = (processes, memory_mib, Path.cwd(), tuple(sys.path), tuple(sorted(environ.items())))
        if what not in pools:
            pools[what] = KeptPool(processes, memory_mib)
        return pools[what]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "ChildPool", kept)
        patch.setattr(dicom_headers, "ChildPool", kept)
        yield
    for pool in pools.values():
        pool.close()


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


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NO_DATA in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests were skipped for lack of real images (set {NO_DATA})")
