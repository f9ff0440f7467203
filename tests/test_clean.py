"""Clean: what goes and what stays, by hand-made workspaces; a mask that is being written; a dry run."""

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.champion import promote
from segcore.classes import ClassInfo
from segcore.clean import FINDERS, clean
from segcore.config import CleanConfig, RefineConfig
from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.refine import refine
from segcore.results import StageResult
from segcore.selection import select
from segcore.store import Lease, Objects, Workspace, forget, verify
from tests.synthetic import put_image, put_label

CLASSES = (ClassInfo(id=0, name="background", color=(0, 0, 0)), ClassInfo(id=1, name="a", color=(9, 9, 9)))


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """Image `a` has five masks, of 100, 200, ... days; `b` one of 500; each a target; runs and reports as old."""
    ws = Workspace.open(str(tmp_path / "w"), create=True)
    for image_id, masks in (("a", ("m1", "m2", "m3", "m4", "m5", "m5.screen", "m5_instances")), ("b", ("m5",))):
        put_image(ws, image_id, np.ones((1, 40, 40), np.uint8))
        for name in ("target", *masks):
            put_label(ws, image_id, name, np.zeros((40, 40), np.uint8), CLASSES)
    for number in (1, 2, 3):
        ws.objects.put(f"runs/r{number}/last.pt", b"12345")
        ws.objects.put(f"reports/p{number}/report.html", b"123")
    age(ws, 600, "")
    for number in range(1, 6):
        for prefix in (f"state/a/m{number}", f"runs/r{number}", f"reports/p{number}"):
            age(ws, 100 * number, prefix)
    return ws


def age(ws: Workspace, days: float, prefix: str) -> None:
    when = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    folder = Path(ws.uri, prefix)
    for path in folder.rglob("*") if folder.is_dir() else []:
        os.utime(path, (when, when))


def run(ws: Workspace, **settings: Any) -> StageResult:
    return clean(CleanConfig.model_validate({"workspace": ws.uri, "keep_masks": 2, "older_than": "90d", **settings}))


def done(result: StageResult) -> set[tuple[str, str, str | None]]:
    return {(i.details["kind"], i.details["name"], i.image) for i in result.items if i.state == "done"}


def everything(ws: Workspace) -> list[str]:
    return sorted(str(path) for path in Path(ws.uri).rglob("*"))


OLD_OF_A = {("mask", name, "a") for name in ("m3", "m4", "m5")}


def test_the_oldest_masks_go_with_what_belongs_to_them_and_nothing_else(ws: Workspace) -> None:
    assert done(run(ws, what=("masks",))) == OLD_OF_A
    assert ws.label_names("a") == ["m1", "m2", "target"]
    assert ws.objects.folders("state/a") == ("image", "m1", "m2", "target")
    assert not Path(ws.uri, "images/a.ome.zarr/labels/m5").exists()
    assert ws.label_names("b") == ["m5", "target"]  # it is the newest that b has
    assert verify(ws) == []
    assert done(run(ws, what=("masks",))) == set()


def test_younger_ones_stay_whatever_their_number(ws: Workspace) -> None:
    assert done(run(ws, what=("masks",), older_than="450d")) == {("mask", "m5", "a")}


def test_the_champions_mask_and_those_that_are_named_stay(ws: Workspace) -> None:
    promote(ws, "m5")
    assert done(run(ws, what=("masks",), keep=("m4",))) == {("mask", "m3", "a")}


def test_a_refined_mask_stays_or_goes_with_what_it_was_made_of(ws: Workspace) -> None:
    """It cannot be opened without; and counts as none of the newest."""
    for name in ("m3", "m3_refined", "m4", "m4_refined"):
        refine(RefineConfig(workspace=ws.uri, model=name, images=("a",), min_size="5"))
        age(ws, 1000, f"state/a/{name}_refined")
    kept = run(ws, what=("masks",), keep=("m3_refined_refined",))
    assert done(kept) == {("mask", "m4", "a"), ("mask", "m5", "a")}
    assert set(ws.label_names("a")) == {"target", "m1", "m2", "m3", "m3_refined", "m3_refined_refined"}
    assert select(ws, "m3_refined_refined", ("a",))[0].error is None
    forget(ws, "a", "m3")
    ws.objects.delete_prefix("state/a/m3")
    assert ("mask", "m3_refined", "a") in done(run(ws, what=("masks",)))


def test_runs_and_reports_go_but_the_newest_report_and_a_champions(ws: Workspace) -> None:
    promote(ws, "m1", report=f"{ws.uri}/reports/p3/report.html")
    result = run(ws, what=("runs", "reports"), older_than="150d", keep=("r2",))
    assert done(result) == {("run", "r3", None), ("report", "p2", None)}
    assert ws.objects.folders("runs") == ("r1", "r2")
    assert ws.objects.folders("reports") == ("p1", "p3")
    assert result.details == {"dry_run": False, "bytes": 8, "run": 1, "report": 1}


