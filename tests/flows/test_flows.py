"""Flows on a temporary server: states, artifacts, retries; the stages themselves are stand-ins here."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import State

from flows.artifacts import MAX_LISTED, MAX_ROWS, FlowProgress, escaped, image_rows, summary
from flows.curve import curve_markdown
from flows.ending import final_state
from flows.running import run_stage_flow
from flows.server import TemporaryServer, is_free
from flows.stages import FLOWS
from flows.tasks import is_transient, run_stage
from segcore.config import STAGES, IngestConfig, PredictConfig, StageConfig, TrainConfig
from segcore.errors import ConfigError, SegcoreError, StoreError
from segcore.progress import Progress
from segcore.results import ItemResult, StageResult
from tests.flows.stand_ins import BAD, GOOD, Stage


@pytest.mark.usefixtures("prefect_server")
def test_a_stage_as_a_flow_returns_what_the_function_returned(stages: dict[str, Stage]) -> None:
    config = PredictConfig(workspace="w", model="m", batch=3)
    result = run_stage_flow("predict", config)
    assert result.items == (GOOD,)
    assert result.paths == ("w/predict",)
    assert result.details["config"] == config.model_dump(mode="json")


@pytest.mark.usefixtures("prefect_server")
def test_a_run_is_named_by_its_model_and_never_by_a_source(stages: dict[str, Stage]) -> None:
    ran: list[State[Any]] = [
        FLOWS["ingest"](IngestConfig(workspace="w", sources=("/in/mueller.png",)), return_state=True),
        FLOWS["predict"](PredictConfig(workspace="w", model="/models/aerial/"), return_state=True),
    ]
    with get_client(sync_client=True) as client:
        names = [client.read_flow_run(state.state_details.flow_run_id).name for state in ran]
    for name, begins in zip(names, ("ingest", "predict aerial"), strict=True):
        assert re.fullmatch(rf"{begins} \d{{4}}-\d\d-\d\d \d\d:\d\d", name)


@pytest.mark.usefixtures("prefect_server")
def test_a_stage_that_fails_as_a_whole_gives_its_one_line(stages: dict[str, Stage]) -> None:
    def fail(config: StageConfig, progress: Progress) -> StageResult:
        raise StoreError("workspace w: no such folder")

    stages["predict"] = fail
    with pytest.raises(SegcoreError, match=r"^workspace w: no such folder$"):
        run_stage_flow("predict", PredictConfig(workspace="w", model="m"))


@pytest.mark.usefixtures("prefect_server")
def test_wrong_usage_of_a_stage_stays_wrong_usage_in_a_flow(stages: dict[str, Stage]) -> None:
    def refuse(config: StageConfig, progress: Progress) -> StageResult:
        raise ConfigError("level 1: expected 0")

    stages["train"] = refuse
    with pytest.raises(ConfigError, match=r"^level 1: expected 0$"):
        run_stage_flow("train", TrainConfig(workspace="w"))


@pytest.mark.usefixtures("prefect_server")
def test_a_stage_is_tried_again_after_transient_failures_only(
    stages: dict[str, Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def flaky(config: StageConfig, progress: Progress) -> StageResult:
        calls.append(config.workspace)
        if len(calls) < 3:
            raise StoreError("the network was away") from ConnectionResetError()
        return StageResult(stage="ingest", items=(GOOD,))

    monkeypatch.setattr(run_stage, "retry_delay_seconds", 0)
    stages["ingest"] = flaky
    assert run_stage_flow("ingest", IngestConfig(workspace="w", sources=("a",))).items == (GOOD,)
    assert len(calls) == 3

    def bug(config: StageConfig, progress: Progress) -> StageResult:
        calls.append("bug")
        raise ZeroDivisionError

    stages["ingest"] = bug
    with pytest.raises(SegcoreError, match="ZeroDivisionError"):
        run_stage_flow("ingest", IngestConfig(workspace="w", sources=("a",)))
    assert calls.count("bug") == 1


@pytest.mark.usefixtures("prefect_server")
def test_a_server_that_refuses_artifacts_fails_no_stage(
    stages: dict[str, Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise ConnectionError("the server is away")

    for kind in ("create_markdown", "create_progress", "create_table"):
        monkeypatch.setattr(f"flows.artifacts.{kind}_artifact", refuse)
    assert run_stage_flow("score", STAGES["score"](workspace="w", model="m")).items == (GOOD,)  # type: ignore[call-arg]


def train_with_a_curve(config: StageConfig, progress: Progress) -> StageResult:
    progress.start("train", 2, "steps")
    progress.status("loss 0.5000")
    progress.curve("My.Run_1", ROWS[:1])
    until = time.monotonic() + 5
    while isinstance(progress, FlowProgress) and not progress._pages and time.monotonic() < until:
        time.sleep(0.01)
    progress.curve("My.Run_1", ROWS)
    return StageResult(stage="train", details={"run": "My.Run_1"})


ROWS = ({"step": 1, "loss": 0.75, "learning_rate": 0.01}, {"step": 2, "loss": 0.25, "miou": 0.5})


@pytest.mark.usefixtures("prefect_server")
def test_training_renews_its_curve_on_prefects_page(stages: dict[str, Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.artifacts.UPDATE_EVERY_S", 0.05)
    stages["train"] = train_with_a_curve
    run_stage_flow("train", TrainConfig(workspace="w"))
    with get_client(sync_client=True) as client:
        keys = ArtifactFilterKey(any_=["curve-my-run-1", "progress-train"])
        made = client.read_artifacts(artifact_filter=ArtifactFilter(key=keys))
    [curve] = [artifact for artifact in made if artifact.key == "curve-my-run-1"]
    assert curve.type == "markdown"
    assert "| loss, mean of 20 steps | 0.5000 | |" in str(curve.data)
    of_the_run = [artifact for artifact in made if artifact.flow_run_id == curve.flow_run_id]
    [progress] = [artifact for artifact in of_the_run if artifact.key == "progress-train"]  # the server has others'
    assert str(progress.description).endswith(" · loss 0.5000")


@pytest.mark.usefixtures("prefect_server")
def test_a_curve_that_prefect_refuses_fails_no_training(
    stages: dict[str, Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise ConnectionError("the server is away")

    stages["train"] = train_with_a_curve
    for kind in ("create_markdown", "create_progress"):
        monkeypatch.setattr(f"flows.artifacts.{kind}_artifact", refuse)
    assert run_stage_flow("train", TrainConfig(workspace="w")).details["run"] == "My.Run_1"


def test_curve_markdown_shows_a_picture_and_the_newest_numbers() -> None:
    text = curve_markdown("r", ROWS)
    assert "![loss and scores by step](data:image/png;base64," in text
    assert text[text.index("Step") :].splitlines() == [
        "Step 2",
        "",
        "| | now | best |",
        "| --- | --- | --- |",
        "| loss, mean of 20 steps | 0.5000 | |",
        "| miou | 0.5000 | 0.5000 |",
    ]
    assert curve_markdown("r", ()).splitlines() == ["# Training r", "", "no step yet"]


def test_is_transient_looks_at_what_an_error_came_from() -> None:
    network = StoreError("away")
    network.__cause__ = TimeoutError()
    assert is_transient(network)
    assert not is_transient(StoreError("damaged"))


def test_final_state_of_nothing_but_failures_is_failed() -> None:
    state = final_state([StageResult(stage="ingest", items=(BAD,))])
    assert (state.type.value, state.name) == ("FAILED", "Failed")


def test_image_rows_lay_the_stages_side_by_side() -> None:
    results = [
        StageResult(stage="ingest", items=(BAD, GOOD)),
        StageResult(stage="predict", items=(ItemResult(state="skipped", image="a-01234567"),)),
    ]
    assert image_rows(results) == [
        {"image": "b.tif", "ingest": "failed", "miou": "", "predict": "", "error": "b.tif: not an image"},
        {"image": "a-01234567", "ingest": "done", "miou": "0.7500", "predict": "skipped", "error": ""},
    ]
    assert list(image_rows(results)[0]) == ["image", "ingest", "miou", "predict", "error"]


def test_of_too_many_images_those_that_failed_are_shown_and_the_others_counted() -> None:
    good = tuple(GOOD.model_copy(update={"image": f"i{number}"}) for number in range(MAX_ROWS))
    rows = image_rows([StageResult(stage="ingest", items=(*good, BAD))])
    assert [row["image"] for row in rows] == ["b.tif", *(f"i{number}" for number in range(MAX_ROWS - 1))]
    bad = tuple(BAD.model_copy(update={"source": f"{number}.tif"}) for number in range(60))
    lines = summary([StageResult(stage="export", items=bad, paths=("a", "b"))]).splitlines()
    assert lines[-5:] == ["- and 10 more", "", "## Open", "- `a`", "- `b`"]
    assert sum(line.startswith("- ") for line in lines) == MAX_LISTED + 3


def test_a_summary_has_scores_where_there_are_some() -> None:
    document = {"per_class": {"nucleus": {"iou": None, "dice": None}}}
    assert "nucleus" not in summary([StageResult(stage="score", scores={**document, "num_scored": 0})])
    assert "nucleus" in summary([StageResult(stage="score", scores={**document, "num_scored": 1})])


def test_names_from_outside_do_nothing_in_markdown() -> None:
    assert escaped("<b>[a](c)|\n*d*") == r"&lt;b&gt;\[a\]\(c\)\| \*d\*"
    evil = ItemResult(state="failed", source="<script>.tif", error="![x](http://a)\n# big")
    text = summary([StageResult(stage="ingest", items=(evil,))])
    assert "<script>" not in text
    assert "![x]" not in text
    assert "\n# big" not in text


@pytest.mark.slow
def test_a_temporary_server_serves_this_machines_pages_alone_and_ends_with_the_command(tmp_path: Path) -> None:
    script = (
        "import sys, urllib.request\nfrom pathlib import Path\nfrom flows.server import TemporaryServer\n"
        "server = TemporaryServer(Path(sys.argv[1]), pages=False)\nserver.wait()\n"
        "asked = {'Origin': 'https://stranger.invalid', 'Access-Control-Request-Method': 'POST'}\n"
        "door = urllib.request.Request(f'{server.url}/flows/filter', headers=asked, method='OPTIONS')\n"
        "try:\n    lets_in = urllib.request.urlopen(door).headers['Access-Control-Allow-Origin']\n"
        "except urllib.error.HTTPError as error:\n    lets_in = error.headers['Access-Control-Allow-Origin']\n"
        "print(urllib.request.urlopen(f'{server.url}/health').read().decode(), server.port, lets_in)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=180)
    answer, port, lets_in = done.stdout.split()
    assert answer == "true"
    assert lets_in == "None"  # no page of another site, which the user's browser may show, starts runs here
    assert is_free(int(port))
    assert (tmp_path / "prefect.db").exists()


@pytest.mark.slow
def test_a_temporary_server_imports_nothing_from_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").write_text("raise SystemExit('the wrong flows')")
    monkeypatch.chdir(tmp_path)
    server = TemporaryServer(tmp_path / "home", pages=False)
    try:
        server.wait()
    finally:
        server.stop()


def test_a_temporary_server_that_cannot_start_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SegcoreError, match=r"did not start; its messages are in .*server.log"):
        TemporaryServer(tmp_path, pages=False).wait()
