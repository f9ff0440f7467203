"""A workspace for each test of sampling."""

from pathlib import Path

import pytest

from segcore.store import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "ws"), create=True)
