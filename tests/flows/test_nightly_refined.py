"""Nights that refine their masks: which masks and images each stage gets, what is told, and nights of real stages."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from flows.nightly import nightly
from flows.running import stage_results
from segcore.config import StageConfig
from segcore.errors import StoreError
from segcore.geometry import Window
from segcore.progress import Progress
from segcore.results import ItemResult, StageResult
from segcore.store import Workspace
from tests.flows.nights import archive, files, invert, night, states_of
from tests.flows.stand_ins import GOOD, LEFT, Stage


def refine_one_of_two(config: StageConfig, progress: Progress) -> StageResult:
    bad = ItemResult(state="failed", source="c.tif", image="c-01234567", error="image c-01234567: no room")
    details = {"name": "m_refined", "config": config.model_dump(mode="json")}
    return StageResult(stage="refine", items=(GOOD, bad), details=details)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("most", [0, 2])
def test_after_refining_it_is_the_refined_masks_that_count_and_drift_is_of_all_images(
    stages: dict[str, Stage], workspace: str, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    pictured: list[tuple[str, str]] = []
    monkeypatch.setattr("flows.picture.thumbnail", lambda uri, mask, image: pictured.append((mask, image)))
    both = (GOOD, LEFT.model_copy(update={"state": "skipped"}))
    stages["predict"] = lambda config, progress: StageResult(stage="predict", items=both, details={"name": "m"})
    stages["refine"] = refine_one_of_two
    settings = {"refine": {"min_size": 5}, "exports": ["png"], "export_folder": "out", "objects": True}
    state = nightly(night(workspace, max_images_in_flight=most, **settings), return_state=True)
    assert (state.name, state.message) == ("PartlyDone", "1 failed: c.tif: image c-01234567: no room")
    results = stage_results(state)
    assert [result.stage for result in results[2:]] == ["refine", "export", "score", "drift", "measure", "report"]
    configs = {result.stage: result.details["config"] for result in results[2:]}
    both_ids = ["a-01234567", "c-01234567"]
    assert configs["refine"].items() >= {"model": "m", "images": both_ids, "min_size": "5"}.items()
    assert configs["drift"].items() >= {"model": "m", "images": both_ids}.items()
    for name in ("export", "score", "measure", "report"):
        assert configs[name].items() >= {"model": "m_refined", "images": ["a-01234567"]}.items(), name
    assert configs["report"]["failures"] == [["c-01234567", "image c-01234567: no room"]]
    assert {told["stage"]: told["failed"] for told in configs["report"]["stages"]}["refine"] == 1
    assert pictured == [("m_refined", "a-01234567")]


@pytest.mark.usefixtures("prefect_server")
def test_a_night_whose_masks_cannot_be_refined_says_why(stages: dict[str, Stage], workspace: str) -> None:
    def fail(config: StageConfig, progress: Progress) -> StageResult:
        raise StoreError("classes: mask m has the classes a, b, got 'c'")

    stages["refine"] = fail
    state = nightly(night(workspace, refine={"min_size": 5, "classes": ["c"]}), return_state=True)
    assert (state.name, state.message) == ("Failed", "refine: classes: mask m has the classes a, b, got 'c'")
    results = stage_results(state)
    assert [result.stage for result in results] == ["ingest", "predict", "report"]
    told = [["the night", "refine: classes: mask m has the classes a, b, got 'c'"]]
    assert results[2].details["config"]["failures"] == told


@pytest.mark.usefixtures("prefect_server", "stages")
def test_other_settings_of_refine_are_told_in_another_report(workspace: str) -> None:
    """Objects that are asked for change neither the mask's name nor the scores."""
    Workspace.open(workspace).objects.put("w/report", b"as the stand-in says")
    told = []
    for refine in ({}, {"objects": True}, {"objects": True}):
        state = nightly(night(workspace, refine=refine), return_state=True)
        told.append(stage_results(state)[-1].details.get("unchanged", False))
    assert told == [False, False, True]


@pytest.mark.usefixtures("prefect_server")
def test_where_no_mask_is_refined_no_stage_takes_that_for_all_images(stages: dict[str, Stage], workspace: str) -> None:
    def fail(config: StageConfig, progress: Progress) -> StageResult:
        bad = GOOD.model_copy(update={"state": "failed", "error": "image a-01234567: no room"})
        return StageResult(stage="refine", items=(bad,), details={"name": "m_refined"})

    stages["refine"] = fail
    state = nightly(night(workspace, refine={"min_size": 5}), return_state=True)
    results = stage_results(state)
    assert [result.stage for result in results] == ["ingest", "predict", "refine", "drift", "report"]
    assert (state.name, results[-1].details["config"]["model"]) == ("PartlyDone", "m_refined")


@pytest.mark.usefixtures("prefect_server")
def test_refined_masks_are_exported_scored_and_measured_and_follow_their_sources(tmp_path: Path) -> None:
    config = night(str(tmp_path / "w"), **archive(tmp_path), refine={"min_size": 40, "objects": True})
    ws, own = Workspace.open(config.workspace), f"{config.model}_refined"

    def made() -> list[StageResult]:
        state = nightly(config, return_state=True)
        assert state.name == "Completed", state.message
        of_stage = {result.stage: result for result in stage_results(state)}
        for image_id in ws.image_ids():
            refined, plain = (ws.label(image_id, name).read(Window((0, 0), (70, 90))) for name in (own, config.model))
            assert (refined != plain).sum() > 50
            written = np.asarray(Picture.open(tmp_path / "out" / "png" / f"{image_id}.png"))
            np.testing.assert_array_equal(written, refined)
            (scored,) = (item for item in of_stage["score"].items if item.image == image_id)
            areas = [row["px"] for row in scored.details["areas"].values()]
            assert areas == np.bincount(refined.ravel(), minlength=3)[:3].tolist()
        return list(of_stage.values())

    first = made()
    (folder,) = (tmp_path / "w" / "reports").iterdir()
    told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert (told["mask"], json.loads((folder / "measurements.json").read_text())["mask"]) == (own, own)
    num_objects = [item.details["objects"] for item in first[2].items]
    assert [sum(row["objects"] for row in told["objects"]["images"][i].values()) for i in ws.image_ids()] == num_objects
    before = files(tmp_path)
    assert states_of(made(), "refine", "export") == [["skipped"] * 2] * 2
    assert files(tmp_path) == before
    invert(tmp_path / "in" / "b.png")
    assert states_of(made(), "predict", "refine", "export") == [["skipped", "done"]] * 3


@pytest.mark.usefixtures("prefect_server")
def test_objects_alone_leave_masks_and_their_name_as_they_are(tmp_path: Path) -> None:
    config = night(str(tmp_path / "w"), **archive(tmp_path), refine={"objects": True, "overwrite": True})
    results = stage_results(nightly(config, return_state=True))
    assert states_of(results, "refine", "export", "score") == [["done"] * 2, ["done"] * 2, ["skipped"] * 2]
    ws, model = Workspace.open(config.workspace), str(config.model)
    for image_id in ws.image_ids():
        assert ws.label_names(image_id) == [model, f"{model}_instances"]
    before = files(tmp_path)
    assert states_of(stage_results(nightly(config, return_state=True)), "refine", "export") == [["skipped"] * 2] * 2
    assert files(tmp_path) == before
