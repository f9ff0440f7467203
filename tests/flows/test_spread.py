"""Spread: which images go to which run, what becomes of runs that die, and of a night whose time is up."""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelling, Completed, Crashed, Failed, Pending, Running, Scheduled

from flows.portion import Portion, ServerRuns, record_key
from flows.spread import GRACE_S, HOPELESS, MOST_IMAGES, Spread, portions
from flows.tasks import StageStoppedError
from segcore.errors import StoreError
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

    def __init__(self, workspace: Workspace, ending: Ending, first: State[Any] | None = None) -> None:
        self.workspace, self.ending, self.first = workspace, ending, first or Running()
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
        found = {run: self.ending(self._portions[run]) if run in self._looked else self.first for run in asked}
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
    workers: Workers, parts: list[Portion], most: int = 2, until: Until | None = None, was_taken: bool = False
) -> tuple[dict[str, str], Heard]:
    heard = Heard()
    work = Spread(workers.workspace, NIGHT, workers, most, poll_s=0)
    work._was_taken = was_taken
    found = work.predict(parts, until or Until(None), heard)  # type: ignore[arg-type]
    return {image: item.state for image, item in found.items()}, heard


def test_portions_keep_all_runs_busy_and_none_is_large() -> None:
    ids = [f"i{number}" for number in range(10_000)]
    for number, most in ((1, 4), (100, 16), (10_000, 16), (10_000, 1)):
        parts = portions(dict.fromkeys(ids[:number], 3), most)
        assert [image for part in parts for image in part.images] == ids[:number]
        assert [part.number for part in parts] == list(range(len(parts)))
        assert max(len(part.images) for part in parts) <= MOST_IMAGES
    assert len(portions(dict.fromkeys(ids[:100], 1), 16)) == 100
    assert len(portions(dict.fromkeys(ids, 1), 16)) == 157


def test_a_large_image_is_a_portion_of_its_own() -> None:
    shards = {f"i{number}": 400 if number in (3, 17) else 1 for number in range(30)}
    parts = portions(shards, 2)  # about 52 shards each
    assert list(itertools.chain.from_iterable(part.images for part in parts)) == list(shards)
    assert [part.images for part in parts if {"i3", "i17"} & set(part.images)] == [("i3",), ("i17",)]
    assert len(parts) == 5


def test_no_more_runs_than_allowed_and_every_image_is_told_of(workspace: Workspace) -> None:
    workers = Workers(workspace, lambda portion: leave(workspace, portion, failing="i3"))
    found, heard = predicted(workers, portions({f"i{number}": 1 for number in range(40)}, 2), most=2)
    assert (workers.most, len(workers.begun)) == (2, 14)
    assert len(found) == heard.done == 40
    assert {image for image, state in found.items() if state == "failed"} == {"i3"}
    assert list(workspace.objects.list("nights")) == []
    assert "2 at work, 0 wait for a worker" in heard.said


def test_images_of_a_portion_whose_worker_dies_are_done_again_one_by_one(workspace: Workspace) -> None:
    def ending(portion: Portion) -> State[Any]:
        kills = "c" in portion.images or (portion.images == ("a",) and portion.tries == 0)
        return Crashed(message="killed") if kills else leave(workspace, portion)

    workers = Workers(workspace, ending)
    found, heard = predicted(workers, [Portion(0, ("a",)), Portion(1, ("b", "c", "d"))], most=1)
    assert found == {"a": "done", "b": "done", "c": "failed", "d": "done"}
    assert heard.notes[0] == "portion 0: its run ended as Crashed: killed; its images are done again, one by one"
    assert len({portion.number for portion in workers.begun}) == len(workers.begun) == 6


def test_a_run_that_the_server_lost_is_done_again(workspace: Workspace) -> None:
    """So ends one that somebody deleted, or cancelled."""
    for lost, states in ((Cancelling(), ["failed"]), (Crashed(), ["done"])):
        workers = Workers(workspace, lambda p, lost=lost: leave(workspace, p) if p.tries else lost)  # type: ignore[misc]
        found, _ = predicted(workers, portions({"a": 1}, 1))
        assert list(found.values()) == states


def test_portions_that_come_to_nothing_end_the_night_before_all_are_tried(workspace: Workspace) -> None:
    workers = Workers(workspace, lambda portion: Failed(message="model m: no such package"))
    with pytest.raises(StageStoppedError, match=f"first {HOPELESS} portions came to anything.*no such package"):
        predicted(workers, portions({f"i{number}": 1 for number in range(99)}, 4), most=1)
    assert len(workers.begun) == HOPELESS


