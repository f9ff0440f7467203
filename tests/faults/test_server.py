"""Prefect's server is killed while a flow computes, and comes back: pixel work goes on, and states are sent late."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.server import free_port
from segcore.store import Workspace
from segcore.store.plan import latest_plan
from tests.e2e.conftest import wait
from tests.inference.scenes import scene, unet_package
from tests.synthetic import put_image

Step = Callable[[], None]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
AWAY_S = 90.0
TILE_S = 4.0
"""All 36 tiles take longer than the server is away."""


def server(port: int, home: Path, database: str | None = None) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "flows.server", str(port), "no-pages", str(os.getpid())]
    url = f"http://127.0.0.1:{port}/api"
    environ = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": url}
    if database is not None:
        environ["PREFECT_API_DATABASE_CONNECTION_URL"] = database
    process = subprocess.Popen(command, env=environ)
    wait(lambda: answers(url), "the server does not answer", 120)
    return process


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False


def finished(ws: Workspace, image_id: str = "a") -> int:
    """Shards of level 0 in the ledger."""
    plan = latest_plan(ws.objects, image_id, "m")
    return 0 if plan is None else sum(level == 0 for level, _ in plan.recorded())


def ended_on_the_server(url: str) -> list[str]:
    """States of the flow runs that the server knows."""
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        return [str(run.state_name) for run in client.read_flow_runs()]


def flow(ws: Workspace, url: str, home: Path) -> "subprocess.Popen[str]":
    environ = {**os.environ, "PREFECT_API_URL": url, "PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.faults.slow_flow", ws.uri, unet_package(ws).model_id, str(TILE_S)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_goes_on_without(
    ws: Workspace, url: str, work: "subprocess.Popen[str]", down: Step, up: Step, away_s: float, least: int
) -> None:
    """Take from a flow at work what it reports to, and give it back: more than `least` shards come meanwhile."""
    wait(lambda: finished(ws) >= 1, "no shard is finished", 180)
    down()
    before = finished(ws)
    time.sleep(away_s)
    during = finished(ws)
    assert work.poll() is None
    up()
    said, complained = work.communicate(timeout=400)
    assert ended_on_the_server(url) == ["Completed"]
    assert work.returncode == 0, complained
    assert said.strip() == "done"
    assert during > before + least
    assert ws.is_complete("a", "m")


def test_a_server_that_is_killed_and_comes_back_costs_no_pixel(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    put_image(ws, "a", scene(1500, 1300))
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    servers = [server(port, tmp_path / "prefect")]
    work = flow(ws, url, tmp_path / "home")

    def kill() -> None:
        servers[0].kill()
        servers[0].wait()

    def start() -> None:
        servers.append(server(port, tmp_path / "prefect"))

    try:
        assert_goes_on_without(ws, url, work, kill, start, AWAY_S, least=5)
    finally:
        work.kill()
        servers[-1].send_signal(signal.SIGTERM)
        servers[-1].wait(30)


def test_without_a_server_a_plain_command_works_and_a_flow_says_what_is_missing(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    put_image(ws, "a", scene(300, 300))
    model = unet_package(ws).model_id
    environ = {**os.environ, "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api", "PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "flows", "predict", "--workspace", ws.uri, "--model", model, "--device", "cpu"]
    flow = subprocess.run([*command, "--prefect"], env=environ, capture_output=True, text=True, timeout=300)
    assert flow.returncode != 0
    assert "127.0.0.1" in flow.stderr
    assert "Traceback" not in flow.stderr
    plain = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert plain.returncode == 0, plain.stderr
    assert ws.is_complete("a", model)
