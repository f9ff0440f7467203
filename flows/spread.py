"""Spread: images that have no mask yet -> *runs of their own on all Prefect workers*, some at a time.

    nightly (no pixel)    which images are left? -> portions of them -> at most so many runs at one time
    portion, on a worker  predict of its images -> what became of each, in the workspace

A run is a portion of images, so that ten thousand small images are some hundred runs, each of which loads the model
once, and a hundred slides are a hundred runs. A run takes a list of ids; what it came to lies in the workspace until
the night has read it, since workers share that and no other disk.
"""

import json
import math
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol
from uuid import UUID

import httpx
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.states import Cancelling, Completed, Failed
from pydantic import Field

from flows.artifacts import BestEffort, FlowProgress
from flows.naming import run_name
from flows.tasks import StageStoppedError, stage
from segcore.config import PredictConfig
from segcore.results import ItemResult, StageResult
from segcore.store import Workspace, seal, unseal
from segcore.until import Until

DEPLOYMENT = "portion/portion"
MOST_IMAGES = 64
"""Of a portion: what is lost of one that is killed is little."""
ROUNDS = 8
"""Portions for each run at a time, where there are images enough: the last ones end at about the same time."""
TRIES = 2
"""Of a portion whose worker died."""
HOPELESS = 3
"""Portions that came to nothing, before any came to something: the others would not either."""
POLL_S = 5.0
AWAY = (httpx.HTTPError, PrefectHTTPStatusError)
"""The server, for a while: the pixel work goes on without it."""


@dataclass
class Portion:
    """Images of one run."""

    number: int
    images: tuple[str, ...]
    tries: int = 0


class Runs(Protocol):
    """Starts runs, and knows how they are; Prefect's server, but for tests."""

    def begin(self, portion: Portion) -> UUID | None:
        """Have a worker take it; None where the server cannot be asked at the moment."""

    def states(self, runs: Iterable[UUID]) -> Mapping[UUID, State[Any]]:
        """How they are; of one that is not named, nobody knows at the moment."""

    def cancel(self, runs: Iterable[UUID]) -> None:
        """End them, or see that they never begin."""


@flow(name="portion", flow_run_name=run_name, retries=0, persist_result=True, result_serializer="json")
def portion(
    config: PredictConfig,
    night: Annotated[UUID, Field(description="Run that asked for it.")],
    number: Annotated[int, Field(ge=0, description="Of the portion.")],
) -> State[Any]:
    """Masks of some images, for a night that is spread over workers; started by that, not by people."""
    try:
        result = stage("predict", config.model_dump(mode="json", exclude_unset=True))
    except StageStoppedError as stopped:
        return Failed(message=str(stopped), data=stopped.__cause__)
    found = seal({"result": result.model_dump(mode="json")})
    Workspace.open(config.workspace).objects.put(record_key(night, number), json.dumps(found).encode())
    # Failed images are the night's to tell of; this run did what it was there for.
    return Completed(message=f"{sum(item.state != 'failed' for item in result.items)} of {len(result.items)} images")


def record_key(night: UUID, number: int) -> str:
    """Where a portion leaves what became of its images."""
    return f"nights/portions/{night}/{number}.json"


