"""Journal: Optuna's record of a study as objects of the workspace, on a folder or an object store alike.

    runs/<study>/journal/0, 1, 2...     one entry each, in the order in which they count

An entry is a create-only object under the first number that is free. So any number of processes may append at once,
without a lock: of those who want a number one gets it, the others take the next; nothing is overwritten, and no number
is left out.
"""

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from segcore.errors import StoreError
from segcore.store import Objects

READERS = 16
"""Threads that read a journal of thousands of entries when a study is opened."""


class ObjectJournal(BaseJournalBackend):
    """The entries below a prefix. Safe to use from many threads and processes."""

    def __init__(self, objects: Objects, prefix: str) -> None:
        self._objects, self._prefix = objects, prefix
        self._known = 0
        """So many entries are there at least."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries; each is on the disk when this returns."""
        for log in logs:
            self._append({"id": uuid.uuid4().hex, "log": log})

    def _append(self, entry: dict[str, Any]) -> None:
        data = json.dumps(entry).encode()
        number = self._known
        while not self._objects.put_new(self._key(number), data):
            number += 1
        self._known = max(self._known, number + 1)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Entries from a number on."""
        number = log_number_from
        if number == 0:
            there = sum(1 for _ in self._objects.list(self._prefix))
            with ThreadPoolExecutor(READERS) as pool:
                for log in pool.map(self._read, range(there)):
                    assert log is not None, f"{self._prefix}: an entry below {there} is missing"
                    yield log
            number = there
        while (log := self._read(number)) is not None:
            yield log
            number += 1
        self._known = max(self._known, number)

    def _read(self, number: int) -> dict[str, Any] | None:
        data = self._objects.get(self._key(number))
        if data is None:
            return None
        try:
            log: dict[str, Any] = json.loads(data)["log"]
        except (ValueError, KeyError, TypeError) as error:
            where = self._objects.describe(self._key(number))
            raise StoreError(f"{where}: damaged journal of a study; give another --study") from error
        return log

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{number}"
