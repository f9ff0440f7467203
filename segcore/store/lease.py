"""Lease: who is writing an image, a mask or a training run. It only saves work; the plan keeps pixels right.

Terms are create-only objects `lease/<n>`; the owner goes on by creating `<n+1>`. A contender watches one
term on its own clock, so that no two machines' clocks are compared. An owner on the same machine that is
no longer alive is followed at once.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Self

import psutil

from segcore.errors import LeaseHeldError, StoreError
from segcore.store.objects import Objects

TERM_S = 30.0


def _machine() -> str:
    """Names this machine (and PID namespace) since its last start."""
    parts = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        if Path(path).exists():
            parts.append(str(Path(path).readlink()) if Path(path).is_symlink() else Path(path).read_text().strip())
    return " ".join(parts)


def _me() -> dict[str, Any]:
    return {"machine": _machine(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _is_dead(owner: dict[str, Any]) -> bool:
    """True if the owner surely lives no more; False where that cannot be known."""
    if owner.get("machine") != _machine():
        return False
    try:
        process = psutil.Process(owner["pid"])
        is_gone = process.status() == psutil.STATUS_ZOMBIE  # it was killed, and its parent has not looked yet
        return is_gone or bool(abs(process.create_time() - owner["started"]) > 1.0)
    except psutil.NoSuchProcess:
        return True


class Lease:
    """Taken in the constructor, renewed in a thread, given back by `release` or at the end of a `with`.

    Raises:
        LeaseHeldError: if another live process holds it.
    """

    def __init__(self, objects: Objects, prefix: str, term_s: float = TERM_S, wait: bool = True) -> None:
        """With `wait` the term of an owner elsewhere, who may be gone, is waited for; without it counts as held."""
        self._objects, self._prefix, self._term_s, self._wait = objects, prefix, term_s, wait
        self._id = uuid.uuid4().hex
        self._number = self._take()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease {prefix}", daemon=True)
        self._thread.start()

    def _newest(self) -> tuple[int, dict[str, Any]] | None:
        numbers = [int(key.rsplit("/", 1)[-1]) for key, _ in self._objects.list(self._prefix)]
        if not numbers:
            return None
        data = self._objects.get(f"{self._prefix}/{max(numbers)}")
        return (max(numbers), json.loads(data) if data else {})

    def _take(self) -> int:
        newest = self._newest()
        if newest is not None:
            number, term = newest
            if not term.get("released") and not _is_dead(term.get("owner", {})):
                self._outwait(number, term)
        number = 0 if newest is None else newest[0] + 1
        if not self._create(number):
            raise LeaseHeldError(f"{self._objects.describe(self._prefix)}: another process has just begun on it")
        return number

    def _outwait(self, number: int, term: dict[str, Any]) -> None:
        owner = term.get("owner", {})
        who = f"process {owner.get('pid')} on {str(owner.get('machine', 'another machine')).split(' ')[0]}"
        held = LeaseHeldError(
            f"{self._objects.describe(self._prefix)}: {who} is writing it; wait for it, or end it and run this again"
        )
        if owner.get("machine") == _machine() or not self._wait:
            raise held
        time.sleep(float(term.get("term_s", self._term_s)))
        newest = self._newest()
        if newest is None or newest[0] != number:
            raise held

    def _create(self, number: int, released: bool = False) -> bool:
        term = {"owner": _me(), "lease": self._id, "term_s": self._term_s, "released": released}
        created = self._objects.put_new(f"{self._prefix}/{number}", json.dumps(term).encode())
        if created and number >= 2:
            self._objects.delete(f"{self._prefix}/{number - 2}")
        return created

    def _renew(self) -> None:
        while not self._stop.wait(self._term_s / 3):
            try:
                if not self._create(self._number + 1):
                    return  # somebody took over: both write the same pixels, so going on harms nothing
                self._number += 1
            except StoreError:
                continue  # the store is away for a moment; the shards' own writes will tell if it stays away

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the lease back, so that the next run need not wait."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(StoreError):  # the store is away: the term runs out by itself
            if not self._create(self._number + 1, released=True) and self._is_own(self._number + 1):
                self._create(self._number + 2, released=True)  # a renewal had been written that we took for failed

    def _is_own(self, number: int) -> bool:
        term = self._objects.get(f"{self._prefix}/{number}")
        return term is not None and json.loads(term).get("lease") == self._id
