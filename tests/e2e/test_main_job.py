"""The real thing on small scenes: main job, its rerun, and a night with a new, a changed and a broken source."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from flows.main_job import main_job
from flows.nightly import nightly
from flows.running import stage_results
from segcore.config import NightlyConfig
from segcore.results import StageResult
from segcore.samples import SceneSpec, draw_scene, write_samples
from segcore.store import Workspace

SCENES = (
    SceneSpec("one", (256, 256), 1, "train"),
    SceneSpec("two", (256, 256), 2, "val"),
    SceneSpec("three", (300, 280), 3, "test"),
)
TRAIN = {"name": "tiny", "max_steps": 4, "channels": [8, 16], "tile_px": 64, "batch": 2, "validate_every": 2}


def states(result: StageResult) -> list[str]:
    return [item.state for item in result.items]


@pytest.fixture(scope="module")
def job(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings of one finished main job, and its results."""
    folder = tmp_path_factory.mktemp("job")
    manifest = write_samples(folder / "sources", SCENES)
    settings: dict[str, Any] = {
        "workspace": str(folder / "w"),
        "ingest": {"manifest": str(manifest), "classes": str(manifest.with_name("classes.csv"))},
        "train": {**TRAIN, "threads": 1},
        "predict": {"tile_workers": 1},
        "report": {"run": "first"},
    }
    state = main_job(**settings, return_state=True)
    assert state.name == "Completed", state.message
    return {"settings": settings, "results": stage_results(state), "folder": folder}


def test_main_job_leaves_masks_scores_and_a_report(job: dict[str, Any]) -> None:
    ingested, trained, predicted, scored, reported = job["results"]
    workspace = Workspace.open(job["settings"]["workspace"])
    model = trained.details["model"]
    assert states(ingested) == states(predicted) == states(scored) == ["done"] * 3
    assert (Path(trained.paths[0]) / "model.safetensors").exists()
    for image_id in workspace.image_ids():
        mask = workspace.label(image_id, model)
        assert mask.shape() == workspace.image(image_id).shape()[-2:]
        assert [info.name for info in mask.classes] == ["field", "wood", "water", "road", "house"]
    counted = np.asarray(scored.scores["confusion"]).sum()
    truth = [draw_scene(scene.seed, scene.shape)[1] for scene in SCENES]
    assert counted == sum(int((ids != 255).sum()) for ids in truth)
    page, data, _ = (Path(path) for path in reported.paths)
    assert all(image_id in page.read_text(encoding="utf-8") for image_id in workspace.image_ids())
    assert json.loads(data.read_text(encoding="utf-8"))["scores"] == scored.scores


def test_main_job_again_does_nothing_twice(job: dict[str, Any]) -> None:
    state = main_job(**job["settings"], return_state=True)
    ingested, trained, predicted, scored, _ = stage_results(state)
    assert states(ingested) == states(predicted) == ["skipped"] * 3
    assert trained.details["model"] == job["results"][1].details["model"]
    assert scored.scores == job["results"][3].scores


def test_a_night_takes_new_and_changed_sources_and_names_the_broken_one(job: dict[str, Any], tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for name in ("one", "two"):
        shutil.copy(job["folder"] / "sources" / f"{name}.tif", archive)
    night = NightlyConfig.model_validate(
        {
            "workspace": str(tmp_path / "w"),
            "model": job["results"][1].paths[0],
            "sources": [str(archive)],
            "predict": {"tile_workers": 1},
        }
    )
    first = nightly(night, return_state=True)
    assert first.name == "Completed", first.message

    shutil.copy(job["folder"] / "sources" / "three.tif", archive)
    (archive / "broken.tif").write_bytes(b"II*\x00 and nothing more")
    with rasterio.open(archive / "one.tif", "r+") as dataset:
        dataset.write(255 - dataset.read().clip(1, 254))
    second = nightly(night, return_state=True)
    assert (second.type.value, second.name) == ("FAILED", "PartlyDone")
    assert "broken.tif" in str(second.message)
    of_stage = {result.stage: result for result in stage_results(second)}
    ingested, predicted, reported = (of_stage[name] for name in ("ingest", "predict", "report"))
    became = {Path(str(item.source)).stem: item.state for item in ingested.items}
    assert became == {"one": "done", "two": "skipped", "three": "done", "broken": "failed"}
    assert sorted(states(predicted)) == ["done", "done", "skipped"]
    assert "broken.tif" in Path(reported.paths[0]).read_text(encoding="utf-8")
