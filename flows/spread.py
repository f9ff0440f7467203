"""Spread: images that have no mask yet -> *runs of their own on all Prefect workers*, some at a time.

    nightly (no pixel)    which images are left? -> portions of them -> at most so many runs at one time
    portion, on a worker  predict of its images -> what became of each, in the workspace

A run is a portion of images, so that ten thousand small images are some hundred runs, each of which loads the model
once, and few images are a run each.
"""

import itertools
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Failed

from flows.artifacts import FlowProgress
from flows.metrics import counted
from flows.portion import Portion, ServerRuns, record_key, records_of
from flows.tasks import StageStoppedError, stage
from segcore.errors import StoreError
from segcore.results import ItemResult, StageResult
from segcore.store import Workspace, unseal
from segcore.until import Until

MOST_IMAGES = 64
"""Of a portion: what is lost of one that is killed is little."""
ROUNDS = 8
"""Portions for each run at a time, of about as many shards each: the last ones end at about the same time."""
TRIES = 2
"""Of a portion whose worker died."""
HOPELESS = 3
"""Portions that came to nothing, before any came to something: the others would not either."""
LOOKS = 10
"""For what a run left, while the workspace cannot be read."""
POLL_S = 5.0
UNTAKEN_S = 600.0
"""After which the log says that no worker takes anything."""
GRACE_S = 3600.0
"""After the time is up, for runs at work: they know the time themselves, and end with their work units."""


class Runs(Protocol):
    """Starts runs, and knows how they are; Prefect's server, but for tests."""

    def begin(self, portion: Portion) -> UUID | None:
        """Have a worker take it; None where the server cannot be asked at the moment."""

    def states(self, runs: Iterable[UUID]) -> Mapping[UUID, State[Any]]:
        """How they are; of one that is not named, nobody knows at the moment."""

    def cancel(self, runs: Iterable[UUID]) -> None:
        """End them, or see that they never begin."""


def spread(settings: Mapping[str, Any], most: int, runs: Runs | None = None) -> StageResult:
    """Predict by runs on Prefect's workers; images whose masks are finished need none.

    Args:
        settings: of predict; `images` and `until` among them.
        most: runs at one time.
        runs: by default the deployment `portion` on the server in use.

    Raises:
        StageStoppedError: if no image can be predicted, or the deployment is not there.
    """
    with counted("predict", settings) as outcome:
        # With the time up, predict says what is finished, and computes no mask; dask's workers would come for nothing.
        look = {**settings, "until": datetime.now(UTC).isoformat(), "dask": None}
        known = stage("predict", look, role="look")
        open_ = (item for item in known.items if item.state == "left" and item.image)
        left = {str(item.image): int(item.details.get("shards_left", 1)) for item in open_}
        if not left:
            outcome.result = known
            return known
        night = UUID(str(flow_run.id))
        with FlowProgress("predict") as progress:
            progress.start("predict", len(left), f"images, by {most} runs at a time")
            work = Spread(Workspace.open(settings["workspace"]), night, runs or ServerRuns(settings, night), most)
            found = work.predict(portions(left, most), Until(settings.get("until")), progress)
        items = tuple(found.get(item.image or "", item) for item in known.items)
        paths = tuple(item.path for item in items if item.path)
        more = {"seconds": time.monotonic() - outcome.began, "peak_mib": max([known.peak_mib, *work.peaks_mib])}
        outcome.result = known.model_copy(update={"items": items, "paths": paths, **more})
        return outcome.result


def portions(images: Mapping[str, int], most: int) -> list[Portion]:
    """The images in their order, in portions that keep so many runs busy to the end.

    Args:
        images: shards that are left of each, by its id.
        most: runs at one time.
    """
    aim = sum(images.values()) / (ROUNDS * most)
    found: list[tuple[str, ...]] = []
    own: list[str] = []
    shards = 0
    for image_id, left in images.items():
        if own and (shards + left / 2 > aim or len(own) == MOST_IMAGES):  # nearer to the aim without it
            found.append(tuple(own))
            own, shards = [], 0
        own.append(image_id)
        shards += left
    return [Portion(number, part) for number, part in enumerate([*found, tuple(own)] if own else found)]


