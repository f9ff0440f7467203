"""`segcore view`: the workspace in a browser, until Ctrl-C."""

import json
import time
from typing import Any

import typer

from flows.cli import COMMANDS
from flows.console import progress_on_stderr
from flows.options import Switches, stage_command
from segcore.config import ViewConfig
from segcore.measure import MIB, tree_bytes


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(stage_command(ViewConfig, serve, text=COMMANDS[name][1], prefect=False))
    return typer.main.get_command(app)


def serve(config: ViewConfig, switches: Switches) -> None:
    """Serve, and say where."""
    from segcore.view import view

    began = time.monotonic()

    def tell(url: str) -> None:
        if not switches.json:
            typer.echo(f"-> {url}\nview: Ctrl-C ends it")
            return
        found = {"stage": "view", "state": "serving", "url": url, "paths": []}
        spent = {"seconds": round(time.monotonic() - began, 3), "peak_mib": round(tree_bytes() / MIB, 1)}
        typer.echo(json.dumps(found | spent))

    with progress_on_stderr() as progress:
        view(config, tell, progress)
