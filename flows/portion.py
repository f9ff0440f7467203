"""Portion: some images of a night that is spread over workers: the run that makes their masks, and how it is started.

A run takes a list of ids. What it came to lies in the workspace until the night has read it, since workers share that
and no other disk.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import httpx
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed
from pydantic import Field

from flows.naming import run_name
from flows.tasks import StageStoppedError, stage
from segcore.config import PredictConfig
from segcore.store import Workspace, seal

log = logging.getLogger("segcore.portion")

DEPLOYMENT = "portion/portion"
LATER = {408, 429, *range(500, 600)}
"""What a server says that may take the same later."""


@dataclass
class Portion:
    """Images of one run."""

    number: int
    images: tuple[str, ...]
    tries: int = 0
    looks: int = 0


@flow(name="portion", flow_run_name=run_name, retries=0, persist_result=True, result_serializer="json")
def portion(
    config: PredictConfig,
    night: Annotated[UUID, Field(description="Run that asked for it.")],
    number: Annotated[int, Field(ge=0, description="Of the portion.")],
) -> State[Any]:
    """Masks of some images, for a night that is spread over workers; started by that, not by people."""
    if has_ended(night):  # killed, so that it could not cancel this one
        return Cancelled(message="the night that asked for it has ended")
    try:
        result = stage("predict", config.model_dump(mode="json", exclude_unset=True), role="portion")
    except StageStoppedError as stopped:
        return Failed(message=str(stopped), data=stopped.__cause__)
    found = seal({"result": result.model_dump(mode="json")})
    Workspace.open(config.workspace).objects.put(record_key(night, number), json.dumps(found).encode())
    # Failed images are the night's to tell of; this run did what it was there for.
    return Completed(message=f"{sum(item.state != 'failed' for item in result.items)} of {len(result.items)} images")


def has_ended(night: UUID) -> bool:
    """Whether the server says so; one that cannot be asked does not."""
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(night).state
    except (httpx.HTTPError, ObjectNotFound):
        return False
    return state is not None and state.is_final()


def record_key(night: UUID, number: int) -> str:
    """Where a portion leaves what became of its images."""
    return f"{records_of(night)}/{number}.json"


def records_of(night: UUID) -> str:
    """Where all portions of a night do."""
    return f"nights/portions/{night}"


class ServerRuns:
    """Runs of the deployment `portion`, on the server in use; one that is away for a while is waited for."""

    def __init__(self, settings: Mapping[str, Any], night: UUID) -> None:
        self._settings, self._night, self._is_away = dict(settings), night, False

    def begin(self, portion: Portion) -> UUID | None:
        config = {**self._settings, "images": list(portion.images)}
        try:
            run: Any = run_deployment(
                DEPLOYMENT,
                parameters={"config": config, "night": str(self._night), "number": portion.number},
                idempotency_key=f"{self._night}-{flow_run.run_count}-{portion.number}",
                timeout=0,
            )
        except ObjectNotFound as error:
            raise StageStoppedError(
                f"predict: the server has no deployment {DEPLOYMENT}, which max_images_in_flight needs: run `segcore "
                "deploy`, or set it to 0"
            ) from error
        except httpx.HTTPError as error:
            self._away(error)
            return None
        self._is_away = False
        return UUID(str(run.id))

    def states(self, runs: Iterable[UUID]) -> Mapping[UUID, State[Any]]:
        wanted = list(runs)
        try:
            with get_client(sync_client=True) as client:
                found = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=wanted)))
        except httpx.HTTPError as error:
            self._away(error)
            return {}
        self._is_away = False
        known = {run.id: run.state for run in found if run.state is not None}
        return {run: known.get(run) or Crashed(message="the server does not know it any more") for run in wanted}

    def cancel(self, runs: Iterable[UUID]) -> None:
        wanted = list(runs)
        try:
            with get_client(sync_client=True) as client:
                for run in wanted:
                    client.set_flow_run_state(run, Cancelling(message="the night that asked for it ended"))
        except Exception as error:  # noqa: BLE001 - what made the night end shall be heard, not this
            log.warning("%d runs of this night could not be cancelled, and may go on: %s", len(wanted), error)

    def _away(self, error: httpx.HTTPError) -> None:
        """The server cannot be asked at the moment; said once.

        Raises:
            StageStoppedError: if it was asked, and refused.
        """
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in LATER:
            detail = " ".join(error.response.text.split())[:500]
            raise StageStoppedError(f"predict: the server refuses: {error.response.status_code} {detail}") from error
        if not self._is_away:
            log.warning("the server does not answer, and is asked again: %s", error)
        self._is_away = True
