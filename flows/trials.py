"""Trials: the workers of a study, each a Prefect task in a process of its own.

The workers speak to each other only through the study's journal in the workspace. So one that dies leaves its trial to
the others, and more of them may run elsewhere: `segcore tune` on another machine, or another run of this flow.
"""

import os

from prefect.logging import get_run_logger
from prefect.task_runners import ProcessPoolTaskRunner

from flows.tasks import run_stage
from segcore.config import TuneConfig

ONE = {"workers": 1}


def run_workers(config: TuneConfig) -> None:
    """Run as many workers as the config says, until no trial is left for them; how they end is only logged.

    Processes, not threads: torch's threads and random numbers belong to a process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = {"threads": config.threads or max(1, cores // config.workers)}
    settings = config.model_dump(mode="json", exclude_unset=True) | share | ONE
    with ProcessPoolTaskRunner(max_workers=config.workers) as runner:
        futures = [runner.submit(run_stage, {"stage": "tune", "settings": settings}) for _ in range(config.workers)]
        for future in futures:
            future.wait()
            if not future.state.is_completed():
                get_run_logger().warning("a worker of the study ended early: %s", future.state.message)


def alone(config: TuneConfig) -> TuneConfig:
    """The same study for one process, with all cores."""
    return config.model_copy(update=ONE)