def spread(settings: Mapping[str, Any], most: int, runs: Runs | None = None) -> StageResult:
    """Predict by runs on Prefect's workers; images whose masks are finished need none.

    Args:
        settings: of predict; `images` and `until` among them.
        most: runs at one time.
        runs: by default the deployment `portion` on the server in use.

    Raises:
        StageStoppedError: if no image can be predicted, or the deployment is not there.
    """
    began = time.monotonic()
    # With the time up, predict says what is finished, and computes nothing.
    known = stage("predict", {**settings, "until": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S+00:00}"})
    left = [item.image for item in known.items if item.state == "left" and item.image]
    if not left:
        return known
    night = UUID(str(flow_run.id))
    work = Spread(Workspace.open(settings["workspace"]), night, runs or ServerRuns(settings, night), most)
    with FlowProgress("predict") as progress:
        progress.start("predict", len(left), f"images, by {most} runs at a time")
        found = work.predict(portions(left, most), Until(settings.get("until")), progress)
    items = tuple(found.get(item.image or "", item) for item in known.items)
    peak_mib = max([known.peak_mib, *work.peaks_mib])
    return known.model_copy(
        update={"items": items, "paths": paths_of(items), "seconds": time.monotonic() - began, "peak_mib": peak_mib}
    )


def portions(images: Sequence[str], most: int) -> list[Portion]:
    """The images in their order, in portions that keep so many runs busy to the end."""
    size = min(MOST_IMAGES, max(1, math.ceil(len(images) / (ROUNDS * most))))
    parts = [tuple(images[at : at + size]) for at in range(0, len(images), size)]
    return [Portion(number, part) for number, part in enumerate(parts)]


def paths_of(items: Iterable[ItemResult]) -> tuple[str, ...]:
    """What was written."""
    return tuple(item.path for item in items if item.path)


class Spread:
    """Portions, and what came of them."""

    def __init__(self, workspace: Workspace, night: UUID, runs: Runs, most: int, poll_s: float = POLL_S) -> None:
        self._workspace, self._night, self._runs, self._most, self._poll_s = workspace, night, runs, most, poll_s
        self._found: dict[str, ItemResult] = {}
        self._lost = 0
        self.peaks_mib: list[float] = []

    def predict(self, waiting: Iterable[Portion], until: Until, progress: FlowProgress) -> dict[str, ItemResult]:
        """Run them all; by image id what became of each. Those that the time did not reach are left out.

        Raises:
            StageStoppedError: if nothing comes of the first ones.
        """
        left, open_runs = deque(waiting), dict[UUID, Portion]()
        try:
            while left or open_runs:
                while left and len(open_runs) < self._most and not until.is_over:
                    run = self._runs.begin(left[0])
                    if run is None:
                        break
                    open_runs[run] = left.popleft()
                if not open_runs and until.is_over:
                    break
                states = self._runs.states(open_runs)
                for run, state in states.items():
                    if state.is_final():
                        left.extendleft(self._ended(open_runs.pop(run), state, progress))
                if until.is_over:  # what no worker has taken is for the next night; what runs knows the time itself
                    idle = [run for run, state in states.items() if run in open_runs and state.is_scheduled()]
                    self._runs.cancel(idle)
                    for run in idle:
                        del open_runs[run]
                progress.status(told(states))
                if left or open_runs:
                    time.sleep(self._poll_s)
        finally:
            self._runs.cancel(open_runs)
        return self._found

    def _ended(self, ended: Portion, state: State[Any], progress: FlowProgress) -> list[Portion]:
        """Take what a run came to; what is to be tried again."""
        result = self._record(ended)
        if result is not None:
            self._found |= {item.image: item for item in result.items if item.image}
            self.peaks_mib.append(result.peak_mib)
            progress.advance(len(ended.images))
            return []
        why = f"its run ended as {state.name}: {state.message or 'without a message'}"
        ended.tries += 1
        if state.is_crashed() and ended.tries < TRIES:
            progress.note(f"portion {ended.number}: {why}; it is done again")
            return [ended]
        self._lost += 1
        if self._lost >= HOPELESS and not self.peaks_mib:
            raise StageStoppedError(f"predict: none of the first {self._lost} portions came to anything: {why}")
        progress.note(f"portion {ended.number}: {why}")
        for image in ended.images:
            self._found[image] = ItemResult(state="failed", image=image, error=f"image {image}: {why}")
        progress.advance(len(ended.images))
        return []

    def _record(self, ended: Portion) -> StageResult | None:
        """What a portion left; None where that is nothing, or of other images: of an earlier try of the night."""
        objects, key = self._workspace.objects, record_key(self._night, ended.number)
        try:
            result = StageResult.model_validate(unseal(objects.get(key) or b"{}")["result"])
        except (ValueError, KeyError):
            return None
        objects.delete(key)
        return result if {item.image for item in result.items} == set(ended.images) else None


def told(states: Mapping[UUID, State[Any]]) -> str:
    """How many runs work, and how many still wait for a worker."""
    waiting = sum(state.is_scheduled() or state.is_pending() for state in states.values())
    return f"{sum(state.is_running() for state in states.values())} at work, {waiting} wait for a worker"


class ServerRuns:
    """Runs of the deployment `portion`, on the server in use; one that is away for a while is waited for."""

    def __init__(self, settings: Mapping[str, Any], night: UUID) -> None:
        self._settings, self._night = dict(settings), night

    def begin(self, portion: Portion) -> UUID | None:
        config = {**self._settings, "images": list(portion.images)}
        try:
            run: Any = run_deployment(
                DEPLOYMENT,
                parameters={"config": config, "night": str(self._night), "number": portion.number},
                idempotency_key=f"{self._night}-{flow_run.run_count}-{portion.number}-{portion.tries}",
                timeout=0,
            )
        except ObjectNotFound as error:
            raise StageStoppedError(
                f"predict: the server has no deployment {DEPLOYMENT}, which max_images_in_flight needs: run `segcore "
                "deploy`, or set it to 0"
            ) from error
        except AWAY:
            return None
        return UUID(str(run.id))

    def states(self, runs: Iterable[UUID]) -> Mapping[UUID, State[Any]]:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=list(runs)))
        try:
            with get_client(sync_client=True) as client:
                found = client.read_flow_runs(flow_run_filter=wanted)
        except AWAY:
            return {}
        return {run.id: run.state for run in found if run.state is not None}

    def cancel(self, runs: Iterable[UUID]) -> None:
        best_effort = BestEffort()
        with get_client(sync_client=True) as client:
            for run in runs:
                best_effort(client.set_flow_run_state, run, Cancelling(message="the night that asked for it ended"))
