"""Retrain: who is promoted, and by whom; the stages are stand-ins, the champion's history and the pause are real."""

import json
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from prefect.client.orchestration import get_client
from pydantic import ValidationError

from flows import functions
from flows import retrain as module
from flows.retrain import is_better, retrain
from segcore.champion import champion, history, promote
from segcore.classes import ClassInfo
from segcore.config import PredictConfig, RetrainConfig, StageConfig
from segcore.inference import predict
from segcore.progress import Progress
from segcore.results import StageResult
from segcore.store import Workspace
from tests.flows.stand_ins import GOOD, Stage
from tests.inference.scenes import mask_of, scene, unet_package
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
        against = {"mask": config.against, "num_images": 8, "overall": {"miou": row}}
        return StageResult(stage="report", paths=(f"reports/{config.model}",), scores={"against": against})

    return report


def run(ws: Workspace, **settings: Any) -> Any:
    return retrain(RetrainConfig(workspace=ws.uri, **settings), return_state=True)


@pytest.mark.parametrize(
    ("interval", "num_images", "least", "better"),
    [
        ([0.001, 0.1], 6, 0, True),
        ([0.001, 0.1], 5, 0, False),
        ([0, 0.1], 60, 0, False),
        ([-0.1, 0.2], 60, 0, False),
        ([0.01, 0.1], 60, 0.02, False),
        (None, 60, 0, False),
    ],
)
def test_better_is_what_lies_wholly_above(
    interval: list[float] | None, num_images: int, least: float, better: bool
) -> None:
    assert is_better({"interval": interval}, num_images, least) is better


@pytest.mark.usefixtures("prefect_server")
def test_the_first_model_becomes_the_champion_and_the_same_again_stays(ws: Workspace) -> None:
    assert run(ws).message == "promoted new-01234567: there was no champion"
    assert run(ws).message == "kept new-01234567: the training gave the champion again"
    assert len(history(ws)) == 1


@pytest.mark.usefixtures("prefect_server")
def test_a_better_challenger_is_promoted_with_its_reasons(ws: Workspace) -> None:
    promote(ws, "old-01234567")
    state = run(ws)
    told = "miou 0.8200 against 0.8000, difference 0.0200, 95 % interval 0.0100 to 0.0300, on 8 images"
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


@pytest.mark.usefixtures("prefect_server")
def test_the_verdict_is_that_of_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All stages are real but the training; the target is the challenger's own mask, so that it cannot be beaten."""
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    old, new = unet_package(ws), unet_package(ws, channels=(4, 8))
    for number in range(6):
        put_image(ws, f"i{number}", scene(70, 90, number), split="test")
    settings: dict[str, Any] = {"device": "cpu", "precision": "float32", "tile_px": 64, "shard_px": 256}
    predict(PredictConfig(workspace=ws.uri, model=new.model_id, name="truth", **settings))
    for image_id in ws.image_ids():
        put_label(ws, image_id, "target", mask_of(ws, image_id, "truth"), new.classes)
    trained = ModuleType("trained")
    trained.train = lambda config, progress: StageResult(stage="train", details={"model": new.model_id})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trained", trained)
    monkeypatch.setitem(functions.FUNCTIONS, "train", ("trained", "train"))
    promote(ws, old.model_id)
    state: Any = retrain(RetrainConfig(workspace=ws.uri, predict=settings, score={"resamples": 100}), return_state=True)
    stands = champion(ws)
    assert stands is not None
    assert stands.model == new.model_id, state.message
    assert stands.why.startswith("miou 1.0000 against 0.")
    reports = [json.loads(path.read_text()) for path in sorted(Path(ws.uri, "reports").rglob("report.json"))]
    told = {report["scores"]["mask"]: report["scores"]["against"] for report in reports}
    assert told[new.model_id]["mask"] == old.model_id
    assert told[new.model_id]["overall"]["miou"]["interval"][0] > 0
    assert told[old.model_id]["overall"]["miou"]["interval"][1] < 0


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
