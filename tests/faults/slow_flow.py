"""A predict flow in a process of its own, on the server of `PREFECT_API_URL`, whose model takes its time.

python -m tests.faults.slow_flow WORKSPACE MODEL SECONDS    SECONDS for each tile
"""

import sys
import time
from typing import Any

from flows.running import run_stage_flow
from segcore.config import PredictConfig
from segcore.inference.numerics import Network


def main(uri: str, model: str, seconds: float) -> None:
    answers = Network.answers

    def slow(self: Network, *args: Any, **keywords: Any) -> Any:
        time.sleep(seconds)
        return answers(self, *args, **keywords)

    Network.answers = slow  # type: ignore[method-assign]
    settings = {"workspace": uri, "model": model, "name": "m", "shard_px": 256, "tile_px": 256, "tile_workers": 1}
    result = run_stage_flow("predict", PredictConfig.model_validate({**settings, "device": "cpu", "halo": 16}))
    print(result.items[0].state)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
