"""Ending: the state that a flow ends in, so that a night with one failed image is not green."""

from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.console import named_error
from segcore.results import StageResult, exit_code


def final_state(results: Sequence[StageResult]) -> State[Any]:
    """Completed, PartlyDone (of type Failed, so that it alerts) or Failed; it carries the stages' results.

    A failed image fails once per stage that meets it; what counts is whether any stage finished something.
    """
    left = {"stages": [result.model_dump(mode="json") for result in results]}
    failures = [item for one in results for item in one.items if item.state == "failed"]
    if not failures:
        return Completed(message=f"{results[-1].stage}: all done", data=left)
    named = "; ".join(named_error(item) for item in failures[:5])
    more = f"; and {len(failures) - 5} more" if len(failures) > 5 else ""
    code = exit_code(item for one in results for item in one.items)
    return Failed(
        name="PartlyDone" if code == 3 else "Failed",
        message=f"{len(failures)} failed: {named}{more}",
        data=left,
    )
