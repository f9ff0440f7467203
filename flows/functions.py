"""Functions: the one place that knows which function of segcore does a stage; loaded when it is called."""

import importlib
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from segcore.config import StageConfig
from segcore.progress import Progress
from segcore.results import StageResult

StageFunction = Callable[[StageConfig, Progress], StageResult]

FUNCTIONS = {
    "ingest": ("segcore.ingest", "ingest"),
    "train": ("segcore.training", "train"),
    "tune": ("segcore.tune", "tune"),
    "predict": ("segcore.inference", "predict"),
    "explain": ("segcore.explain", "explain"),
    "drift": ("segcore.drift", "drift"),
    "refine": ("segcore.refine", "refine"),
    "score": ("segcore.scoring.score", "score"),
    "measure": ("segcore.measurements", "measure"),
    "report": ("segcore.publish", "report"),
    "export": ("segcore.export", "export"),
    "clean": ("segcore.clean", "clean"),
}


def stage_function(stage: str) -> StageFunction:
    """The function behind a stage, by the stage's name; one that shall run on dask workers gets them as its crew."""
    module, name = FUNCTIONS[stage]
    function: Callable[..., StageResult] = getattr(importlib.import_module(module), name)

    @wraps(function)
    def run(config: StageConfig, progress: Progress) -> StageResult:
        where = getattr(config, "dask", None)
        if where is None or getattr(config, "dry_run", False):
            return function(config, progress)
        from flows.dask import dask_crew

        with dask_crew(where, isolated_mib=getattr(config, "memory_mib", None)) as crew:
            return function(config.model_copy(update={"dask": None, **_rooted(config)}), progress, crew)

    return run


def _rooted(config: StageConfig) -> dict[str, str]:
    """Workspace and output as dask workers find them, who start in other folders; else each would write to its own."""
    places = {name: getattr(config, name, None) for name in ("workspace", "output")}
    return {name: str(Path(place).absolute()) for name, place in places.items() if place and "://" not in place}
