"""Training without what costs each run a fifth of its time here."""

import pytest

from segcore.training.tracking import events


@pytest.fixture(autouse=True)
def graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard's is not traced, but where it is tested: test_tracking.py takes this fixture's place."""
    monkeypatch.setattr(events, "_graph_of", lambda model, shape: b"")
