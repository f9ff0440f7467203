"""What a stage tells Prometheus: read back by its own parser."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows.commands.stage import as_function
from flows.metrics import VARIABLE, counted
from flows.stages import FLOWS
from segcore.config import IngestConfig
from segcore.errors import StoreError
from segcore.results import ItemResult, StageResult
from tests.flows.stand_ins import BAD, GOOD, Stage

RESULT = StageResult(
    stage="score",
    items=(GOOD, BAD, ItemResult(state="skipped", image="c-1")),
    scores={"overall": {"miou": 0.75, "kappa": None}, "instances": None},
    peak_mib=3.0,
)


def values(folder: Path, stage: str) -> dict[tuple[str, str], float]:
    """(Name, the label that is its own) -> value."""
    (path,) = folder.glob(f"segcore-{stage}-*.prom")
    found = {}
    for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
        assert family.documentation
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("stage") == stage
            assert labels.pop("workspace") == 'in "x"\n\\y'
            found[sample.name, "".join(labels.values())] = sample.value
    return found


def run(result: StageResult | None, dry_run: bool = False) -> None:
    with counted("score", {"workspace": 'in "x"\n\\y', "dry_run": dry_run}) as outcome:
        if result is None:
            raise StoreError("gone")
        outcome.result = result


def test_a_stage_tells_what_it_came_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "made" / "for it"
    monkeypatch.setenv(VARIABLE, str(folder))
    run(RESULT)
    found = values(folder, "score")
    assert found.pop(("segcore_stage_ended_timestamp_seconds", "")) > 1.7e9
    assert 0 <= found.pop(("segcore_stage_seconds", "")) < 5
    assert found == {
        ("segcore_stage_success", ""): 0,
        ("segcore_stage_peak_bytes", ""): 3 << 20,
        ("segcore_stage_images", "done"): 1,
        ("segcore_stage_images", "skipped"): 1,
        ("segcore_stage_images", "left"): 0,
        ("segcore_stage_images", "failed"): 1,
        ("segcore_score", "miou"): 0.75,
    }
    left = ItemResult(state="left", image="d-1")  # the time was up: that is no failure
    run(RESULT.model_copy(update={"items": (GOOD, left)}))
    run(RESULT, dry_run=True)
    assert values(folder, "score")["segcore_stage_success", ""] == 1
    assert len(list(folder.iterdir())) == 1


def test_a_stage_that_stopped_tells_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(StoreError, match="gone"):
        run(None)
    found = values(tmp_path, "score")
    assert found["segcore_stage_success", ""] == 0
    assert ("segcore_stage_images", "done") not in found


def test_predict_tells_of_its_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    items = tuple(GOOD.model_copy(update={"details": {"tiles": tiles, "seconds": 1.0}}) for tiles in (4, 8))
    run(StageResult(stage="score", items=(*items, BAD), details={"skipped_share": 0.25, "name": "m"}))
    found = values(tmp_path, "score")
    assert found["segcore_stage_tiles", ""] == 12
    assert found["segcore_stage_skipped_tile_ratio", ""] == 0.25


def test_a_folder_that_cannot_be_written_does_not_cost_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    run(RESULT)
    assert "the metrics of score cannot be written there" in caplog.text


@pytest.mark.usefixtures("prefect_server")
def test_every_way_to_run_a_stage_tells(
    stages: dict[str, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = IngestConfig(workspace="w", sources=("a",))
    as_function("ingest", config)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv(VARIABLE, str(tmp_path / "plain"))
    as_function("ingest", config)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "flow"))
    FLOWS["ingest"](config)
    assert sorted(path.parent.name for path in tmp_path.rglob("*.prom")) == ["flow", "plain"]
