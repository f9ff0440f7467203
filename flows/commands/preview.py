"""`segcore preview`: a page that shows what the network would see in a training with the same options."""

from typing import Any

import typer

from flows.cli import COMMANDS
from flows.console import progress_on_stderr, show_result, stdout_kept_clean
from flows.options import Switches, stage_command
from segcore.config import PreviewConfig


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(stage_command(PreviewConfig, show_preview, text=COMMANDS[name][1], prefect=False))
    return typer.main.get_command(app)


def show_preview(config: PreviewConfig, switches: Switches) -> None:
    """Write the page, and say where it is."""
    from segcore.preview import preview

    with stdout_kept_clean(), progress_on_stderr() as progress:
        result = preview(config, progress)
    show_result(result, switches)
