"""PostgreSQL goes down behind Prefect's server while a flow computes, and comes back: pixel work goes on."""

import signal
import time
from pathlib import Path

import pytest

from benchmarks.postgres import postgres, programs
from flows.server import free_port
from segcore.store import Workspace
from tests.e2e.conftest import wait
from tests.faults.test_server import ended_on_the_server, finished, flow, server
from tests.inference.scenes import scene
from tests.synthetic import put_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
AWAY_S = 30.0


@pytest.mark.skipif(programs() is None, reason="no PostgreSQL")
def test_a_database_that_goes_down_and_comes_back_costs_no_pixel(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    put_image(ws, "a", scene(1100, 1300))
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    with postgres() as database:
        prefect = server(port, tmp_path / "prefect", database.url)
        work = flow(ws, url, tmp_path / "home")
        try:
            wait(lambda: finished(ws) >= 1, "no shard is finished", 180)
            database.stop("immediate")
            before = finished(ws)
            time.sleep(AWAY_S)
            during = finished(ws)
            assert work.poll() is None
            database.start()
            said, complained = work.communicate(timeout=400)
            assert ended_on_the_server(url) == ["Completed"]
        finally:
            work.kill()
            prefect.send_signal(signal.SIGTERM)
            prefect.wait(30)
    assert work.returncode == 0, complained
    assert said.strip() == "done"
    assert during > before
    assert ws.is_complete("a", "m")
