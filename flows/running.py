"""Running: start a Prefect flow from the command line, quietly, and get the stage's result back."""

import logging
import os
from typing import TYPE_CHECKING, Any

from flows.functions import stage_function
from flows.server import TemporaryServer
from segcore.config import StageConfig
from segcore.errors import ConfigError, SegcoreError
from segcore.results import StageResult

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

DEFAULTS = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
"""Prefect's settings where the user chose none; they have to stand before prefect is imported."""


class Brief(logging.Filter):
    """Takes tracebacks off log records: the message says what failed, and the flow's result why.

    Where no pages are served, Prefect's hint where to view the run is dropped.
    """

    def __init__(self, pages: bool) -> None:
        super().__init__()
        self._pages = pages

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info, record.exc_text = None, None
        return self._pages or not str(record.msg).startswith("View at")


def prepare_prefect(debug: bool = False, pages: bool = False) -> TemporaryServer | None:
    """Import Prefect with our defaults; where the user has no server, start one for this command.

    Args:
        debug: let Prefect's console show tracebacks.
        pages: the started server shows Prefect's pages too.

    Returns:
        The started server, to be waited for before the first flow; None if the user has one.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    import prefect.main  # noqa: F401 - sets up the loggers that get the filter
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if not debug:
        for handler in logging.getLogger().handlers:  # Prefect's console; what it sends to the server stays whole
            handler.addFilter(Brief(pages or settings.api.url is not None))
    if settings.api.url is not None:
        return None
    server = TemporaryServer(settings.home, pages)
    # Not settings of this thread alone: those of others, and of workers' processes, would start a server each.
    os.environ["PREFECT_API_URL"] = server.url
    refresh_global_settings_context()
    return server


def run_stage_flow(stage: str, config: StageConfig, debug: bool = False) -> StageResult:
    """Run one stage as its flow, in this process, and return what the stage returned.

    Raises:
        SegcoreError: the flow's message, where it failed as a whole.
    """
    server = prepare_prefect(debug)
    from prefect import tags

    from flows.stages import FLOWS

    stage_function(stage)  # loads torch while the server starts
    if server is not None:
        server.wait()
    with tags("segcore"):
        state: State[Any] = FLOWS[stage](config, return_state=True)  # type: ignore[assignment]
    return stage_results(state)[-1]


def stage_results(state: "State[Any]") -> list[StageResult]:
    """The results that a flow left in its final state, also where that is PartlyDone.

    Raises:
        ConfigError: where that is what a stage ended with: wrong usage, with a flow as without one.
        SegcoreError: the state's message, where there is no result.
    """
    left = state.result(raise_on_failure=False)
    if isinstance(left, ConfigError):
        raise left
    if isinstance(left, dict):
        return [StageResult.model_validate(result) for result in left["stages"]]
    if results := getattr(left, "results", ()):
        return list(results)
    raise SegcoreError(state.message or f"the flow ended as {state.name}")


def page_of(flow_run_id: Any) -> str:
    """Where Prefect's pages show a flow run, on the server in use."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    assert settings.api.url is not None, "a flow has run, so there is a server"
    return f"{settings.ui_url or settings.api.url.removesuffix('/api')}/runs/flow-run/{flow_run_id}"
