"""Running: start a Prefect flow from the command line, quietly, and get the stage's result back."""

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from segcore.config import StageConfig
from segcore.errors import SegcoreError
from segcore.results import StageResult

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A slow machine needs longer than Prefect's 20 s to start the temporary server.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}
"""Prefect's settings where the user chose none; they have to stand before prefect is imported."""


class WithoutTraceback(logging.Filter):
    """Takes tracebacks off log records: the message says what failed, and the flow's result why.

    The temporary server also logs its own cancelled requests as it is shut down; those are dropped.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        record.exc_info, record.exc_text = None, None
        return not isinstance(error, asyncio.CancelledError)


def prepare_prefect(debug: bool = False) -> None:
    """Import Prefect with our defaults; without `debug` its console shows no tracebacks."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    import prefect.main  # noqa: F401 - sets up the loggers that get the filter

    if not debug:
        for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler):
                    handler.addFilter(WithoutTraceback())


def run_stage_flow(stage: str, config: StageConfig, debug: bool = False) -> StageResult:
    """Run one stage as its flow, in this process, and return what the stage returned.

    Raises:
        SegcoreError: the flow's message, where it failed as a whole.
    """
    prepare_prefect(debug)
    from flows.stages import FLOWS

    state: State[Any] = FLOWS[stage](config, return_state=True)  # type: ignore[assignment]
    return stage_results(state)[-1]


def stage_results(state: "State[Any]") -> list[StageResult]:
    """The results that a flow left in its final state, also where that is PartlyDone.

    Raises:
        SegcoreError: the state's message, where there is no result.
    """
    left = state.result(raise_on_failure=False)
    if isinstance(left, dict):
        return [StageResult.model_validate(result) for result in left["stages"]]
    if results := getattr(left, "results", ()):
        return list(results)
    raise SegcoreError(state.message or f"the flow ended as {state.name}")


def page_of(flow_run_id: Any) -> str:
    """Where Prefect's pages show a flow run, for the server in use; port 4200 here for the temporary one."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    ui = settings.ui_url or (settings.api.url or "http://127.0.0.1:4200/api").removesuffix("/api")
    return f"{ui}/runs/flow-run/{flow_run_id}"
