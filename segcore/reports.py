"""Reports: the finished ones of a workspace -> *what each is of*, and its score of each image, without a pixel.

reports/<run>/run.json         a few hundred bytes, written last: what the run was of
reports/<run>/images.parquet   what was counted in each image then
"""

import re
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict, ValidationError

from segcore.store import Workspace

THREADS = 8
MODEL_DIGEST = re.compile(r"-[0-9a-f]{8}$")


class Head(BaseModel):
    """`run.json`: what a report is of."""

    model_config = ConfigDict(frozen=True)

    run: str
    """The name of its folder."""
    created: str
    """UTC, ISO 8601."""
    mask: str
    title: str
    num_images: int
    num_failed: int
    scores: dict[str, float | None] = {}
    """The headline's, by name."""

    @property
    def lineage(self) -> str:
        return lineage(self.mask)


def lineage(mask: str) -> str:
    """What all masks of one series share: a mask's name without the digest of its model."""
    return MODEL_DIGEST.sub("", mask)


def table_key(run: str) -> str:
    """Where a run's table of images lies in the workspace."""
    return f"reports/{run}/images.parquet"


def heads(workspace: Workspace) -> list[Head]:
    """Of all finished reports of a workspace, the newest first; what cannot be read is passed over."""
    runs = workspace.objects.folders("reports")
    with ThreadPoolExecutor(THREADS) as threads:
        data = threads.map(lambda run: workspace.objects.get(f"reports/{run}/run.json"), runs)
        found = [_head(run, head) for run, head in zip(runs, data, strict=True) if head is not None]
    return sorted((head for head in found if head is not None), key=lambda head: head.created, reverse=True)


def _head(run: str, data: bytes) -> Head | None:
    try:
        # A copied folder is a report of its own, whatever stands inside.
        return Head.model_validate_json(data).model_copy(update={"run": run})
    except ValidationError:
        return None
