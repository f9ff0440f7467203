"""Retrain: who is promoted, and by whom; the stages are stand-ins, the champion's history and the pause are real."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect.client.orchestration import get_client
from pydantic import ValidationError

from flows import retrain as module
from flows.retrain import is_better, retrain
from segcore.champion import champion, history, promote
from segcore.classes import ClassInfo
from segcore.config import RetrainConfig, StageConfig
from segcore.progress import Progress
from segcore.results import StageResult
from segcore.store import Workspace
from tests.flows.stand_ins import GOOD, Stage
from tests.synthetic import put_image, put_label

CLASSES = (ClassInfo(id=0, name="background", color=(0, 0, 0)), ClassInfo(id=1, name="a", color=(9, 9, 9)))


@pytest.fixture
def ws(tmp_path: Path, stages: dict[str, Stage]) -> Workspace:
    """Two images with a target, one of them held out; stages that name a challenger and find it better by 0.02."""
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    for image_id, split in (("a", "train"), ("b", "test")):
        put_image(ws, image_id, np.ones((1, 40, 40), np.uint8), split=split)
        put_label(ws, image_id, "target", np.zeros((40, 40), np.uint8), CLASSES)

    def train(config: StageConfig, progress: Progress) -> StageResult:
        return StageResult(stage="train", details={"model": "new-01234567"})

    def predict(config: Any, progress: Progress) -> StageResult:
        assert config.images == ("b",)
        return StageResult(stage="predict", items=(GOOD,), details={"name": config.model})

    stages |= {"train": train, "predict": predict, "report": reporting([0.01, 0.03])}
    return ws


def reporting(interval: list[float] | None) -> Stage:
    row = {"value": 0.82, "other": 0.8, "difference": 0.02, "interval": interval}

    def report(config: Any, progress: Progress) -> StageResult:
        against = {"mask": config.against, "num_images": 1, "overall": {"miou": row}}
        return StageResult(stage="report", paths=(f"reports/{config.model}",), scores={"against": against})

    return report


def run(ws: Workspace, **settings: Any) -> Any:
    return retrain(RetrainConfig(workspace=ws.uri, **settings), return_state=True)


@pytest.mark.parametrize(
    ("interval", "least", "better"),
    [
        ([0.001, 0.1], 0, True),
        ([0, 0.1], 0, False),
        ([-0.1, 0.2], 0, False),
        ([0.01, 0.1], 0.02, False),
        (None, 0, False),
    ],
)
def test_better_is_what_lies_wholly_above(interval: list[float] | None, least: float, better: bool) -> None:
    assert is_better({"interval": interval}, least) is better


@pytest.mark.usefixtures("prefect_server")
def test_the_first_model_becomes_the_champion_and_the_same_again_stays(ws: Workspace) -> None:
    assert run(ws).message == "promoted new-01234567: there was no champion"
    assert run(ws).message == "kept new-01234567: the training gave the champion again"
    assert len(history(ws)) == 1


@pytest.mark.usefixtures("prefect_server")
def test_a_better_challenger_is_promoted_with_its_reasons(ws: Workspace) -> None:
    promote(ws, "old-01234567")
    state = run(ws)
    told = "miou 0.8200 against 0.8000, difference 0.0200, 95 % interval 0.0100 to 0.0300, on 1 images"
    assert state.message == f"promoted new-01234567, which was better than old-01234567: {told}"
    stands = champion(ws)
    assert stands is not None
    assert (stands.model, stands.why, stands.report) == ("new-01234567", told, "reports/new-01234567")


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("interval", [[-0.01, 0.05], None])
def test_one_that_is_not_surely_better_is_not(
    ws: Workspace, stages: dict[str, Stage], interval: list[float] | None
) -> None:
    promote(ws, "old-01234567")
    stages["report"] = reporting(interval)
    assert str(run(ws).message).startswith("kept old-01234567; new-01234567 was not better: ")
    assert [entry.model for entry in history(ws)] == ["old-01234567"]


@pytest.mark.usefixtures("prefect_server")
def test_a_person_who_is_asked_decides(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 1)
    promote(ws, "old-01234567")
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(run(ws, promote="ask")))
    thread.start()
    with get_client(sync_client=True) as client:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            paused = [each for each in client.read_flow_runs() if each.state and each.state.is_paused()]
            if paused:
                break
            time.sleep(0.2)
        client.resume_flow_run(paused[0].id, run_input={"promote": True})
    thread.join(60)
    assert str(found[0].message).startswith("promoted new-01234567")
    assert [entry.model for entry in history(ws)] == ["old-01234567", "new-01234567"]


@pytest.mark.usefixtures("prefect_server")
def test_without_held_out_images_nothing_is_trained(tmp_path: Path, ws: Workspace) -> None:
    state = run(ws, split="val")
    assert state.name == "Failed"
    assert "no image of split val has a target" in str(state.message)
    assert history(ws) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train": {"run": "x"}}, r"train\.run: the flow fills it in"),
        ({"train": {"minutes": 0}}, "greater than 0"),
        ({"least": -1}, "greater than or equal to 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RetrainConfig(workspace="w", **settings)
