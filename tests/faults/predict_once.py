"""One predict in a process of its own, slowed down a little so that a kill finds it at work, or killed at a point."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.inference.numerics import Network
from segcore.repair import repair
from segcore.store import Objects, Workspace


def predict_once(settings: dict[str, Any], answer: str, environment: dict[str, str]) -> None:
    """Run predict, and leave its only item's state, error and details as JSON in the file `answer`."""
    os.environ.update(environment)
    for method in ("ids", "logits"):
        setattr(Network, method, _slowly(getattr(Network, method)))
    item = predict(PredictConfig(**settings)).items[0]
    Path(answer).write_text(json.dumps({"state": item.state, "error": item.error, **item.details}))


def predict_until(
    settings: dict[str, Any], answer: str, environment: dict[str, str], log: str, point: tuple[str, str, int] | None
) -> None:
    """Run predict until a point, and leave the key of every object that it wrote, one a line, in the file `log`.

    Args:
        settings: of predict.
        answer: as in `predict_once`.
        environment: as there; where the workspace's server is.
        log: written to its end.
        point: "before" or "after", a pattern, and which writing of a key that it matches: there SIGKILL strikes.
            None = run to the end.
    """
    for method in ("put", "put_new"):
        setattr(Objects, method, _fatal(getattr(Objects, method), log, point))
    predict_once(settings, answer, environment)


def repair_until(uri: str, point: tuple[str, str, int]) -> None:
    """Repair a workspace until a point, as in `predict_until`."""
    Objects.put = _fatal(Objects.put, os.devnull, point)  # type: ignore[method-assign]
    repair(Workspace.open(uri))


def _fatal(original: Any, log: str, point: tuple[str, str, int] | None) -> Any:
    when, pattern, left = point or ("never", "", 0)

    def method(objects: Objects, key: str, data: bytes) -> Any:
        nonlocal left
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


def _slowly(original: Any) -> Any:
    def method(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.01)
        return original(*args, **kwargs)

    return method
