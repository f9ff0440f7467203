"""Tasks: one stage each, on the core's own function. What goes in and out is small; pixels stay in the workspace."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.runtime import deployment
from prefect.states import Failed
from prefect.tasks import Task

from flows.artifacts import FlowProgress
from flows.ending import UnfinishedError, final_state
from flows.functions import stage_function
from flows.metrics import Outcome, counted
from flows.unheard import keep_on_unheard
from segcore.config import STAGES, build_config
from segcore.errors import SegcoreError
from segcore.results import StageResult
from segcore.roots import check_settings

Role = Literal["stage", "look", "portion"]
"""What a task does of a stage: all of it; only look what is finished; or the part of a run that a night started. Only
the first one has the stage's own progress and metrics, and a look waits for no GPU.
"""


class StageStoppedError(SegcoreError):
    """A stage failed as a whole, so that the ones after it have nothing to work on."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__


def is_transient(error: BaseException) -> bool:
    """True for what a later try may mend: a network that was down, an object store that was busy."""
    return any(
        isinstance(cause, ConnectionError | TimeoutError) or type(cause).__module__.startswith(("obstore", "botocore"))
        for cause in causes(error)
    )


def may_retry(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Prefect's question after a failure: only transient I/O is tried again; the ledger keeps what is finished."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and is_transient(error)


GPU_LIMIT = "segcore-gpu"
"""The server's limit for stages that fill a GPU; `segcore deploy` makes it."""
LONG_STAGES = ("train", "tune", "predict", "explain")


def slot(stage: str) -> AbstractContextManager[None]:
    """A slot of the limit for a long stage of a deployment's run; others, and runs by hand, wait for nobody."""
    is_long = stage in LONG_STAGES and deployment.id is not None
    return concurrency(GPU_LIMIT, strict=False) if is_long else nullcontext()


# Neither cached nor persisted: the workspace's ledger says what is done, and survives a kill.
@task(
    task_run_name="{stage}",
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_condition_fn=may_retry,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def run_stage(stage: str, settings: dict[str, Any], role: Role = "stage") -> Any:
    """One stage, which ends as a flow of it alone would; a user's error is one line, anything else has its traceback.

    A look ends as Completed: what it finds left is for tonight, and what failed is the night's to tell.
    """
    try:
        check_settings(settings)
        with nullcontext() if role == "look" else slot(stage), FlowProgress(stage, role) as progress:
            result = stage_function(stage)(build_config(STAGES[stage], settings), progress)
        told = result.model_dump(mode="json")  # flat: Prefect draws its arrows by what later stages are given of it
        return told if role == "look" else final_state([result], data=told)
    except SegcoreError as error:
        if is_transient(error):
            raise
        return Failed(message=str(error), data=error)


def stage(name: str, settings: dict[str, Any], role: Role = "stage") -> StageResult:
    """Run a stage as a task of the current flow, and return its result.

    Raises:
        StageStoppedError: with the task's message, where the stage failed as a whole.
    """
    keep_on_unheard()
    with counted(name, settings) if role == "stage" else nullcontext(Outcome()) as outcome:
        state = run_stage(name, settings, role, return_state=True)
        left = state.result(raise_on_failure=False)
        if isinstance(left, UnfinishedError):
            (outcome.result,) = left.results
        elif isinstance(left, dict):
            outcome.result = StageResult.model_validate(left)
        else:
            raise StageStoppedError(f"{name}: {state.message}") from (left if isinstance(left, SegcoreError) else None)
        return outcome.result
