"""A peer in a process of its own, which loads its model once and then waits for its turns.

So each peer runs as its users run it: with its own packages, its own threads and the memory allocator as it finds it.
A peer's process warms up, then writes one JSON object when it is ready, and one per line that it reads:
`{"seconds": ...}`.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self


class PeerError(Exception):
    """A peer cannot take part; one line that says why."""


class Peer:
    """A process that waits for its turns; a context manager.

    Args:
        command: starts it.
        log: where its stderr goes.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log: IO[str] = log.open("w+")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        try:
            self._answer()
        except PeerError:
            self.__exit__(None, None, None)
            raise

    def seconds(self, asked: str = "turn") -> float:
        """One turn: seconds from store to store.

        Raises:
            PeerError: if the process has ended.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer, which says it
            self._process.stdin.write(f"{asked}\n")
            self._process.stdin.flush()
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # some write other lines too
                found: dict[str, Any] = json.loads(line)
                return found
        self._process.wait()
        self._log.seek(0)
        raise PeerError(last_line(self._log.read()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._log.close()


def serve(act: Callable[[str], object]) -> None:
    """In the peer's process: act once per line of stdin, and tell how long it took."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        act(line.strip())
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


def last_line(text: str) -> str:
    """What a process said last."""
    return (text.strip().splitlines() or ["it ended without a word"])[-1]
