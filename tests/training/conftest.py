"""What tests of training share: a workspace to learn from, and no graph that is traced for each run."""

from pathlib import Path

import pytest

from segcore.store import Workspace
from segcore.training.tracking import events
from tests.synthetic import put_discs


@pytest.fixture(autouse=True)
def graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard's is not traced, but where it is tested: test_tracking.py takes this fixture's place."""
    monkeypatch.setattr(events, "_graph_of", lambda model, shape: b"")


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Three images of bright discs on a dark, noisy ground, and one that is held out."""
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    put_discs(workspace, (False, False, False, True), (96, 96), ((30, 66), (30, 66)), 24, num_bands=2)
    return workspace.uri
