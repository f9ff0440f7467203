"""Journal: whatever many processes append at once is there, once, and in one order for all readers."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest

from segcore.errors import StoreError
from segcore.store import Objects
from segcore.tune.journal import ObjectJournal
from tests.conftest import Bucket

NUM_WRITERS, NUM_ENTRIES = 4, 8


@pytest.fixture(params=["folder", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path)
    bucket: Bucket = request.getfixturevalue("bucket")
    return bucket.uri


def opened(uri: str) -> ObjectJournal:
    objects = Objects(uri)
    objects.create()
    return ObjectJournal(objects, "runs/s/journal")


@pytest.fixture(scope="module")
def process() -> Callable[..., Any]:
    """Starts processes that have all imported already."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["segcore.tune.journal"])
    return server.Process


def append_some(uri: str, writer: int, environ: dict[str, str]) -> None:
    os.environ.update(environ)  # the address of the S3 server, which is younger than the server that forks
    journal = opened(uri)
    for number in range(NUM_ENTRIES):
        journal.append_logs([{"writer": writer, "number": number}])


def check(logs: list[dict[str, Any]]) -> None:
    """Each entry once, and those of each writer in its own order."""
    assert len(logs) == NUM_WRITERS * NUM_ENTRIES
    for writer in range(NUM_WRITERS):
        assert [log["number"] for log in logs if log["writer"] == writer] == list(range(NUM_ENTRIES))


@pytest.mark.slow
def test_entries_of_many_processes_at_once_are_all_there_once(uri: str, process: Callable[..., Any]) -> None:
    environ = dict(os.environ)
    writers = [process(target=append_some, args=(uri, writer, environ)) for writer in range(NUM_WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * NUM_WRITERS
    first, second = list(opened(uri).read_logs(0)), list(opened(uri).read_logs(0))
    check(first)
    assert first == second


@pytest.mark.parametrize("shared", [True, False])
def test_entries_of_many_threads_at_once_are_all_there_once(uri: str, shared: bool) -> None:
    one = opened(uri)

    def append(writer: int) -> None:
        journal = one if shared else opened(uri)
        for number in range(NUM_ENTRIES):
            journal.append_logs([{"writer": writer, "number": number}])

    threads = [threading.Thread(target=append, args=(writer,)) for writer in range(NUM_WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(list(one.read_logs(0)))


def test_read_logs_begins_where_it_is_told_and_sees_what_others_add(tmp_path: Path) -> None:
    mine, other = opened(str(tmp_path)), opened(str(tmp_path))
    assert list(mine.read_logs(0)) == []
    other.append_logs([{"n": 0}, {"n": 1}, {"n": 2}])
    assert list(mine.read_logs(1)) == [{"n": 1}, {"n": 2}]
    other.append_logs([{"n": 3}])
    mine.append_logs([{"n": 4}])
    assert list(mine.read_logs(3)) == [{"n": 3}, {"n": 4}]
    assert list(mine.read_logs(9)) == []


def test_a_put_whose_answer_was_lost_is_not_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's client tries again by itself, and is told that the object is there: by the first try."""
    journal, put = opened(str(tmp_path)), obstore.put
    journal.append_logs([{"n": 0}])

    def twice(*given: Any, **named: Any) -> Any:
        put(*given, **named)
        return put(*given, **named)

    monkeypatch.setattr(obstore, "put", twice)
    journal.append_logs([{"n": 1}])
    monkeypatch.undo()
    journal.append_logs([{"n": 0}])
    assert list(opened(str(tmp_path)).read_logs(0)) == [{"n": 0}, {"n": 1}, {"n": 0}]


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    opened(str(tmp_path)).append_logs([{"n": 0}])
    (tmp_path / "runs/s/journal/0").write_bytes(b"{")
    with pytest.raises(StoreError, match=r"runs/s/journal/0: damaged journal of a study; give another --study"):
        list(opened(str(tmp_path)).read_logs(0))
