"""Ending: the state that a flow ends in, so that a night with one failed image is not green."""

from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.console import named_error
from segcore.errors import SegcoreError
from segcore.results import StageResult, exit_code

MAX_NAMED = 5
"""How many failures a state's message names; the run's table and the report have all."""


class UnfinishedError(SegcoreError):
    """Some images failed. Prefect wants an exception as the data of a Failed state; this one brings the results."""

    def __init__(self, message: str, results: Sequence[StageResult] = ()) -> None:
        super().__init__(message)
        self.results = tuple(results)


def final_state(results: Sequence[StageResult]) -> State[Any]:
    """Completed, PartlyDone (of type Failed, so that it alerts) or Failed; it carries the stages' results.

    A failed image fails once per stage that meets it; what counts is whether any stage finished something.
    """
    failed = [item for one in results for item in one.items if item.state == "failed"]
    if not failed:
        left = {"stages": [result.model_dump(mode="json") for result in results]}
        return Completed(message=f"{results[-1].stage}: all done", data=left)
    named = "; ".join(named_error(item) for item in failed[:MAX_NAMED])
    more = f"; and {len(failed) - MAX_NAMED} more" if len(failed) > MAX_NAMED else ""
    message = f"{len(failed)} failed: {named}{more}"
    code = exit_code(item for one in results for item in one.items)
    name = "PartlyDone" if code == 3 else "Failed"
    return Failed(name=name, message=message, data=UnfinishedError(message, results))
