"""What all tests share: a private Prefect home, and a line that says how much was skipped for lack of data."""

import os
import tempfile
from collections.abc import Iterator
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
