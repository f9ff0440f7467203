"""Study: each trial is one process's at a time, begins where it should, and ends early by the median rule."""

import math
import threading
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from segcore.config.tune import Choices, Range, Space
from segcore.store import Lease, Workspace, lease
from segcore.tune.study import NUM_UNPRUNED, Study

SPACE: Space = {
    "rate": Range(1e-4, 1.0, log=True, whole=False),
    "width": Range(1, 9, log=False, whole=True),
    "kind": Choices(("a", "b", "c")),
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path), create=True)


def opened(workspace: Workspace, seed: int = 0, name: str = "s") -> Study:
    return Study(workspace, name, SPACE, seed)


def run_all(study: Study, total: int, score: Any = lambda values: values["rate"]) -> list[Any]:
    """Values of the trials that were claimed, each told at once."""
    tried = []
    while True:
        with study.claimed(total) as claimed:
            if claimed is None:
                return tried
            trial, values = study.begin(claimed, {})
            tried.append(values)
            study.tell(trial, TrialState.COMPLETE, score(values), {"run": f"s-{trial.number}"})


def test_values_are_of_the_space_and_those_of_the_seed(workspace: Workspace) -> None:
    tried = run_all(opened(workspace), 8)
    assert len(tried) == 8
    for values in tried:
        assert 1e-4 <= values["rate"] <= 1
        assert values["width"] in range(1, 10)
        assert values["kind"] in ("a", "b", "c")
    assert len({values["rate"] for values in tried}) == 8
    assert run_all(opened(workspace, name="again"), 8) == tried
    assert run_all(opened(workspace, seed=1, name="other"), 8) != tried
    assert run_all(opened(workspace), 8) == []
    assert len(run_all(opened(workspace), 10)) == 2


def test_the_search_comes_closer_to_the_best(workspace: Workspace) -> None:
    """Of 30 trials the last 10 lie nearer to the optimum, on the scale of the search, than the first 10."""
    tried = run_all(opened(workspace), 30, lambda values: -abs(math.log10(values["rate"]) + 2))
    away = [abs(math.log10(values["rate"]) + 2) for values in tried]
    assert sum(away[-10:]) < 0.6 * sum(away[:10])


def test_the_first_trial_begins_with_what_would_be_taken_anyway(workspace: Workspace) -> None:
    study = opened(workspace)
    with study.claimed(2) as claimed:
        assert claimed is not None
        _, values = study.begin(claimed, {"rate": 0.25, "width": 30, "kind": "b"})
    assert (values["rate"], values["kind"]) == (0.25, "b")
    assert values["width"] in range(1, 10)  # 30 lies outside


def test_each_trial_is_claimed_once_by_many_at_once(workspace: Workspace) -> None:
    claimed_by: list[tuple[int, int]] = []
    all_began = threading.Barrier(3)

    def work(worker: int) -> None:
        study = opened(workspace)
        all_began.wait()
        while True:
            with study.claimed(9) as claimed:
                if claimed is None:
                    return
                claimed_by.append((claimed.number, worker))
                trial, values = study.begin(claimed, {})
                study.tell(trial, TrialState.COMPLETE, values["rate"], {})

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in claimed_by) == list(range(9))
    states = [trial.state for trial in opened(workspace).trials(9)]
    assert states == [TrialState.COMPLETE] * 9


def test_a_trial_that_was_left_is_taken_up_with_its_values_before_any_other(workspace: Workspace) -> None:
    with opened(workspace).claimed(3) as claimed:
        assert claimed is not None
        trial, values = opened(workspace).begin(claimed, {})
        trial.report(0.5, 1)
    with opened(workspace).claimed(3) as again:
        assert again is not None
        assert again.number == claimed.number == 0
        study = opened(workspace)
        trial, same = study.begin(again, {"rate": 0.1})
        assert same == values
        assert study.watch(trial, 0.25, 0.75) is False
        assert trial.study.get_trials()[0].intermediate_values == {1: 0.5, 2: 0.75}


def test_a_trial_that_another_is_at_is_left_alone(workspace: Workspace) -> None:
    with opened(workspace).claimed(2) as first, opened(workspace).claimed(2) as second:
        assert first is not None
        assert second is not None
        assert (first.number, second.number) == (0, 1)
        with opened(workspace).claimed(2) as third:
            assert third is None


def test_an_owner_on_another_machine_is_waited_for_only_when_nothing_else_is_left(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its term is not renewed any more, so that its trial is taken up in the end."""
    study, slept = opened(workspace), []
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(lease, "_machine", lambda: "another")
        gone = Lease(workspace.objects, "runs/s/trials/0")
        study._storage.set_trial_state_values(study.trials(2)[0]._trial_id, TrialState.RUNNING)
        gone._stop.set()
    monkeypatch.setattr(lease.time, "sleep", slept.append)
    with study.claimed(2) as first:
        assert first is not None
        assert (first.number, slept) == (1, [])
        study.tell(study.begin(first, {})[0], TrialState.COMPLETE, 0.0, {})
    with study.claimed(2) as second:
        assert second is not None
        assert (second.number, slept) == (0, [lease.TERM_S])


def test_a_trial_below_the_median_is_ended_but_not_in_its_first_tenths(workspace: Workspace) -> None:
    """Complete trials had 0.1 to 0.4 after each tenth: the median is 0.25."""
    study = opened(workspace)
    for number in range(NUM_UNPRUNED):
        with study.claimed(9) as claimed:
            assert claimed is not None
            trial, _ = study.begin(claimed, {})
            for tenth in range(1, 10):
                assert study.watch(trial, tenth / 10, (number + 1) / 10) is False
            study.tell(trial, TrialState.COMPLETE, 0.5, {})

    def ended_at(scores: dict[float, float]) -> float | None:
        with study.claimed(9) as claimed:
            assert claimed is not None
            trial, _ = study.begin(claimed, {})
            ended = next((share for share, score in scores.items() if study.watch(trial, share, score)), None)
            study.tell(trial, TrialState.PRUNED if ended else TrialState.COMPLETE, None if ended else 0.5, {})
            return ended

    assert ended_at({0.1: 0.2, 0.2: 0.2, 0.29: 0.2, 0.3: 0.2}) == 0.3
    assert ended_at({0.11: 0.3, 0.35: 0.2, 0.62: 0.2}) is None  # its best so far is above
    assert ended_at({0.15: 0.15, 0.66: 0.15}) == 0.66
    assert ended_at({0.99: 0.0, 1.0: 0.0}) == 0.99
    assert ended_at({1.0: 0.0}) is None
    scores = [trial.intermediate_values for trial in study.trials(9)]
    assert scores[5] == {1: 0.3, 2: 0.2, 3: 0.2, 4: 0.2, 5: 0.2, 6: 0.2}  # a score counts since the one before
    assert study.trials(9)[6].value == 0.15
