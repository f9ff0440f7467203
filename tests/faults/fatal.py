"""A method of the store that kills its process at a point."""

import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

from segcore.store import Objects

_one_at_a_time = threading.RLock()
"""What a thread has written is in the log before another one kills both; the price: they write in turns."""


def fatal(original: Any, log: str, point: tuple[str, str, int] | None) -> Any:
    """Notes the key of every object that is written in the file `log`, and kills at a point (`predict_until`)."""
    when, pattern, left = point or ("never", "", 0)

    def method(objects: Objects, key: str, data: bytes) -> Any:
        nonlocal left
        with _one_at_a_time:
            left -= bool(re.search(pattern, key))
            strikes = left == 0 and re.search(pattern, key)
            if strikes and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            found = original(objects, key, data)
            with Path(log).open("a") as opened:
                opened.write(f"{key}\n")
            if strikes and when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return found

    return method
