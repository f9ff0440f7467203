"""Ending: the state that a flow, or a stage's task, ends in, so that a night with one failed image is not green."""

from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.console import named_error
from segcore.errors import SegcoreError
from segcore.results import StageResult, exit_code, failures

MAX_NAMED = 5
"""How many failures a state's message names; the run's table and the report have all."""


class UnfinishedError(SegcoreError):
    """Some images failed. Prefect wants an exception as the data of a Failed state; this one brings the results."""

    def __init__(self, message: str, results: Sequence[StageResult] = ()) -> None:
        super().__init__(message)
        self.results = tuple(results)


def final_state(
    results: Sequence[StageResult], stopped: str | None = None, data: dict[str, Any] | None = None
) -> State[Any]:
    """Completed, TimeUp (of type Completed: the next night goes on), PartlyDone (of type Failed, so that it alerts) or
    Failed; it carries the stages' results.

    Args:
        results: of the stages that ran, in order.
        stopped: why a stage failed as a whole, if one did; then nothing counts as done.
        data: what a Completed state carries in place of all results.
    """
    failed = failures(results)
    if not failed and stopped is None:
        left = data or {"stages": [result.model_dump(mode="json") for result in results]}
        if waiting := [f"{one.stage}: {left_of(one)}" for one in results if left_of(one)]:
            return Completed(name="TimeUp", message=f"{'; '.join(waiting)} for the next run", data=left)
        return Completed(message=f"{results[-1].stage}: all done", data=left)
    named = "; ".join(named_error(item) for item in failed[:MAX_NAMED])
    more = f"; and {len(failed) - MAX_NAMED} more" if len(failed) > MAX_NAMED else ""
    message = "; ".join(part for part in (stopped, f"{len(failed)} failed: {named}{more}" if failed else None) if part)
    code = exit_code(item for one in results for item in one.items)
    name = "PartlyDone" if code == 3 and stopped is None else "Failed"
    return Failed(name=name, message=message, data=UnfinishedError(message, results))


def left_of(result: StageResult) -> str:
    """`12 of 200 images left`; empty where none is."""
    left = sum(item.state == "left" for item in result.items)
    return f"{left} of {len(result.items)} images left" if left else ""
