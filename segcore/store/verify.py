"""Verify: every byte of images and labels held against the ledger, and the state against its own seals.

No pixel is decoded, and nothing is changed.
"""

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from segcore.errors import SegcoreError
from segcore.progress import SILENT, Progress
from segcore.sources.stamps import content_digest
from segcore.store.arrays import object_keys
from segcore.store.linked import located, source_of
from segcore.store.ngff import MARKS
from segcore.store.places import array_prefix
from segcore.store.plan import PlanState, digest_of, latest_plan, unseal
from segcore.store.pyramid import PyramidSpec
from segcore.store.workspace import MARKER, Workspace, labels_to_list, listed_labels

MAKE_AGAIN = "run the command that made it with --overwrite"
DELETE = "delete it: the next run makes it anew"
DEAL_AGAIN = "delete it, and give the group's split in a manifest"


class Problem(BaseModel):
    """One object that is not what the ledger says."""

    model_config = ConfigDict(frozen=True)

    image: str
    """Empty for what belongs to the workspace as a whole."""
    name: str
    """"image" or the label's name; "workspace"."""
    key: str
    what: str
    """missing, damaged, unfinished..."""


def verify(workspace: Workspace, images: Sequence[str] = (), progress: Progress = SILENT) -> list[Problem]:
    """Check shards, ledger and metadata.

    Args:
        workspace: what to check.
        images: image ids; none = all that have been begun, and what belongs to no image.
        progress: hears one step per image.
    """
    known = set(workspace.objects.folders("state")) | set(workspace.image_ids())
    ids = list(images) or sorted(known - {"models"})
    progress.start("verify", len(ids), "images")
    problems = [] if images else list(_workspace_problems(workspace))
    for image_id in ids:
        if image_id not in known:
            problems.append(
                Problem(image=image_id, name="image", key=array_prefix(image_id, "image"), what="no such image")
            )
        else:
            problems += _image_problems(workspace, image_id)
        progress.advance()
    return problems


def _workspace_problems(workspace: Workspace) -> Iterator[Problem]:
    yield from _unsealed(workspace, "", "workspace", MARKER, DELETE)
    for folder, remedy in (("splits", DEAL_AGAIN), ("state/models", DELETE)):
        for key in sorted(key for key, _ in workspace.objects.list(folder) if key.endswith(".json")):
            yield from _unsealed(workspace, "", "workspace", key, remedy)


def _image_problems(workspace: Workspace, image_id: str) -> Iterator[Problem]:
    yield from _unsealed(workspace, image_id, "image", f"state/{image_id}/seen.json", DELETE)
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
    yield from _unsealed(workspace, image_id, name, f"state/{image_id}/{name}/score.json", DELETE)
    damaged_plan = list(_unsealed(workspace, image_id, name, f"{state.prefix}/plan.json", MAKE_AGAIN))
    damaged_end = list(_unsealed(workspace, image_id, name, f"{state.prefix}/finished.json", MAKE_AGAIN))
    yield from damaged_plan + damaged_end
    if damaged_plan:  # nothing tells which shards there should be
        return
    metadata = {} if damaged_end else state.finished()
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
                ledger_key = state.record_key(level, shard)
                is_there = workspace.objects.size(ledger_key) is not None
                key = ledger_key if is_there else f"{prefix}/{level}/{keys[0]}"
                what = f"damaged: no readable ledger record; {MAKE_AGAIN}" if is_there else "no readable ledger record"
                yield Problem(image=image_id, name=name, key=key, what=what)
                continue
            for below in keys:
                key = f"{prefix}/{level}/{below}"
                if below in record.objects:
                    yield from _compared(workspace, image_id, name, key, record.objects[below][1])
                elif workspace.objects.size(key) is not None:
                    yield Problem(image=image_id, name=name, key=key, what="there, but the ledger says it is empty")


def _unsealed(workspace: Workspace, image_id: str, name: str, key: str, remedy: str) -> Iterator[Problem]:
    """Hold an object of the state against its seal; none is fine."""
    data = workspace.objects.get(key)
    try:
        unseal(b"{}" if data is None else data)
    except ValueError as error:
        yield Problem(image=image_id, name=name, key=key, what=f"damaged ({error}); {remedy}")


def _compared(workspace: Workspace, image_id: str, name: str, key: str, digest: str) -> Iterator[Problem]:
    data = workspace.objects.get(key)
    if data is None:
        yield Problem(image=image_id, name=name, key=key, what="missing")
    elif digest_of(data) != digest:
        yield Problem(image=image_id, name=name, key=key, what=f"damaged: {len(data)} bytes with another digest")
