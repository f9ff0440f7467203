"""Verify: every byte of images and labels held against the ledger; nothing is decoded, nothing is changed."""

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from segcore.progress import SILENT, Progress
from segcore.store.arrays import shard_key
from segcore.store.plan import PlanState, digest_of, latest_plan
from segcore.store.pyramid import PyramidSpec
from segcore.store.workspace import Workspace, array_prefix, listed_labels


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
    known = set(workspace.objects.folders("state")) | set(workspace.image_ids())
    ids = list(images) or sorted(known - {"models"})
    progress.start("verify", len(ids), "images")
    problems: list[Problem] = []
    for image_id in ids:
        if image_id not in known:
            problems.append(
                Problem(image=image_id, name="image", key=array_prefix(image_id, "image"), what="no such image")
            )
        else:
            problems += _image_problems(workspace, image_id)
        progress.advance()
    return problems


def _image_problems(workspace: Workspace, image_id: str) -> Iterator[Problem]:
    labels = workspace.label_names(image_id)
    is_marked = workspace.objects.size(f"{array_prefix(image_id, 'image')}/zarr.json") is not None
    marked = {"image", *labels} if is_marked else set(labels)
    for name in sorted(marked | set(workspace.objects.folders(f"state/{image_id}"))):
        try:
            yield from _problems(workspace, image_id, name)
        except ValueError as error:  # a plan or a record that is no JSON any more
            what = f"damaged: {' '.join(str(error).split())[:200]}"
            yield Problem(image=image_id, name=name, key=f"state/{image_id}/{name}", what=what)
    listed = listed_labels(workspace, image_id)
    if sorted(listed) != sorted(labels):
        key = f"{array_prefix(image_id, 'image')}/labels/zarr.json"
        what = f"lists {', '.join(listed) or 'nothing'}; complete are {', '.join(labels) or 'none'}"
        yield Problem(image=image_id, name="image", key=key, what=what)


def _problems(workspace: Workspace, image_id: str, name: str) -> Iterator[Problem]:
    state = latest_plan(workspace.objects, image_id, name)
    prefix = array_prefix(image_id, name)
    if state is None:
        yield Problem(image=image_id, name=name, key=prefix, what="no plan: nothing tells what belongs to it")
        return
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
    for level in range(0 if spec.linked else len(spec.levels)):
        for shard in spec.grid(level).indices():
            key = shard_key(prefix, level, shard)
            record = state.record(level, shard)
            if record is None:
                yield Problem(image=image_id, name=name, key=key, what="no readable ledger record")
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
