"""`segcore view`: the workspace in a browser, until Ctrl-C."""

import json
from typing import Any

import typer

from flows.cli import COMMANDS
from flows.console import progress_on_stderr
from flows.options import Switches, stage_command
from segcore.config import ViewConfig


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(stage_command(ViewConfig, serve, text=COMMANDS[name][1], prefect=False))
    return typer.main.get_command(app)


def serve(config: ViewConfig, switches: Switches) -> None:
    """Serve, and say where."""
    from segcore.view import view

    def tell(url: str) -> None:
        shown = json.dumps({"stage": "view", "state": "serving", "url": url}) if switches.json else f"-> {url}"
        typer.echo(shown)
        if not switches.json:
            typer.echo("view: Ctrl-C ends it")

    with progress_on_stderr() as progress:
        view(config, tell, progress)
