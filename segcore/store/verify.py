"""Verify: every byte of images and labels held against the ledger; nothing is decoded, nothing is changed."""

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from segcore.errors import SegcoreError
from segcore.progress import SILENT, Progress
from segcore.sources.stamps import content_digest
from segcore.store.arrays import object_keys
from segcore.store.linked import located, source_of
from segcore.store.ngff import MARKS
from segcore.store.plan import PlanState, digest_of, latest_plan
from segcore.store.pyramid import PyramidSpec
from segcore.store.workspace import Workspace, array_prefix, labels_to_list, listed_labels


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
    marked = {"image", *labels} if workspace.is_complete(image_id, "image") else set(labels)
    for name in sorted(marked | set(workspace.objects.folders(f"state/{image_id}"))):
        try:
            yield from _problems(workspace, image_id, name)
        except (ValueError, KeyError, TypeError, SegcoreError) as error:  # a plan, record or image that cannot be read
            what = f"damaged: {' '.join(str(error).split())[:200]}"
            yield Problem(image=image_id, name=name, key=f"state/{image_id}/{name}", what=what)
    listed, wanted = listed_labels(workspace, image_id), labels_to_list(workspace, image_id)
    if sorted(listed) != sorted(wanted):
        key = f"{array_prefix(image_id, 'image')}/labels/{MARKS[workspace.ngff_of(image_id)]}"
        what = f"lists {', '.join(listed) or 'nothing'}; complete are {', '.join(wanted) or 'none'}"
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
    spec = PyramidSpec.model_validate(state.load()["storage"])
    if spec.linked:
        yield from _copy_problems(workspace, image_id)
    else:
        yield from _shard_problems(workspace, image_id, name, state, spec)


def _copy_problems(workspace: Workspace, image_id: str) -> Iterator[Problem]:
    """Hold the copy of a linked image's source against its digest; a source elsewhere is not ours to check."""
    image = workspace.image(image_id)
    link = image.attributes["linked"]
    if not link["in_workspace"]:
        return
    key = f"sources/{image_id}"
    try:
        digest = content_digest(source_of(located(link, workspace.objects)), lambda: None)
    except SegcoreError as error:
        yield Problem(image=image_id, name="image", key=key, what=f"missing or unreadable: {error}")
        return
    if digest != image.digest:
        yield Problem(image=image_id, name="image", key=key, what="damaged: the copied source has another digest")


def _shard_problems(
    workspace: Workspace, image_id: str, name: str, state: PlanState, spec: PyramidSpec
) -> Iterator[Problem]:
    prefix = array_prefix(image_id, name)
    for level in range(len(spec.levels)):
        for shard in spec.grid(level).indices():
            keys = object_keys(spec, level, shard)
            record = state.record(level, shard)
            if record is None:
                key = f"{prefix}/{level}/{keys[0]}"
                yield Problem(image=image_id, name=name, key=key, what="no readable ledger record")
                continue
            for below in keys:
                key = f"{prefix}/{level}/{below}"
                if below in record.objects:
                    yield from _compared(workspace, image_id, name, key, record.objects[below][1])
                elif workspace.objects.size(key) is not None:
                    yield Problem(image=image_id, name=name, key=key, what="there, but the ledger says it is empty")


def _compared(workspace: Workspace, image_id: str, name: str, key: str, digest: str) -> Iterator[Problem]:
    data = workspace.objects.get(key)
    if data is None:
        yield Problem(image=image_id, name=name, key=key, what="missing")
    elif digest_of(data) != digest:
        yield Problem(image=image_id, name=name, key=key, what=f"damaged: {len(data)} bytes with another digest")