class After(Until):
    """The time is up after so many looks at the clock."""

    def __init__(self, looks: int, ago: timedelta = timedelta(0)) -> None:
        super().__init__(None)
        self.moment, self._looks = datetime.now(UTC) - ago, looks

    @property
    def is_over(self) -> bool:
        self._looks -= 1
        return self._looks < 0


@pytest.mark.parametrize("state", [Scheduled(), Pending()])
def test_what_no_worker_began_in_time_is_left_for_the_next_night(workspace: Workspace, state: State[Any]) -> None:
    workers = Workers(workspace, lambda portion: leave(workspace, portion) if portion.number == 0 else state)
    found, _ = predicted(workers, portions({"a": 1, "b": 1, "c": 1}, 2), most=2, until=After(12))
    assert found == {"a": "done"}
    assert len(workers.cancelled) == 2
    found, _ = predicted(workers, portions({"a": 1}, 1), until=After(0), was_taken=True)
    assert (found, len(workers.begun)) == ({}, 3)


def test_a_run_that_does_not_end_is_given_up_at_last(workspace: Workspace) -> None:
    workers = Workers(workspace, lambda portion: Running())
    found, _ = predicted(workers, portions({"a": 1}, 1), until=After(5, timedelta(seconds=GRACE_S + 1)))
    assert found == {}
    assert len(workers.cancelled) == 1


def test_a_night_of_which_no_worker_takes_anything_says_so(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.spread.UNTAKEN_S", 0.0)
    workers = Workers(workspace, lambda portion: Scheduled(), first=Scheduled())
    heard = Heard()
    work = Spread(workspace, NIGHT, workers, 1, poll_s=0)
    with pytest.raises(StageStoppedError, match="no Prefect worker takes a portion; start one: prefect worker start"):
        work.predict(portions({"a": 1}, 1), After(20), heard)  # type: ignore[arg-type]
    assert len(heard.notes) == 1


def test_a_workspace_that_cannot_be_read_for_a_while_is_waited_for(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, left = workspace.objects.get, [3]

    def sometimes(key: str) -> bytes | None:
        if "portions" in key and left[0]:
            left[0] -= 1
            raise StoreError("the network is down")
        return get(key)

    monkeypatch.setattr(workspace.objects, "get", sometimes)
    found, _ = predicted(Workers(workspace, lambda portion: leave(workspace, portion)), portions({"a": 1}, 1))
    assert found == {"a": "done"}
    left[0] = 1000
    found, _ = predicted(Workers(workspace, lambda portion: leave(workspace, portion)), portions({"a": 1}, 1))
    assert found == {"a": "failed"}


def test_a_server_that_refuses_ends_the_night_and_one_that_is_away_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(code: int) -> None:
        request = httpx.Request("POST", "http://server/api")
        response = httpx.Response(code, text='{"detail": "modle:\\n unknown"}', request=request)
        raise PrefectHTTPStatusError("refused", request=request, response=response)

    runs = ServerRuns({"workspace": "w"}, NIGHT)
    monkeypatch.setattr("flows.portion.run_deployment", lambda *_, **__: answer(503))
    assert runs.begin(Portion(0, ("a",))) is None
    monkeypatch.setattr("flows.portion.run_deployment", lambda *_, **__: answer(409))
    with pytest.raises(StageStoppedError, match=r"the server refuses: 409 .*modle"):
        runs.begin(Portion(0, ("a",)))


def test_a_record_of_other_images_counts_for_nothing(workspace: Workspace) -> None:
    """A night that was tried again dealt its images otherwise."""
    leave(workspace, Portion(0, ("other",)))
    found, _ = predicted(Workers(workspace, lambda portion: Completed()), portions({"a": 1}, 1))
    assert found == {"a": "failed"}


def test_what_still_runs_is_cancelled_where_the_night_ends_early(workspace: Workspace) -> None:
    def ending(portion: Portion) -> State[Any]:
        raise KeyboardInterrupt

    workers = Workers(workspace, ending)
    with pytest.raises(KeyboardInterrupt):
        predicted(workers, portions({"a": 1, "b": 1, "c": 1}, 2), most=2)
    assert len(workers.cancelled) == 2


def test_a_server_that_is_away_is_waited_for(workspace: Workspace) -> None:
    away = iter([True, False, True, True, *[False] * 20])
    workers = Workers(workspace, lambda portion: leave(workspace, portion))
    begin, states = workers.begin, workers.states
    workers.begin = lambda portion: None if next(away) else begin(portion)  # type: ignore[method-assign]
    workers.states = lambda runs: {} if next(away) else states(runs)  # type: ignore[method-assign]
    found, _ = predicted(workers, portions({"a": 1, "b": 1}, 1), most=1)
    assert found == {"a": "done", "b": "done"}
