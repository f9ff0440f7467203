"""What the dask workers of scale_out.py load first: a model that sleeps, as one does that a GPU computes."""

import os
import time
from typing import Any

from segcore.inference.numerics import Network

SECONDS = "SEGCORE_BENCHMARK_SLEEP_S"
"""In the environment: how long a call takes."""


def slow_down() -> None:
    """From now on every call of a network takes so long, without the CPU."""
    answers = Network.answers

    def slow(self: Network, *args: Any, **keywords: Any) -> Any:
        time.sleep(float(os.environ[SECONDS]))
        return answers(self, *args, **keywords)

    Network.answers = slow  # type: ignore[method-assign]


def dask_setup(worker: Any) -> None:
    """Called by dask in each of its workers."""
    slow_down()
