"""One refine, or one measure, in a process of its own, killed at a point."""

import os
from typing import Any

from segcore.components import cells, label
from segcore.config import MeasureConfig, RefineConfig
from segcore.measurements import measure
from segcore.refine import make, refine, work
from segcore.store import Objects
from tests.faults.fatal import fatal


def refine_until(settings: dict[str, Any], log: str, point: tuple[str, str, int] | None) -> None:
    """Run refine until a point, and leave the key of every object that it wrote, one a line, in the file `log`."""
    cells.CELL_SIDE_PX = 256
    label.MAX_THREADS = make.MAX_THREADS = 1  # what another thread writes is not in the log yet when the kill comes
    work.KEPT_CELLS = 0
    for method in ("put", "put_new"):
        setattr(Objects, method, fatal(getattr(Objects, method), log, point))
    items = refine(RefineConfig(**settings)).items
    if any(item.error for item in items):
        os._exit(3)


def measure_until(settings: dict[str, Any], log: str, point: tuple[str, str, int] | None) -> None:
    """The same of measure."""
    Objects.put_file = fatal(Objects.put_file, log, point)  # type: ignore[method-assign]
    if any(item.error for item in measure(MeasureConfig(**settings)).items):
        os._exit(3)
