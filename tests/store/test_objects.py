"""One conformance suite for every kind of place: local folder, memory, S3."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from segcore.errors import StoreError
from segcore.store import Objects, Workspace


def test_put_get_size_and_delete(workspace: Workspace) -> None:
    objects = workspace.objects
    assert objects.get("a/b") is None
    assert objects.size("a/b") is None
    objects.put("a/b", b"one")
    objects.put("a/b", b"three")
    assert objects.get("a/b") == b"three"
    assert objects.size("a/b") == 5
    objects.delete("a/b")
    objects.delete("a/b")
    assert objects.get("a/b") is None


def test_an_opened_object_is_read_part_by_part(workspace: Workspace) -> None:
    objects, data = workspace.objects, bytes(range(256)) * 5000
    assert objects.open("large") is None
    objects.put("large", data)
    with objects.open("large") as opened:  # type: ignore[union-attr]
        assert opened.read(10) == data[:10]
        opened.seek(-300, 2)
        assert (opened.tell(), opened.read()) == (len(data) - 300, data[-300:])
        opened.seek(1_000_003)
        assert opened.read(70_000) == data[1_000_003:1_070_003]


def test_put_new_has_one_winner_of_sixteen(workspace: Workspace) -> None:
    with ThreadPoolExecutor(16) as threads:
        won = list(threads.map(lambda i: workspace.objects.put_new("race", bytes([i])), range(16)))
    assert won.count(True) == 1
    assert workspace.objects.get("race") == bytes([won.index(True)])


def test_list_gives_keys_and_sizes_below_a_folder(workspace: Workspace) -> None:
    for key in ("x/1", "x/y/2", "xy/3"):
        workspace.objects.put(key, key.encode())
    assert sorted(workspace.objects.list("x")) == [("x/1", 3), ("x/y/2", 5)]
    assert list(workspace.objects.list("nothing")) == []


def test_folders_are_direct_children_only(workspace: Workspace) -> None:
    for key in ("f/b/1", "f/a/c/2", "f/file"):
        workspace.objects.put(key, b"")
    assert workspace.objects.folders("f") == ("a", "b")
    assert workspace.objects.folders("none") == ()


def test_delete_prefix_leaves_the_neighbours(workspace: Workspace) -> None:
    for key in ("d/1", "d/e/2", "de/3"):
        workspace.objects.put(key, b"x")
    workspace.objects.delete_prefix("d")
    assert list(workspace.objects.list("d")) == []
    assert workspace.objects.get("de/3") == b"x"


def test_newest_is_when_anything_below_was_written_last(workspace: Workspace) -> None:
    objects = workspace.objects
    assert objects.newest("n") is None
    began = datetime.now(UTC) - timedelta(seconds=2)  # S3 tells whole seconds
    objects.put("n/a", b"1")
    first = objects.newest("n")
    objects.put("n/b/c", b"2")
    last = objects.newest("n")
    assert first is not None
    assert last is not None
    assert began < first <= last
    assert objects.newest("n/b") == last


def test_drop_empty_leaves_what_holds_anything(local_workspace: Workspace) -> None:
    objects, folder = local_workspace.objects, Path(local_workspace.uri)
    objects.put("e/full/x", b"1")
    (folder / "e/a/b").mkdir(parents=True)
    objects.drop_empty("e")
    assert [path.name for path in (folder / "e").iterdir()] == ["full"]
    objects.delete("e/full/x")
    objects.drop_empty("e")
    assert not (folder / "e").exists()


def test_sweep_removes_what_killed_writers_leave(local_workspace: Workspace) -> None:
    folder = Path(local_workspace.uri)
    local_workspace.objects.put("s/whole", b"x")
    (folder / "s/whole#1").write_bytes(b"half")
    (folder / "s/other.partial").write_bytes(b"half")
    local_workspace.objects.sweep("s")
    assert sorted(path.name for path in (folder / "s").iterdir()) == ["whole"]


def test_an_unknown_scheme_is_refused_by_name() -> None:
    with pytest.raises(StoreError, match="unknown scheme 'ftp://'"):
        Objects("ftp://host/path")


def test_opening_a_missing_workspace_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no such folder.*segcore ingest"):
        Workspace.open(str(tmp_path / "none"))


def test_a_folder_that_is_no_workspace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(StoreError, match="not a segcore workspace"):
        Workspace.open(str(tmp_path))
