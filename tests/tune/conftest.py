"""A workspace to tune on: the smallest that can be learnt from."""

from pathlib import Path
from typing import Any

import pytest

from segcore.store import Workspace
from tests.synthetic import put_discs

TINY: dict[str, Any] = {"channels": (4, 8), "tile_px": 32, "batch": 2, "threads": 1, "max_steps": 4, "device": "cpu"}


def discs(folder: Path) -> str:
    """Two images of a bright disc on dark, noisy ground, and one that is held out."""
    workspace = Workspace.open(str(folder), create=True)
    put_discs(workspace, (False, False, True), (64, 64), ((24, 40), (24, 40)), 18, num_bands=1)
    return workspace.uri


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return discs(tmp_path / "ws")
