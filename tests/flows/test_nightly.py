"""Nightly: what its form refuses, the order of the stages and images, how it ends; and two nights of real stages."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime.flow_run import FIELDS
from pydantic import ValidationError

from flows.metrics import VARIABLE
from flows.nightly import due, nightly
from flows.running import stage_results
from flows.tasks import Role, run_stage, stage
from segcore.champion import promote
from segcore.config import NightlyConfig, StageConfig
from segcore.errors import StoreError
from segcore.progress import Progress
from segcore.results import ItemResult, StageResult
from segcore.store import Workspace
from tests.flows.nights import archive, files, invert, night, states_of
from tests.flows.stand_ins import BAD, GOOD, LEFT, Stage
from tests.inference.scenes import unet_package


def partly_ingest(config: StageConfig, progress: Progress) -> StageResult:
    return StageResult(stage="ingest", items=(GOOD, BAD))


# What is asked for


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sources": []}, "nothing to ingest"),
        ({"until": "6 am"}, "String should match pattern"),
        ({"predict": {"halo": "wide"}}, "halo: expected exact, fast or a number of px"),
        ({"predict": {"bach": 2}}, "unknown key 'bach': did you mean 'batch'"),
        ({"predict": {"images": ["a"]}}, r"predict\.images: the night fills it in"),
        ({"predict": {"batch": 0}}, "greater than or equal to 1"),
        ({"refine": {"model": "other"}}, r"refine\.model: the night fills it in"),
        ({"refine": {"min_size": 5, "dry_run": True}}, r"refine\.dry_run: the night fills it in"),
        ({"refine": {"min_size": "5 apples"}}, "expected a size such as 50"),
        ({"refine": {"overwrite": True}}, "nothing to do: expected one of open"),
        ({"refine": {"objects": True, "name": "n"}}, "leave the name out"),
        ({"refine": {"min_sise": 5}}, "unknown key 'min_sise': did you mean 'min_size'"),
        ({"exports": ["geotiff"]}, "expected both or none"),
        ({"exports": ["tiff"], "export_folder": "out"}, "format: Input should be 'geotiff'"),
        ({"ingest": {"split": "1/2/3/4"}}, "expected shares of train/val/test"),
        ({"modle": "m"}, "unknown key 'modle': did you mean 'model'"),
    ],
)
def test_a_night_refuses_what_its_stages_would_refuse(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        night("w", **settings)


def test_the_form_has_the_settings_of_the_stages_with_their_ranges() -> None:
    schema = NightlyConfig.model_json_schema()
    predict = schema["properties"]["predict"]
    assert (predict["additionalProperties"], predict["properties"]["batch"]["minimum"]) == (False, 1)
    assert predict["properties"]["halo"]["description"].startswith("Context around the write window")
    assert {"workspace", "model", "images", "until"}.isdisjoint(predict["properties"])
    refine = schema["properties"]["refine"]["properties"]
    assert refine.keys() >= {"open", "min_size", "objects", "name"}
    assert {"workspace", "model", "images", "dry_run"}.isdisjoint(refine)
    assert schema["properties"]["exports"]["items"]["enum"][0] == "geotiff"
    for name, about in schema["properties"].items():
        assert about["title"], name
        assert about["description"], name


def test_masks_are_made_by_priority() -> None:
    sources = {"a-1": "/in/a.tif", "b-1": "/in/urgent/b.tif", "c-1": "/in/c.tif"}
    config = night("w", first=["*/urgent/*", "old-*"])
    assert config.by_priority(sources, ["a-1", "b-1", "c-1", "gone-1", "old-1"]) == [
        *("b-1", "old-1"),
        *("a-1", "c-1", "gone-1"),
    ]


# What a night does


@pytest.mark.usefixtures("prefect_server")
def test_nightly_goes_on_after_a_failed_source_and_is_not_green(
    stages: dict[str, Stage], artifacts: list[Any], workspace: str
) -> None:
    stages["ingest"] = partly_ingest
    state = nightly(night(workspace, exports=["png"], export_folder="out"), return_state=True)
    assert (state.type.value, state.name) == ("FAILED", "PartlyDone")
    assert state.message == "1 failed: b.tif: not an image"
    results = stage_results(state)
    assert [result.stage for result in results] == ["ingest", "predict", "export", "score", "drift", "report"]
    configs = {result.stage: result.details["config"] for result in results[1:]}
    assert (configs["score"]["model"], configs["drift"]["model"]) == ("unet-01234567", "m")
    told = {told["stage"]: told["failed"] for told in configs["report"]["stages"]}
    assert told == {"ingest": 1, "predict": 0, "export": 0, "score": 0, "drift": 0}
    assert configs["export"].items() >= {"output": "out/png", "format": "png", "images": ["a-01234567"]}.items()
    assert configs["report"]["failures"] == [["b.tif", "b.tif: not an image"]]
    table = next(args for kind, args in artifacts if kind == "create_table")
    assert table[1] == "nightly-images"
    assert {"image": "b.tif", "ingest": "failed", "error": "b.tif: not an image"}.items() <= table[0][1].items()
    assert table[0][0]["miou"] == "0.7500"


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("role", "item", "expected"),
    [
        ("stage", BAD, ("FAILED", "PartlyDone", "1 failed: b.tif: not an image")),
        ("portion", BAD, ("FAILED", "PartlyDone", "1 failed: b.tif: not an image")),
        ("stage", LEFT, ("COMPLETED", "TimeUp", "ingest: 1 of 2 images left for the next run")),
        ("look", BAD, ("COMPLETED", "Completed", None)),
        ("look", LEFT, ("COMPLETED", "Completed", None)),
    ],
)
def test_a_task_ends_in_the_state_of_its_stage(
    stages: dict[str, Stage], workspace: str, role: Role, item: ItemResult, expected: tuple[str, ...]
) -> None:
    stages["ingest"] = lambda config, progress: StageResult(stage="ingest", items=(GOOD, item))
    settings = {"workspace": workspace, "sources": ["in"]}
    found: list[State[Any]] = []

    @flow
    def alone() -> StageResult:
        found.append(run_stage("ingest", settings, role, return_state=True))
        return stage("ingest", settings, role)

    assert alone().items == (GOOD, item)
    (state,) = found
    assert (state.type.value, state.name, state.message) == expected


@pytest.mark.usefixtures("prefect_server")
def test_a_night_whose_objects_cannot_be_measured_says_so_in_its_report(
    stages: dict[str, Stage], workspace: str
) -> None:
    def fail(config: StageConfig, progress: Progress) -> StageResult:
        raise StoreError("the disk is full")

    stages["measure"] = fail
    state = nightly(night(workspace, objects=True), return_state=True)
    assert (state.name, state.message) == ("PartlyDone", "1 failed: objects: measure: the disk is full")
    results = stage_results(state)
    assert [result.stage for result in results][-2:] == ["measure", "report"]
    told = results[-1].details["config"]
    assert told["failures"] == [["objects", "measure: the disk is full"]]
    assert told["stages"][-1]["stage"] == "measure"
    again = nightly(night(workspace, objects=True), return_state=True)
    assert (again.name, again.message) == (state.name, state.message)  # it is tried every night, until it works


@pytest.mark.usefixtures("prefect_server", "stages")
def test_a_spread_night_with_nothing_left_to_do_tells_that_all_is_well(
    workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever watches the numbers is told that there was no night."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "metrics"))
    assert nightly(night(workspace, max_images_in_flight=2), return_state=True).name == "Completed"
    (told,) = (tmp_path / "metrics").glob("segcore-predict-*.prom")
    assert re.search(r"^segcore_stage_success\{.*\} 1.0$", told.read_text(encoding="utf-8"), re.M)


@pytest.mark.usefixtures("prefect_server")
def test_nightly_that_cannot_go_on_says_why(stages: dict[str, Stage], workspace: str) -> None:
    def fail(config: StageConfig, progress: Progress) -> StageResult:
        raise StoreError("model m: no such package")

    stages["predict"] = fail
    stages["ingest"] = partly_ingest
    state = nightly(night(workspace), return_state=True)
    message = "predict: model m: no such package; 1 failed: b.tif: not an image"
    assert (state.name, state.message) == ("Failed", message)
    results = stage_results(state)
    assert [result.stage for result in results] == ["ingest", "report"]
    told = [["b.tif", "b.tif: not an image"], ["the night", "predict: model m: no such package"]]
    assert results[1].details["config"]["failures"] == told


@pytest.mark.usefixtures("prefect_server")
def test_a_night_whose_time_is_up_says_what_is_left_and_touches_only_finished_masks(
    stages: dict[str, Stage], workspace: str
) -> None:
    given: list[StageConfig] = []

    def cut_short(config: StageConfig, progress: Progress) -> StageResult:
        given.append(config)
        return StageResult(stage="predict", items=(GOOD, LEFT), details={"name": "m"})

    stages["predict"] = cut_short
    promote(Workspace.open(workspace), "best-01234567")
    state = nightly(night(workspace, model="champion", until="06:00 UTC"), return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "TimeUp")
    assert state.message == "predict: 1 of 2 images left for the next run"
    ingested, predicted = stage_results(state)[0].details["config"], given[0].model_dump()
    assert predicted["model"] == "best-01234567"
    assert predicted["until"].endswith("T06:00:00+00:00")
    assert ingested["until"] < predicted["until"]
    assert stage_results(state)[2].details["config"]["images"] == ["a-01234567"]


@pytest.mark.usefixtures("prefect_server")
def test_a_night_that_begins_late_ends_at_the_time_that_was_meant(
    stages: dict[str, Stage], workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker was down: the run of 22:00 is taken at noon, and must not compute until the next morning."""
    monkeypatch.setitem(FIELDS, "scheduled_start_time", lambda: datetime(2026, 3, 28, 21, tzinfo=UTC))
    state = nightly(night(workspace, until="06:00 Europe/Berlin"), return_state=True)
    ingested, predicted = (result.details["config"] for result in stage_results(state)[:2])
    assert predicted["until"] == "2026-03-29T04:00:00+00:00"  # the clocks went forward in that night
    assert datetime.fromisoformat(ingested["until"]) < datetime.now(UTC)
    monkeypatch.setitem(FIELDS, "run_count", lambda: 2)
    assert datetime.now(UTC) - due() < timedelta(minutes=1)  # a person pressed Retry


