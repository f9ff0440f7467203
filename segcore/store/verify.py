"""Verify: every byte of images and labels held against the ledger, and the state against its own seals.

No pixel is decoded, and nothing is changed.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from segcore.errors import SegcoreError
from segcore.geometry import Ints
from segcore.progress import SILENT, Progress
from segcore.sources.stamps import content_digest
from segcore.store.arrays import object_keys
from segcore.store.linked import located, source_of
from segcore.store.ngff import MARKS
from segcore.store.places import array_prefix
from segcore.store.plan import PlanState, digest_of, latest_plan, unseal
from segcore.store.pyramid import PyramidSpec
from segcore.store.workspace import MARKER, Workspace, label_list, labels_to_list, listed_labels

REPAIR = "run `segcore repair`"
BY_HAND = {
    "split": "delete it, and give the group's split in a manifest",
    "champion": "delete it, and promote the model that should stand",
}
"""What nothing can make again."""

Part = Literal[
    "shard",
    "ghost",
    "metadata",
    "list",
    "plan",
    "finished",
    "unfinished",
    "derived",
    "copy",
    "split",
    "champion",
    "image",
]
"""What a problem concerns, and with it the remedy: a `ghost` is an object that should not be there, `derived` is what
is made anew when it is missed, `copy` the copied source of a linked image."""


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
    part: Part
    level: int | None = None
    """Of a shard (its object or its ledger record)."""
    shard: Ints | None = None
    """Index of that shard."""


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
    problems = [] if images else verify_common(workspace)
    for image_id in ids:
        if image_id not in known:
            key = array_prefix(image_id, "image")
            problems.append(Problem(image=image_id, name="image", key=key, what="no such image", part="image"))
        else:
            problems += _image_problems(workspace, image_id)
        progress.advance()
    return problems


def verify_common(workspace: Workspace) -> list[Problem]:
    """Check what belongs to no image."""
    problems = list(_unsealed(workspace, "", "workspace", MARKER, "derived"))
    parts: dict[str, Part] = {"splits": "split", "champion": "champion", "nights": "derived", "state/models": "derived"}
    for folder, part in parts.items():
        for key in sorted(key for key, _ in workspace.objects.list(folder) if key.endswith(".json")):
            problems += _unsealed(workspace, "", "workspace", key, part)
    return problems


def _image_problems(workspace: Workspace, image_id: str) -> Iterator[Problem]:
    yield from _unsealed(workspace, image_id, "image", f"state/{image_id}/seen.json", "derived")
    labels = workspace.label_names(image_id)
    marked = {"image", *labels} if workspace.is_complete(image_id, "image") else set(labels)
    for name in sorted(marked | set(workspace.objects.folders(f"state/{image_id}"))):
        yield from verify_array(workspace, image_id, name)
    yield from _list_problems(workspace, image_id)


def _list_problems(workspace: Workspace, image_id: str) -> Iterator[Problem]:
    listed, wanted = listed_labels(workspace, image_id), labels_to_list(workspace, image_id)
    own = {"image": image_id, "name": "image", "part": "list"}
    expected = label_list(workspace, image_id, wanted)
    mark = next(key for key in expected if key.rsplit("/", 1)[-1] in MARKS.values())
    if sorted(listed) != sorted(wanted):
        what = f"lists {', '.join(listed) or 'nothing'}; complete are {', '.join(wanted) or 'none'}"
        yield Problem.model_validate({**own, "key": mark, "what": what})
        return
    for key, data in expected.items():
        found = workspace.objects.get(key)
        if found != data and (wanted or found is not None):
            what = (
                "missing" if found is None else f"damaged: not the list of {', '.join(wanted) or 'no label'}; {REPAIR}"
            )
            yield Problem.model_validate({**own, "key": key, "what": what})


def verify_array(workspace: Workspace, image_id: str, name: str) -> list[Problem]:
    """Check one image (`name` = "image") or label."""
    found: list[Problem] = []
    try:
        found.extend(_problems(workspace, image_id, name))
    except (ValueError, KeyError, TypeError, SegcoreError) as error:  # a plan, record or image that cannot be read
        what = f"damaged: {' '.join(str(error).split())[:200]}"
        found.append(Problem(image=image_id, name=name, key=f"state/{image_id}/{name}", what=what, part="plan"))
    return found


def _problems(workspace: Workspace, image_id: str, name: str) -> Iterator[Problem]:
    state = latest_plan(workspace.objects, image_id, name)
    prefix = array_prefix(image_id, name)
    if state is None:
        what = "no plan: nothing tells what belongs to it"
        yield Problem(image=image_id, name=name, key=prefix, what=what, part="plan")
        return
    for derived in ("score.json", "probs.json", "predict.json"):
        yield from _unsealed(workspace, image_id, name, f"state/{image_id}/{name}/{derived}", "derived")
    damaged_plan = list(_unsealed(workspace, image_id, name, f"{state.prefix}/plan.json", "plan"))
    damaged_end = list(_unsealed(workspace, image_id, name, f"{state.prefix}/finished.json", "finished"))
    yield from damaged_plan + damaged_end
    if damaged_plan:  # nothing tells which shards there should be
        return
    ending, ended = state.finished(), bool(damaged_end) or workspace.is_complete(image_id, name)
    if ending is None and not damaged_end:
        what = f"not complete: run the command that makes it again, or {REPAIR.removeprefix('run ')}"
        part: Part = "finished" if ended else "unfinished"
        yield Problem(image=image_id, name=name, key=prefix, what=what, part=part)
    metadata = {} if ending is None else ending.metadata
    wrong = [found for key, digest in metadata.items() for found in _compared(workspace, image_id, name, key, digest)]
    yield from wrong
    spec = PyramidSpec.model_validate(state.load()["storage"])
    if not spec.linked:
        yield from _shard_problems(workspace, image_id, name, state, spec, all_of_them=ended or ending is not None)
    elif ended and not wrong:
        yield from _copy_problems(workspace, image_id)


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
        yield Problem(image=image_id, name="image", key=key, what=f"missing or unreadable: {error}", part="copy")
        return
    if digest != image.digest:
        what = "damaged: the copied source has another digest"
        yield Problem(image=image_id, name="image", key=key, what=what, part="copy")


def _shard_problems(
    workspace: Workspace, image_id: str, name: str, state: PlanState, spec: PyramidSpec, all_of_them: bool
) -> Iterator[Problem]:
    """Hold the objects of every shard against its ledger record.

    Args:
        workspace: where they are.
        image_id: of the image.
        name: "image" or the label's.
        state: its plan.
        spec: its layout.
        all_of_them: every shard has to have a record; else it may still have to be written.
    """
    prefix = array_prefix(image_id, name)
    for level in range(len(spec.levels)):
        for shard in spec.grid(level).indices():
            keys = object_keys(spec, level, shard)
            place: dict[str, Any] = {"image": image_id, "name": name, "level": level, "shard": shard}
            record = state.record(level, shard)
            if record is None:
                ledger_key = state.record_key(level, shard)
                is_there = workspace.objects.size(ledger_key) is not None
                key = ledger_key if is_there else f"{prefix}/{level}/{keys[0]}"
                what = f"damaged: no readable ledger record; {REPAIR}" if is_there else "no readable ledger record"
                if is_there or all_of_them:
                    yield Problem(**place, key=key, what=what, part="shard")
                continue
            for below in keys:
                key = f"{prefix}/{level}/{below}"
                if below in record.objects:
                    for problem in _compared(workspace, image_id, name, key, record.objects[below][1]):
                        yield problem.model_copy(update={**place, "part": "shard"})
                elif workspace.objects.size(key) is not None:
                    yield Problem(**place, key=key, what="there, but the ledger says it is empty", part="ghost")


def _unsealed(workspace: Workspace, image_id: str, name: str, key: str, part: Part) -> Iterator[Problem]:
    """Hold an object of the state against its seal; none is fine."""
    data = workspace.objects.get(key)
    try:
        unseal(b"{}" if data is None else data)
    except ValueError as error:
        what = f"damaged ({error}); {BY_HAND.get(part, REPAIR)}"
        yield Problem(image=image_id, name=name, key=key, what=what, part=part)


def _compared(workspace: Workspace, image_id: str, name: str, key: str, digest: str) -> Iterator[Problem]:
    data = workspace.objects.get(key)
    if data is None:
        yield Problem(image=image_id, name=name, key=key, what="missing", part="metadata")
    elif digest_of(data) != digest:
        what = f"damaged: {len(data)} bytes with another digest"
        yield Problem(image=image_id, name=name, key=key, what=what, part="metadata")