def test_a_dry_run_says_the_same_and_changes_nothing(ws: Workspace) -> None:
    before = everything(ws)
    planned = run(ws, dry_run=True)
    assert everything(ws) == before
    assert done(planned) == done(run(ws))
    assert planned.details["bytes"] > 0


def test_what_somebody_writes_stays(ws: Workspace) -> None:
    with Lease(ws.objects, "state/a/m4/lease"):
        age(ws, 400, "state/a/m4")
        result = run(ws, what=("masks",))
    assert done(result) == OLD_OF_A - {("mask", "m4", "a")}
    assert [(item.state, item.details) for item in result.items if item.state != "done"] == [
        ("skipped", {"reason": "in use"})
    ]
    assert "m4" in ws.label_names("a")


def test_what_was_written_since_it_was_looked_at_stays(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [old for old in FINDERS["masks"](ws, CleanConfig(workspace=ws.uri, keep_masks=2)) if old.name == "m4"]
    put_label(ws, "a", "m4", np.ones((40, 40), np.uint8), CLASSES, version=1)
    monkeypatch.setitem(FINDERS, "masks", lambda workspace, config: iter(found))
    assert [item.state for item in run(ws, what=("masks",)).items] == ["skipped"]
    assert ws.label("a", "m4").digest == "m4-1"


def test_neither_a_lease_nor_an_unfinished_mask_counts_as_a_newer_one(ws: Workspace) -> None:
    withdraw_mark = Path(ws.uri, "images/a.ome.zarr/labels/m5/zarr.json")
    withdraw_mark.unlink()
    with Lease(ws.objects, "state/a/m4/lease"), Lease(ws.objects, "state/a/m5/lease"):
        assert done(run(ws, what=("masks",))) == {("mask", "m3", "a")}
    assert {"m1", "m2", "m4"} <= set(ws.label_names("a"))


def _killed_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    deletions = iter(range(number))
    delete = Objects.delete

    def mortal(self: Objects, key: str) -> None:
        if "/lease/" not in key and next(deletions, None) is None:
            raise KeyboardInterrupt
        delete(self, key)

    monkeypatch.setattr(Objects, "delete", mortal)


def test_of_a_mask_whose_cleaning_was_killed_nothing_is_believed_and_the_rest_goes_next_time(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All-background shards have no object: a record of one that outlives its plan would count for the next plan."""
    new = np.ones((40, 40), np.uint8)
    for number in range(100):
        put_label(ws, "a", "m9", np.zeros_like(new), CLASSES)
        put_label(ws, "a", "m9_instances", np.zeros_like(new), CLASSES)
        for prefix in ("state/a/m9", "state/a/m9_instances"):
            age(ws, 900, prefix)
        with monkeypatch.context() as patch:
            _killed_at(patch, number)
            try:
                run(ws, what=("masks",), keep=("m2", "m3", "m4", "m5"), keep_masks=1)
                break
            except KeyboardInterrupt:
                pass
        names = [name for name in ws.objects.folders("state/a") if name.startswith("m9")]
        assert names == [] or "m9" in names  # else nobody would find the others
        put_label(ws, "a", "m9", new, CLASSES, version=1)
        assert (ws.label("a", "m9").read(Window.whole(new.shape)) == new).all()
        forget(ws, "a", "m9")
        forget(ws, "a", "m9_instances")
        for name in ("m9", "m9_instances"):
            ws.objects.delete_prefix(f"state/a/{name}")
    assert number >= 10
    assert not [name for name in ws.objects.folders("state/a") if name.startswith("m9")]
    assert verify(ws) == []


def test_two_cleanings_at_once_end_as_one(ws: Workspace) -> None:
    threads = [threading.Thread(target=run, args=(ws,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ws.label_names("a") == ["m1", "m2", "target"]
    assert verify(ws) == []


def test_leases_that_were_given_back_go(ws: Workspace) -> None:
    Lease(ws.objects, "state/a/m1/lease").release()
    assert ("lease", "m1", "a") not in done(run(ws, what=("leases",)))
    age(ws, 100, "state/a/m1")
    assert ("lease", "m1", "a") in done(run(ws, what=("leases",)))
    assert list(ws.objects.list("state/a/m1/lease")) == []
    assert "m1" in ws.label_names("a")


def test_anything_else_is_refused(ws: Workspace) -> None:
    with pytest.raises(ConfigError, match="expected some of masks, runs, reports, leases, got images"):
        run(ws, what=("images",))
