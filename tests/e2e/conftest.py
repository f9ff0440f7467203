"""A server with all its services and pages, deployments and workers: real processes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.server import TemporaryServer, free_port

Environ = dict[str, str]


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environ]:
    """Of a worker and its server; its roots are a folder of sources, which is there, and a workspace, which is not."""
    home = tmp_path_factory.mktemp("served")
    (home / "in").mkdir()
    with pytest.MonkeyPatch.context() as patched:  # another test's server may be about to take the usual port
        patched.setattr("flows.server.USUAL_PORT", free_port())
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


@pytest.fixture(scope="module")
def client(environ: Environ) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: environ["PREFECT_API_URL"]}), get_client(sync_client=True) as found:
        yield found


def called(environ: Environ, *command: str) -> None:
    """Run a module to its end."""
    done = subprocess.run([sys.executable, "-m", *command], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def worker(environ: Environ, *options: str) -> "subprocess.Popen[bytes]":
    """A Prefect worker of our pool, which its caller ends."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "segcore", "--type", "process", *options]
    return subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ended(client: SyncPrefectClient, run: FlowRun, limit_s: float = 600.0) -> FlowRun:
    """The run, when it has ended."""

    def is_final() -> bool:
        found = client.read_flow_run(run.id)
        return found.state is not None and found.state.is_final()

    wait(is_final, f"{run.name} has not ended", limit_s)
    return client.read_flow_run(run.id)


def wait(is_so: Callable[[], bool], otherwise: str, limit_s: float = 600.0) -> None:
    until = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < until, otherwise
        time.sleep(0.5)


def engine_of(pid: int) -> psutil.Process:
    """The process of a run, as soon as a worker has started one."""
    found: list[psutil.Process] = []

    def is_there() -> bool:
        with suppress(psutil.Error):  # a process that ends while it is looked at
            children = psutil.Process(pid).children(recursive=True)
            found[:] = [child for child in children if "prefect.engine" in child.cmdline()]
        return bool(found)

    wait(is_there, "the worker started no run", 180)
    return found[0]
