"""Results: exit codes, and failures named once."""

from segcore.results import ItemResult, StageResult, exit_code, failures


def item(state: str, **values: str) -> ItemResult:
    return ItemResult.model_validate({"state": state, **values})


def test_exit_codes_tell_all_partly_and_none() -> None:
    assert exit_code([item("done"), item("skipped")]) == 0
    assert exit_code([item("done"), item("failed")]) == 3
    assert exit_code([item("failed"), item("failed")]) == 1
    assert exit_code([]) == 0


def test_a_failure_is_named_once_by_the_stage_that_met_it_first() -> None:
    bad = item("failed", source="b.tif", error="not an image")
    halted = item("failed", source="c.tif", image="c-1", error="NaN")
    later = item("failed", image="c-1", error="no mask")
    other = item("failed", image="d-2", error="gone")
    results = [
        StageResult(stage="ingest", items=(item("done", source="a.tif", image="a-0"), bad)),
        StageResult(stage="predict", items=(halted, other)),
        StageResult(stage="score", items=(later, other)),
    ]
    assert failures(results) == [bad, halted, other]
