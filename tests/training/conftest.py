"""Training without what costs each run a fifth of its time here."""

import pytest

from segcore.training.tracking import events


@pytest.fixture(autouse=True)
def graph_undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard's graph is traced in test_tracking.py alone."""
    if not request.node.path.name.endswith("test_tracking.py"):
        monkeypatch.setattr(events, "_graph_of", lambda model, shape: b"")