class Spread:
    """Portions, and what came of them."""

    def __init__(self, workspace: Workspace, night: UUID, runs: Runs, most: int, poll_s: float = POLL_S) -> None:
        self._workspace, self._night, self._runs, self._most, self._poll_s = workspace, night, runs, most, poll_s
        self._found: dict[str, ItemResult] = {}
        self._left, self._open = deque[Portion](), dict[UUID, Portion]()
        self._numbers = itertools.count()
        self._lost = 0
        self._was_taken = self._was_told = False
        self._began = time.monotonic()
        self.peaks_mib: list[float] = []

    def predict(self, waiting: Sequence[Portion], until: Until, progress: FlowProgress) -> dict[str, ItemResult]:
        """Run them all; by image id what became of each. Those that the time did not reach are left out.

        Raises:
            StageStoppedError: if nothing comes of the first ones, or no worker took any in time.
        """
        self._left, self._numbers = deque(waiting), itertools.count(len(waiting))
        try:
            while self._left or self._open:
                while self._left and len(self._open) < self._most and not until.is_over:
                    run = self._runs.begin(self._left[0])
                    if run is None:
                        break
                    self._open[run] = self._left.popleft()
                if until.is_over and not self._open:
                    break
                states = self._runs.states(self._open)
                self._was_taken |= any(not state.is_scheduled() for state in states.values())
                for run, state in states.items():
                    if state.is_final() or state.is_cancelling():
                        self._ended(run, state, progress)
                if until.is_over:
                    self._give_up(until, states)
                progress.status(told(states))
                self._tell_if_untaken(progress)
                if self._left or self._open:
                    time.sleep(self._poll_s)
        finally:
            self._runs.cancel(self._open)
            with suppress(StoreError):
                self._workspace.objects.delete_prefix(records_of(self._night))
        if waiting and not self._was_taken:
            raise StageStoppedError(f"predict: {UNTAKEN}")
        return self._found

    def _give_up(self, until: Until, states: Mapping[UUID, State[Any]]) -> None:
        """The time is up: what no worker has begun is for the next night, and at last what does not end either."""
        assert until.moment is not None, "the time is up"
        is_late = datetime.now(UTC) > until.moment + timedelta(seconds=GRACE_S)
        idle = [run for run in self._open if is_late or (run in states and is_idle(states[run]))]
        self._runs.cancel(idle)
        for run in idle:
            del self._open[run]

    def _tell_if_untaken(self, progress: FlowProgress) -> None:
        if not self._was_taken and not self._was_told and time.monotonic() - self._began > UNTAKEN_S:
            self._was_told = True
            progress.note(UNTAKEN)

    def _ended(self, run: UUID, state: State[Any], progress: FlowProgress) -> None:
        """Take what a run came to, and see what is to be tried again."""
        ended = self._open[run]
        try:
            result = self._record(ended)
        except StoreError as error:
            ended.looks += 1
            if ended.looks < LOOKS:
                return  # it is looked for again
            result, state = None, Failed(message=str(error))
        del self._open[run]
        if result is not None:
            self._found |= {item.image: item for item in result.items if item.image}
            self.peaks_mib.append(result.peak_mib)
            progress.advance(len(ended.images))
            return
        why = f"its run ended as {state.name}: {state.message or 'without a message'}"
        if state.is_completed():
            why = "its run left no record in the workspace; has its worker the same workspace and version?"
        ended.tries += 1
        if state.is_crashed() and ended.tries < TRIES:
            progress.note(f"portion {ended.number}: {why}; its images are done again, one by one")
            # One image that kills its process shall not take others along; those that are finished are so at once.
            self._left.extendleft(Portion(next(self._numbers), (image,), ended.tries) for image in ended.images)
            return
        self._lost += 1
        if self._lost >= HOPELESS and not self.peaks_mib:
            raise StageStoppedError(f"predict: none of the first {self._lost} portions came to anything: {why}")
        progress.note(f"portion {ended.number}: {why}")
        for image in ended.images:
            self._found[image] = ItemResult(state="failed", image=image, error=f"image {image}: {why}")
        progress.advance(len(ended.images))

    def _record(self, ended: Portion) -> StageResult | None:
        """What a portion left; None where that is nothing, or of other images: of an earlier try of the night.

        Raises:
            StoreError: if the workspace cannot be read.
        """
        kept = self._workspace.objects.get(record_key(self._night, ended.number))
        try:
            result = StageResult.model_validate(unseal(kept or b"{}")["result"])
        except (ValueError, KeyError):
            return None
        return result if {item.image for item in result.items} == set(ended.images) else None


UNTAKEN = (
    "no Prefect worker takes a portion; start one: prefect worker start --pool segcore --work-queue portions "
    "(docs/scale-out.md)"
)


def is_idle(state: State[Any]) -> bool:
    """True for a run that has not begun."""
    return state.is_scheduled() or state.is_pending()


def told(states: Mapping[UUID, State[Any]]) -> str:
    """How many runs work, and how many still wait for a worker."""
    waiting = sum(map(is_idle, states.values()))
    return f"{sum(state.is_running() for state in states.values())} at work, {waiting} wait for a worker"
