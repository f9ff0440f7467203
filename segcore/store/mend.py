"""Mend: what of a damaged image or label can be made from the rest of it, without its source or its model.

plan.json, finished.json, metadata    each from a copy in the others
coarser shards                        from the finer ones
level 0                               withdrawn from the ledger: the stage that made it makes it again, and nothing else
"""

from collections.abc import Sequence
from typing import Any

from segcore.errors import DamagedError, SegcoreError
from segcore.store import ngff
from segcore.store.places import array_prefix
from segcore.store.plan import Ending, PlanState, canonical_json, latest_plan, plan_difference, seal, state_prefix
from segcore.store.pyramid import PyramidSpec
from segcore.store.staging import Staging
from segcore.store.verify import Problem
from segcore.store.withdraw import unmark
from segcore.store.workspace import Workspace


def restore_state(workspace: Workspace, image_id: str, name: str) -> PlanState:
    """Write a lost or damaged `plan.json` or `finished.json` again, from what the other objects hold.

    Raises:
        DamagedError: if there is no plan any more.
    """
    state = _restored_plan(workspace, image_id, name)
    ending = state.finished()
    if ending is not None and ending.documents:
        return state
    documents = _documents(workspace, image_id, name, state, ending)
    if documents:
        with Staging.attach(workspace, image_id, name) as staging:
            state.put_finished(staging.ending(documents))
    return state


def _restored_plan(workspace: Workspace, image_id: str, name: str) -> PlanState:
    objects, prefix = workspace.objects, state_prefix(image_id, name)
    number = max((int(folder) for folder in objects.folders(prefix) if folder.isdigit()), default=0)
    state = PlanState(objects, prefix, number)
    key = f"{state.prefix}/plan.json"
    if objects.size(key) is not None and state.load(or_empty=True):
        return state
    ending = state.finished()
    if ending is None or not ending.frozen:
        where = objects.describe(key)
        raise DamagedError(f"{where}: lost, and no copy of it is left; run the command that made it with --overwrite")
    objects.put(key, canonical_json(seal(ending.frozen)))
    return state


def _documents(
    workspace: Workspace, image_id: str, name: str, state: PlanState, ending: Ending | None
) -> dict[str, bytes]:
    """The group's own metadata as they lie there; none if they are not all there, or not those of this plan."""
    version = workspace.ngff_of(image_id, name)
    keys = [f"{array_prefix(image_id, name)}/{key}" for key in ngff.group(version, {})]
    found = {key: workspace.objects.get(key) or b"" for key in keys}
    try:
        attributes = ngff.parsed(version, found[keys[-1]])["segcore"]
        text = all(data.decode() for data in found.values())
    except (ValueError, KeyError, TypeError):
        return {}
    if not text or attributes.get("plan") != state.number:
        return {}
    with Staging.attach(workspace, image_id, name) as staging:
        sound = ending is None or ending.metadata == staging.ending(found).metadata
    return found if sound else {}


def needs_its_stage(ending: Ending | None, problems: Sequence[Problem]) -> bool:
    """True if `mend` cannot make it whole: what is lost has to be read from the source or inferred again.

    Args:
        ending: its `finished.json`, after `restore_state`.
        problems: what `verify_array` found then.
    """
    lost = any(problem.part == "copy" or (problem.part == "shard" and problem.level == 0) for problem in problems)
    return lost or ending is None or not ending.documents


def mend(workspace: Workspace, image_id: str, name: str, problems: Sequence[Problem]) -> None:
    """Make whole again what can be made from the rest; what is damaged of level 0 is withdrawn from the ledger.

    Meanwhile it is not complete, and where it `needs_its_stage` it stays so until that has ended.

    Args:
        workspace: where it is.
        image_id: of the image.
        name: "image" or the label's.
        problems: what `verify_array` found, after `restore_state`.

    Raises:
        LeaseHeldError: if another process is writing it.
    """
    state = latest_plan(workspace.objects, image_id, name)
    assert state is not None, f"{image_id}/{name} has no plan"
    frozen, ending = state.load(), state.finished()
    unmark(workspace, image_id, name)
    spec = PyramidSpec.model_validate(frozen["storage"])
    with Staging.begin(workspace, image_id, name, frozen["plan"], spec) as staging:
        for problem in problems:
            if problem.part == "ghost":
                workspace.objects.delete(problem.key)
            elif problem.part == "shard":
                assert problem.level is not None, problem
                assert problem.shard is not None, problem
                staging.forget(problem.level, problem.shard)
        if ending is not None and not needs_its_stage(ending, problems):
            staging.finish_as(ending)


def metadata_as_before(workspace: Workspace, image_id: str, name: str, ending: Ending) -> None:
    """Give what a stage has made whole again the metadata it had: it says how, and by what version, it was made.

    Raises:
        SegcoreError: if it is not complete.
    """
    state = latest_plan(workspace.objects, image_id, name)
    if state is None or state.finished() is None or plan_difference(state.load(), ending.frozen):
        raise SegcoreError(f"{image_id}/{name}: expected it to be complete under the plan that it had")
    if state.finished() != ending:
        state.put_finished(ending)
        for key, text in ending.documents.items():
            workspace.objects.put(key, text.encode())


def attributes_of(ending: Ending | None) -> dict[str, Any]:
    """Our own attributes in the metadata that were kept; none if none were."""
    documents = {} if ending is None else ending.documents
    for version, mark in ngff.MARKS.items():
        for key, text in documents.items():
            if key.endswith(f"/{mark}"):
                own: dict[str, Any] = ngff.parsed(version, text.encode())["segcore"]
                return own
    return {}
