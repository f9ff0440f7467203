"""Job: a source that has failed keeps its leases while children still write pieces of it."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segcore.config import IngestConfig
from segcore.errors import SourceError
from segcore.ingest import ingest
from segcore.ingest.tasks import write_windows
from segcore.isolation import ChildPool, Outcome, Task


def is_held(workspace: Path) -> bool:
    """True while somebody has the lease of the one image."""
    terms = list(workspace.glob("state/*/image/lease/*"))
    newest = max(terms, key=lambda path: int(path.name))
    return not json.loads(newest.read_text())["released"]


class OneFails(ChildPool):
    """Of the first writing tasks one fails at once, while `beside` others are under way."""

    def __init__(self, workspace: Path, beside: int) -> None:
        super().__init__(1)
        self.workspace, self.beside = workspace, beside
        self.held: list[bool] = []
        """After the failure, after each task that was under way, and after all."""

    def run(self, tasks: Iterable[Task], on_beat: Callable[[Task, int], None] | None = None) -> Iterator[Outcome]:
        waiting = iter(tasks)
        for task in waiting:
            if task.function is not write_windows:
                yield from super().run([task], on_beat)
                continue
            under_way = [next(waiting) for _ in range(self.beside)]
            yield Outcome(task, error=SourceError("broken"))
            for other in under_way:
                self.held.append(is_held(self.workspace))
                yield from super().run([other], on_beat)
            assert next(waiting, None) is None, "a task of a failed job began"
            self.held.append(is_held(self.workspace))


@pytest.mark.parametrize("beside", [0, 1, 2, 3])
def test_a_failed_job_keeps_its_lease_until_its_last_task_has_ended(tmp_path: Path, beside: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(128, 128))
    config = IngestConfig(workspace=str(tmp_path / "w"), sources=(str(tmp_path / "a.tif"),), processes=1, shard_px=256)
    with OneFails(tmp_path / "w", beside) as pool:
        (item,) = ingest(config, pool=pool).items
    assert item.error == "broken"
    assert pool.held == [True] * beside + [False]
