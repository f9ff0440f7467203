"""The commands of the stages: ingest, train, tune, predict, score... Options are the config's fields."""

import json
from typing import Annotated, Any

import typer

from flows.cli import COMMANDS
from flows.console import progress_on_stderr, show_result, stdout_kept_clean
from flows.functions import stage_function
from flows.metrics import counted
from flows.options import Switches, stage_command
from segcore.config import STAGES, StageConfig
from segcore.results import StageResult


def print_schema(wanted: bool) -> None:
    """The JSON schema of report.json, for `segcore report --schema`."""
    if wanted:
        from segcore.report.schema import report_schema

        typer.echo(json.dumps(report_schema(), indent=1))
        raise typer.Exit


SCHEMA = typer.Option("--schema", help="Print the JSON schema of report.json.", is_eager=True, callback=print_schema)
SHOWS = {"report": {"schema": Annotated[bool, SCHEMA]}}
"""Options of a stage that print something instead of running it."""


def command(stage: str) -> Any:
    """The command of one stage, ready for the group."""

    def run(config: StageConfig, switches: Switches) -> None:
        with stdout_kept_clean():
            is_flow = switches.prefect or getattr(config, "workers", 1) > 1  # Prefect runs the workers of a study
            result = as_flow(stage, config, switches.debug) if is_flow else as_function(stage, config)
        show_result(result, switches)

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(stage)(stage_command(STAGES[stage], run, text=COMMANDS[stage][1], shows=SHOWS.get(stage)))
    return typer.main.get_command(app)


def as_function(stage: str, config: StageConfig) -> StageResult:
    """Run the stage in this process, without Prefect."""
    settings = config.model_dump(mode="json", exclude_unset=True)
    with counted(stage, settings) as outcome, progress_on_stderr() as progress:
        outcome.result = stage_function(stage)(config, progress)
        return outcome.result


def as_flow(stage: str, config: StageConfig, debug: bool) -> StageResult:
    """Run the stage as a Prefect flow; the same function does the work."""
    from flows.running import run_stage_flow

    return run_stage_flow(stage, config, debug)
