"""Spread: which images go to which run, what becomes of runs that die, and of a night whose time is up."""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Completed, Crashed, Failed, Running, Scheduled

from flows.spread import HOPELESS, MOST_IMAGES, Portion, Spread, portions, record_key
from flows.tasks import StageStoppedError
from segcore.results import ItemResult, StageResult
from segcore.store import Workspace, seal
from segcore.until import Until

NIGHT = uuid4()
Ending = Callable[[Portion], State[Any]]


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done = 0
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def advance(self, amount: int = 1) -> None:
        self.done += amount

    def status(self, text: str) -> None:
        self.said.append(text)


class Workers:
    """In place of a server with workers: a run ends at the second look, as the test says."""

    def __init__(self, workspace: Workspace, ending: Ending) -> None:
        self.workspace, self.ending = workspace, ending
        self.begun: list[Portion] = []
        self.cancelled: list[UUID] = []
        self.most = 0
        self._portions: dict[UUID, Portion] = {}
        self._looked: set[UUID] = set()

    def begin(self, portion: Portion) -> UUID | None:
        run = uuid4()
        self.begun.append(portion)
        self._portions[run] = portion
        return run

    def states(self, runs: Iterable[UUID]) -> Mapping[UUID, State[Any]]:
        asked = list(runs)
        self.most = max(self.most, len(asked))
        found = {run: self.ending(self._portions[run]) if run in self._looked else Running() for run in asked}
        self._looked |= set(asked)
        return found

    def cancel(self, runs: Iterable[UUID]) -> None:
        self.cancelled += list(runs)


def leave(workspace: Workspace, portion: Portion, failing: str = "") -> State[Any]:
    """What a portion does that went well; an image of this name fails."""
    items = tuple(
        ItemResult(state="failed", image=image, error="no")
        if image == failing
        else ItemResult(state="done", image=image)
        for image in portion.images
    )
    result = StageResult(stage="predict", items=items, peak_mib=7.0).model_dump(mode="json")
    workspace.objects.put(record_key(NIGHT, portion.number), json.dumps(seal({"result": result})).encode())
    return Completed()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "w"), create=True)


def predicted(
    workers: Workers, parts: list[Portion], most: int = 2, until: str | None = None
) -> tuple[dict[str, str], Heard]:
    heard = Heard()
    work = Spread(workers.workspace, NIGHT, workers, most, poll_s=0)
    found = work.predict(parts, Until(until), heard)  # type: ignore[arg-type]
    return {image: item.state for image, item in found.items()}, heard


def test_portions_keep_all_runs_busy_and_none_is_large() -> None:
    ids = [f"i{number}" for number in range(10_000)]
    for number, most in ((1, 4), (100, 16), (10_000, 16), (10_000, 1)):
        parts = portions(ids[:number], most)
        assert [image for part in parts for image in part.images] == ids[:number]
        assert [part.number for part in parts] == list(range(len(parts)))
        assert max(len(part.images) for part in parts) <= MOST_IMAGES
    assert len(portions(ids[:100], 16)) == 100
    assert len(portions(ids, 16)) == 157


def test_no_more_runs_than_allowed_and_every_image_is_told_of(workspace: Workspace) -> None:
    workers = Workers(workspace, lambda portion: leave(workspace, portion, failing="i3"))
    found, heard = predicted(workers, portions([f"i{number}" for number in range(40)], 2), most=2)
    assert (workers.most, len(workers.begun)) == (2, 14)
    assert len(found) == heard.done == 40
    assert {image for image, state in found.items() if state == "failed"} == {"i3"}
    assert list(workspace.objects.list("nights")) == []
    assert "2 at work, 0 wait for a worker" in heard.said


def test_a_portion_whose_worker_dies_is_done_again_once(workspace: Workspace) -> None:
    def ending(portion: Portion) -> State[Any]:
        dies = (portion.number == 1 and portion.tries == 0) or portion.number == 2
        return Crashed(message="killed") if dies else leave(workspace, portion)

    workers = Workers(workspace, ending)
    found, heard = predicted(workers, portions(["a", "b", "c"], 1), most=1)
    assert found == {"a": "done", "b": "done", "c": "failed"}
    assert [portion.number for portion in workers.begun] == [0, 1, 1, 2, 2]
    assert heard.notes[0] == "portion 1: its run ended as Crashed: killed; it is done again"


def test_portions_that_come_to_nothing_end_the_night_before_all_are_tried(workspace: Workspace) -> None:
    workers = Workers(workspace, lambda portion: Failed(message="model m: no such package"))
    with pytest.raises(StageStoppedError, match=f"first {HOPELESS} portions came to anything.*no such package"):
        predicted(workers, portions([f"i{number}" for number in range(99)], 4), most=1)
    assert len(workers.begun) == HOPELESS


def test_what_no_worker_took_in_time_is_left_for_the_next_night(workspace: Workspace) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=0.4)).isoformat()
    workers = Workers(workspace, lambda portion: leave(workspace, portion) if portion.number == 0 else Scheduled())
    found, _ = predicted(workers, portions(["a", "b", "c"], 2), most=2, until=soon)
    assert found == {"a": "done"}
    assert len(workers.cancelled) == 2
    found, _ = predicted(workers, portions(["a"], 1), until="2020-01-01T00:00:00+00:00")
    assert (found, len(workers.begun)) == ({}, 3)


def test_a_record_of_other_images_counts_for_nothing(workspace: Workspace) -> None:
    """A night that was tried again dealt its images otherwise."""
    leave(workspace, Portion(0, ("other",)))
    found, _ = predicted(Workers(workspace, lambda portion: Completed()), portions(["a"], 1))
    assert found == {"a": "failed"}


def test_what_still_runs_is_cancelled_where_the_night_ends_early(workspace: Workspace) -> None:
    def ending(portion: Portion) -> State[Any]:
        raise KeyboardInterrupt

    workers = Workers(workspace, ending)
    with pytest.raises(KeyboardInterrupt):
        predicted(workers, portions(["a", "b", "c"], 2), most=2)
    assert len(workers.cancelled) == 2


def test_a_server_that_is_away_is_waited_for(workspace: Workspace) -> None:
    away = iter([True, False, True, True, *[False] * 20])
    workers = Workers(workspace, lambda portion: leave(workspace, portion))
    begin, states = workers.begin, workers.states
    workers.begin = lambda portion: None if next(away) else begin(portion)  # type: ignore[method-assign]
    workers.states = lambda runs: {} if next(away) else states(runs)  # type: ignore[method-assign]
    found, _ = predicted(workers, portions(["a", "b"], 1), most=1)
    assert found == {"a": "done", "b": "done"}
