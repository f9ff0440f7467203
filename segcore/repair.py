"""Repair: verify -> what can be made from the rest (store) -> what cannot, by the stage that made it -> verify.

Only what is damaged is made again: a shard of level 0 from its source or by its model, under the plan that stands; a
coarser one from the finer; metadata, plans and lists from what the others hold of them.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ConfigDict

from segcore.components.label import STAGE, make_components
from segcore.errors import SegcoreError, StoreError
from segcore.inference.again import config_again
from segcore.inference.search import screen_of
from segcore.inference.stage import predict
from segcore.ingest.again import ingest_again, job_again
from segcore.ingest.run import LABELS
from segcore.instances.make import make_objects
from segcore.instances.rule import Rule
from segcore.progress import SILENT, Progress
from segcore.refine.make import make_refined
from segcore.refine.steps import Steps
from segcore.store import (
    Ending,
    PlanState,
    Problem,
    Workspace,
    attributes_of,
    layer_name,
    mask_of_layer,
    mend,
    metadata_as_before,
    needs_its_stage,
    rebuild_label_list,
    restore_state,
    verify,
    verify_array,
    verify_common,
)

log = logging.getLogger("segcore.repair")

MADE_BY_INGEST = {"image", *LABELS}

ACTIONS = {
    "ghost": "deleted",
    "metadata": "written again",
    "list": "written again",
    "plan": "written again",
    "finished": "written again",
    "unfinished": "completed",
    "derived": "deleted: it is made anew when it is needed",
    "copy": "copied again",
}
"""What becomes of a problem, by its part; of shards see `_action`."""


class Repaired(BaseModel):
    """A problem that was found, and what became of it."""

    model_config = ConfigDict(frozen=True)

    problem: Problem
    action: str
    """What was done, or would be done; where it failed, why."""
    fixed: bool = False


def repair(
    workspace: Workspace, images: Sequence[str] = (), dry_run: bool = False, progress: Progress = SILENT
) -> list[Repaired]:
    """Make again what `verify` finds missing or damaged, and that alone.

    What is under repair is not complete until it is whole again; a repair that was killed is simply made again.

    Args:
        workspace: what to repair.
        images: image ids; none = all, and what belongs to no image.
        dry_run: say what would be done, and do nothing.
        progress: hears images, then shards.

    Returns:
        One per problem, those that only came to light in the course of it too.
    """
    found = verify(workspace, images, progress)
    if dry_run:
        return [Repaired(problem=problem, action=_action(problem)) for problem in found]
    work = _Repair(workspace, progress)
    for image_id, problems in groupby(found, key=lambda problem: problem.image):
        if image_id:
            work.image(image_id, list(problems))
        else:
            work.common(list(problems))
    return work.outcome(_left(workspace, found))


def _left(workspace: Workspace, found: Iterable[Problem]) -> list[Problem]:
    """What is still wrong where something was."""
    images = sorted({problem.image for problem in found})
    common = verify_common(workspace) if "" in images else []
    named = [image_id for image_id in images if image_id]
    return common + (verify(workspace, named) if named else [])


class _Repair:
    """One call of `repair`."""

    def __init__(self, workspace: Workspace, progress: Progress) -> None:
        self._workspace, self._progress = workspace, progress
        self._found: dict[tuple[str, str, str], Problem] = {}
        self._errors: dict[tuple[str, str], str] = {}
        """Why an image, or a label of it, could not be repaired."""

    def common(self, problems: Sequence[Problem]) -> None:
        """What belongs to no image."""
        self._note(problems)
        for problem in problems:
            if problem.part == "derived":
                self._workspace.objects.delete(problem.key)

    def image(self, image_id: str, problems: Sequence[Problem]) -> None:
        """An image first, then its labels, then its masks: each is made from those before it."""
        self._note(problems)
        for problem in problems:
            if problem.part == "derived":
                self._workspace.objects.delete(problem.key)
        names = {problem.name for problem in problems if problem.part not in ("derived", "list", "image")}
        self._attempt(image_id, names & MADE_BY_INGEST, self._repair_ingested)
        for name in self._in_order(image_id, names - MADE_BY_INGEST):
            self._attempt(image_id, {name}, self._repair_mask)
        if any(problem.part == "list" for problem in problems):
            rebuild_label_list(self._workspace, image_id)

    def _attempt(self, image_id: str, names: set[str], function: Callable[[str, set[str]], None]) -> None:
        try:
            function(image_id, names)
        except Exception as error:
            known = isinstance(error, SegcoreError)
            message = " ".join((str(error) if known else f"{type(error).__name__}: {error}").split())
            log.debug("%s: %s not repaired", image_id, ", ".join(sorted(names)), exc_info=error)
            self._progress.note(message)
            self._errors |= {(image_id, name): message for name in names}

    def _repair_ingested(self, image_id: str, names: set[str]) -> None:
        """An image and what was ingested with it. What cannot be made again stays as it was found."""
        found = {name: self._looked_at(image_id, name) for name in sorted(names)}
        endings = {name: self._ending(image_id, name) for name in found}
        lost = any(needs_its_stage(endings[name], found[name]) for name in found)
        again = job_again(image_id, attributes_of(self._ending(image_id, "image"))) if lost else None
        for name, problems in found.items():
            self._mend(image_id, name, problems)
        if again is not None:
            ingest_again(self._workspace, *again, self._progress)
            self._as_before(image_id, endings)

    def _repair_mask(self, image_id: str, names: set[str]) -> None:
        (name,) = names
        problems, ending = self._looked_at(image_id, name), self._ending(image_id, name)
        again: Callable[[], object] | None = None
        if needs_its_stage(ending, problems):
            for other in ("image", *sorted(self._looked_up(image_id, name))):
                if (image_id, other) in self._errors:
                    what = "the image" if other == "image" else other
                    raise StoreError(f"mask {name} of image {image_id}: made from {what}, which could not be repaired")
            again = self._made_by(image_id, name, attributes_of(ending).get("config", {}))
        self._mend(image_id, name, problems)
        if again is not None:
            again()
            self._as_before(image_id, {name: ending})

    def _made_by(self, image_id: str, name: str, made: dict[str, Any]) -> Callable[[], object]:
        """What makes a mask, a layer or objects go on, under the plan that stands."""
        frozen = self._state(image_id, name).load()
        plan = frozen["plan"]
        if plan.get("stage") == "instances":
            rule = Rule(depth_px=plan["depth_px"], min_px=plan["min_px"])
            return partial(make_objects, self._workspace, image_id, plan["mask"]["name"], rule, progress=self._progress)
        if plan.get("stage") == STAGE:
            return partial(make_components, self._workspace, image_id, plan["mask"]["name"], progress=self._progress)
        if plan.get("stage") == "refine":
            steps, mask = Steps.model_validate(plan["steps"]), plan["mask"]["name"]
            return partial(make_refined, self._workspace, image_id, mask, name, steps, progress=self._progress)
        config = config_again(self._workspace, image_id, name, frozen, made)

        def predicted() -> None:
            (item,) = predict(config, self._progress).items
            if item.error is not None:
                raise StoreError(item.error)

        return predicted

    def _looked_up(self, image_id: str, name: str) -> set[str]:
        """Labels that told a mask, or a layer of it, where to look; of objects what they are made of."""
        try:
            plan = self._state(image_id, name).load()["plan"]
        except SegcoreError:  # its own repair says what is wrong
            return set()
        if plan.get("stage") == "instances":
            mask = plan["mask"]["name"]
            return {mask, layer_name(mask, "depth")}
        if plan.get("stage") in (STAGE, "refine"):
            return {plan["mask"]["name"]}
        search = plan.get("search", {})
        label = {search["foreground"]["label"]} if "foreground" in search else set()
        label |= {"foreground"} if search.get("sample", {}).get("foreground") else set()
        mask = mask_of_layer(name, plan["layer"]) if "layer" in plan else name
        return label | ({screen_of(mask)} if "screen" in search else set())

    def _in_order(self, image_id: str, names: set[str]) -> list[str]:
        """Each mask after those that told it where to look."""
        ordered: list[str] = []

        def add(name: str) -> None:
            if name in names and name not in ordered:
                for other in sorted(self._looked_up(image_id, name) - {name}):
                    add(other)
                ordered.append(name)

        for name in sorted(names):
            add(name)
        return ordered

    def _mend(self, image_id: str, name: str, problems: Sequence[Problem]) -> None:
        if problems:
            mend(self._workspace, image_id, name, problems)

    def _state(self, image_id: str, name: str) -> PlanState:
        return restore_state(self._workspace, image_id, name)

    def _looked_at(self, image_id: str, name: str) -> list[Problem]:
        """Restore the plan and what else of the state was lost; with it more may come to light."""
        self._state(image_id, name)
        problems = verify_array(self._workspace, image_id, name)
        self._note(problems)
        return problems

    def _ending(self, image_id: str, name: str) -> Ending | None:
        return self._state(image_id, name).finished()

    def _as_before(self, image_id: str, endings: dict[str, Ending | None]) -> None:
        for name, ending in endings.items():
            if ending is not None:
                metadata_as_before(self._workspace, image_id, name, ending)

    def _note(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self._found.setdefault((problem.image, problem.name, problem.key), problem)

    def outcome(self, left: Sequence[Problem]) -> list[Repaired]:
        """What became of each problem.

        Args:
            left: what is still wrong.
        """
        still = {(problem.image, problem.name, problem.key) for problem in left}
        self._note(left)
        return [
            Repaired(problem=problem, action=self._action(problem, key not in still), fixed=key not in still)
            for key, problem in self._found.items()
        ]

    def _action(self, problem: Problem, fixed: bool) -> str:
        if fixed:
            return _action(problem)
        return f"not repaired: {self._errors.get((problem.image, problem.name), problem.what)}"


def _action(problem: Problem) -> str:
    """What is done about a problem."""
    if problem.part != "shard":
        return ACTIONS.get(problem.part, "nothing: it is for you to do")
    if problem.level:
        return "built again from the finer level"
    return "read again from its source" if problem.name in MADE_BY_INGEST else "inferred again"