@pytest.mark.usefixtures("prefect_server")
def test_where_every_mask_fails_no_stage_takes_that_for_all_images(stages: dict[str, Stage], workspace: str) -> None:
    def fail(config: StageConfig, progress: Progress) -> StageResult:
        return StageResult(stage="predict", items=(BAD,), details={"name": "m"})

    stages["predict"] = fail
    state = nightly(night(workspace, exports=["png"], export_folder="out"), return_state=True)
    assert [result.stage for result in stage_results(state)] == ["ingest", "predict", "report"]
    assert state.name == "PartlyDone"
    state = nightly(night(workspace, refine={"min_size": 5}), return_state=True)
    assert [result.stage for result in stage_results(state)] == ["ingest", "predict", "report"]


@pytest.mark.usefixtures("prefect_server")
def test_a_night_without_a_champion_says_how_to_get_one(stages: dict[str, Stage], workspace: str) -> None:
    state = nightly(night(workspace, model="champion"), return_state=True)
    assert state.name == "Failed"
    assert f"segcore champion --workspace {workspace} --promote MODEL" in str(state.message)


@pytest.mark.usefixtures("prefect_server")
def test_only_what_is_new_changed_or_of_a_new_model_is_done(tmp_path: Path) -> None:
    config = night(str(tmp_path / "w"), **archive(tmp_path))
    states = [nightly(config, return_state=True)]
    assert (states[0].name, states[0].message) == ("Completed", "report: all done")
    before = files(tmp_path)
    (folder,) = (tmp_path / "w" / "reports").iterdir()
    assert {"objects.parquet", "objects.csv", "measurements.json", "report.html"} <= {f.name for f in folder.iterdir()}
    told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert sorted(told["objects"]["images"]) == Workspace.open(config.workspace).image_ids()
    states.append(nightly(config, return_state=True))
    assert files(tmp_path) == before
    results = stage_results(states[1])
    assert {item.state for result in results[:3] for item in result.items} == {"skipped"}
    assert sum(result.seconds for result in results) < 20
    invert(tmp_path / "in" / "b.png")
    results = stage_results(nightly(config, return_state=True))
    for result in results[:3]:
        assert [item.state for item in result.items] == ["skipped", "done"]
    assert {Path(path).name for path in files(tmp_path / "out") if files(tmp_path)[path] != before[path]} == {
        f"{results[2].items[1].image}.png"
    }
    other = unet_package(Workspace.open(config.workspace), channels=(4, 8))
    results = stage_results(nightly(config.model_copy(update={"model": other.model_id}), return_state=True))
    assert states_of(results, "ingest", "predict", "export") == [["skipped"] * 2, ["done"] * 2, ["done"] * 2]
    ws = Workspace.open(config.workspace)
    for image_id in ws.image_ids():
        assert {config.model, other.model_id} <= set(ws.label_names(image_id))
