"""Objects that others make: those of one process, bit for bit, whoever fails on the way."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import PredictConfig
from segcore.errors import StoreError
from segcore.inference import predict
from segcore.instances.helper import Part
from segcore.results import StageResult
from segcore.store import Workspace, verify
from segcore.store.plan import create_plan, latest_plan
from tests.inference.room import Room
from tests.inference.scenes import every_level
from tests.inference.test_objects import Heard, crowd, reader
from tests.instances.scenes import discs, seen_by
from tests.synthetic import put_image

OF_MASKS, LARGE, SMALL = "work_off", ["find"] * 2 + ["write"] * 2, "whole"


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A large image of two work units, and two small ones."""
    monkeypatch.setattr("segcore.instances.lead.PART_SHARDS", 8)
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    put_image(ws, "a", crowd())
    for seed, image_id in enumerate("bc"):
        put_image(ws, image_id, seen_by(discs((200, 300), 60 + seed)))
    return ws


def run(ws: Workspace, crew: Room | None, name: str = "m", heard: Heard | None = None, **more: Any) -> StageResult:
    config = {"workspace": ws.uri, "model": reader(ws).model_id, "shard_px": 256, "precision": "float32", "name": name}
    return predict(PredictConfig.model_validate({**config, **more}), heard or Heard(), crew)


def objects_tasks(crew: Room) -> list[str]:
    return [name for name in crew.names if name != OF_MASKS]


def failing_at(name: str, count: int) -> Room:
    """A crew in which one task fails: that which calls a function for the n-th time."""

    def fail(number: int, order: Any) -> None:
        if room.names[-1] == name and room.names.count(name) == count:
            raise StoreError("a lamp broke")

    room = Room(fail)
    return room


def assert_same(ws: Workspace, image_ids: str = "abc") -> None:
    for image_id in image_ids:
        pairs = zip(every_level(ws, image_id, "m_instances"), every_level(ws, image_id, "alone_instances"), strict=True)
        for mine, theirs in pairs:
            np.testing.assert_array_equal(mine, theirs)
    assert verify(ws) == []


def test_the_objects_do_not_depend_on_who_makes_them(ws: Workspace) -> None:
    crew, heard = Room(), Heard()
    alone = run(ws, None, "alone")
    result = run(ws, crew, heard=heard)
    assert [item.state for item in result.items] == ["done"] * 3
    assert result.details["objects"] == alone.details["objects"]
    assert [item.details["objects"] for item in result.items] == [item.details["objects"] for item in alone.items]
    assert objects_tasks(crew) == [SMALL] * 2 + LARGE
    assert heard.shards == heard.total
    assert_same(ws)
    assert not [key for key, _ in ws.objects.list("state") if "fragments" in key]
    nothing = Room()
    assert [item.state for item in run(ws, nothing).items] == ["skipped"] * 3
    assert nothing.names == []


@pytest.mark.parametrize("name", [pytest.param("find", marks=pytest.mark.slow), "write"])
def test_a_unit_that_fails_fails_its_image_alone_and_the_next_call_goes_on(ws: Workspace, name: str) -> None:
    first = run(ws, failing_at(name, 2))
    assert [(item.image, item.state) for item in first.items] == [("a", "failed"), ("b", "done"), ("c", "done")]
    assert "a lamp broke" in str(first.items[0].error)
    again = Room()
    assert [item.state for item in run(ws, again).items] == ["done", "skipped", "skipped"]
    left = LARGE[1:] if name == "find" else ["write"]
    assert [each for each in objects_tasks(again) if each != SMALL] == left
    run(ws, None, "alone")
    assert_same(ws)


def test_small_units_go_together(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segcore.instances.lead.PART_SHARDS", 14)  # of 15 shards, 12 and 3 in a unit
    monkeypatch.setattr("segcore.store.pyramid.UNIT_SHARDS", 2)  # 6 units of 2 to 4
    crew, heard = Room(), Heard()
    assert run(ws, crew, heard=heard, images=["a"]).exit_code == 0
    assert objects_tasks(crew) == LARGE
    assert heard.shards == heard.total
    run(ws, None, "alone", images=["a"])
    assert_same(ws, "a")


def test_an_image_that_fails_as_a_whole_leaves_the_others(ws: Workspace) -> None:
    result = run(ws, failing_at(SMALL, 1))
    assert [(item.image, item.state) for item in result.items] == [("a", "done"), ("b", "failed"), ("c", "done")]
    assert run(ws, Room()).exit_code == 0
    run(ws, None, "alone")
    assert_same(ws)


def test_fragments_that_were_damaged_are_made_again(ws: Workspace) -> None:
    def damage(number: int, order: Any) -> None:
        if isinstance(order, Part):
            keys = [key for key, _ in ws.objects.list("state/a/m_instances") if "/fragments/" in key]
            for key in (key for key in keys if not key.endswith(".ids")):
                ws.objects.put(key, b"no zip")

    assert run(ws, Room(damage)).exit_code == 0
    run(ws, None, "alone")
    assert_same(ws)


def test_a_part_of_a_plan_that_was_replaced_is_refused(ws: Workspace) -> None:
    def replace(number: int, order: Any) -> None:
        if isinstance(order, Part):
            state = latest_plan(ws.objects, "a", "m_instances")
            assert state is not None
            frozen = state.load()
            create_plan(ws.objects, "a", "m_instances", state.number + 1, {**frozen, "other": True})

    (item, *_) = run(ws, Room(replace), images=["a"]).items
    assert item.state == "failed"
    assert "replaced since" in str(item.error)
