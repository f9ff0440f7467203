"""One predict in a process of its own, slowed down a little so that a kill finds it at work, or killed at a point."""

import json
import os
import time
from pathlib import Path
from typing import Any

from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.inference.numerics import Network
from segcore.repair import repair
from segcore.store import Objects, Workspace
from tests.faults.fatal import fatal


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
        setattr(Objects, method, fatal(getattr(Objects, method), log, point))
    predict_once(settings, answer, environment)


def repair_until(uri: str, point: tuple[str, str, int]) -> None:
    """Repair a workspace until a point, as in `predict_until`."""
    Objects.put = fatal(Objects.put, os.devnull, point)  # type: ignore[method-assign]
    repair(Workspace.open(uri))


def _slowly(original: Any) -> Any:
    def method(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.01)
        return original(*args, **kwargs)

    return method
