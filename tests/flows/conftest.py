"""What tests of flows share: stages that do nothing, and what Prefect's pages would show."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flows import functions
from segcore.config import STAGES, StageConfig
from segcore.progress import Progress
from segcore.results import StageResult
from segcore.store import Workspace
from tests.flows.stand_ins import GOOD, Stage


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> dict[str, Stage]:
    """Stand-ins by stage, that a test may replace; each finishes one image."""

    def succeed(stage: str) -> Stage:
        def run(config: StageConfig, progress: Progress) -> StageResult:
            progress.start(stage, 1, "images")
            progress.advance()
            details = {"name": "unet-01234567", "model": "unet-01234567", "config": config.model_dump(mode="json")}
            return StageResult(stage=stage, items=(GOOD,), paths=(f"w/{stage}",), details=details)

        return run

    found = {stage: succeed(stage) for stage in STAGES}
    stand_in = ModuleType("stand_in")
    for stage in STAGES:
        setattr(stand_in, stage, lambda config, progress, stage=stage: found[stage](config, progress))
    monkeypatch.setitem(sys.modules, "stand_in", stand_in)
    monkeypatch.setattr(functions, "FUNCTIONS", {stage: ("stand_in", stage) for stage in STAGES})
    return found


@pytest.fixture
def artifacts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What the flows would show, as (kind, value), in order."""
    shown: list[tuple[str, Any]] = []
    for kind in ("create_markdown", "create_progress", "create_table", "update_progress"):
        monkeypatch.setattr(
            f"flows.artifacts.{kind}_artifact", lambda *args, kind=kind: shown.append((kind, args)) or "an id"
        )
    return shown


@pytest.fixture
def workspace(tmp_path: Path) -> str:
    """One without images."""
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    (tmp_path / "w" / "images").mkdir()
    return ws.uri
