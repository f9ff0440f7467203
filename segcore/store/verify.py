"""Verify: every byte of images and labels held against the ledger; nothing is decoded, nothing is changed."""

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from segcore.progress import SILENT, Progress
from segcore.store.arrays import shard_key
from segcore.store.plan import PlanState, digest_of, latest_plan
from segcore.store.pyramid import PyramidSpec
from segcore.store.workspace import Workspace, array_prefix


class Problem(BaseModel):
    """One object that is not what the ledger says."""

    model_config = ConfigDict(frozen=True)

    image: str
    name: str
    """"image" or the label's name."""
    key: str
    what: str
    """missing, damaged, unfinished..."""


def verify(workspace: Workspace, images: Sequence[str] = (), progress: Progress = SILENT) -> list[Problem]:
    """Check shards, ledger and metadata.

    Args:
        workspace: what to check.
        images: image ids; none = all that have been begun.
        progress: hears one step per image.
    """
    ids = list(images) or workspace.objects.folders("state")
    ids = [image_id for image_id in ids if image_id != "models"]
    progress.start("verify", len(ids), "images")
    problems: list[Problem] = []
    for image_id in ids:
        for name in workspace.objects.folders(f"state/{image_id}"):
            problems += _problems(workspace, image_id, name)
        progress.advance()
    return problems


def _problems(workspace: Workspace, image_id: str, name: str) -> Iterator[Problem]:
    state = latest_plan(workspace.objects, image_id, name)
    if state is None:
        return
    prefix = array_prefix(image_id, name)
    metadata = state.finished()
    if metadata is None:
        yield Problem(image=image_id, name=name, key=prefix, what="not complete: run the command that makes it again")
        return
    for key, digest in metadata.items():
        yield from _compared(workspace, image_id, name, key, digest)
    yield from _shard_problems(workspace, image_id, name, state)


def _shard_problems(workspace: Workspace, image_id: str, name: str, state: PlanState) -> Iterator[Problem]:
    spec = PyramidSpec.model_validate(state.load()["storage"])
    prefix = array_prefix(image_id, name)
    records = state.records()
    for level in range(len(spec.levels)):
        for shard in spec.grid(level).indices():
            key = shard_key(prefix, level, shard)
            record = records.get((level, shard))
            if record is None:
                yield Problem(image=image_id, name=name, key=key, what="no ledger record")
            elif record.digest is not None:
                yield from _compared(workspace, image_id, name, key, record.digest)
            elif workspace.objects.size(key) is not None:
                yield Problem(image=image_id, name=name, key=key, what="there, but the ledger says it is empty")


def _compared(workspace: Workspace, image_id: str, name: str, key: str, digest: str) -> Iterator[Problem]:
    data = workspace.objects.get(key)
    if data is None:
        yield Problem(image=image_id, name=name, key=key, what="missing")
    elif digest_of(data) != digest:
        yield Problem(image=image_id, name=name, key=key, what=f"damaged: {len(data)} bytes with another digest")
