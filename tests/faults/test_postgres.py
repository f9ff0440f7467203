"""PostgreSQL goes down behind Prefect's server while a flow computes, and comes back: pixel work goes on."""

import signal
from functools import partial
from pathlib import Path

import pytest

from benchmarks.postgres import postgres, programs
from flows.server import free_port
from segcore.store import Workspace
from tests.faults.test_server import assert_goes_on_without, flow, server
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
            assert_goes_on_without(ws, url, work, partial(database.stop, "immediate"), database.start, AWAY_S, least=0)
        finally:
            work.kill()
            prefect.send_signal(signal.SIGTERM)
            prefect.wait(30)
