"""`segcore config show STAGE`: a stage's settings, merged from defaults, file and options, as YAML."""

import json
from typing import Any

import typer
import yaml

from flows.cli import COMMANDS
from flows.options import Switches, stage_command
from segcore.config import STAGES, StageConfig


def command(name: str) -> Any:
    """The group `config`, with `show` and one command for each stage below it."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, help=COMMANDS[name][1])
    show = typer.Typer(rich_markup_mode=None, help="Print a stage's merged settings as YAML, ready for --config.")
    for stage, config in STAGES.items():
        text = f"Print the merged settings of `segcore {stage}`."
        show.command(stage, help=text)(stage_command(config, print_settings, text=text, prefect=False))
    app.add_typer(show, name="show")
    return typer.main.get_command(app)


def print_settings(config: StageConfig, switches: Switches) -> None:
    """Settings as YAML, or with `--json` as the object that a script reads."""
    settings = config.model_dump(mode="json")
    if switches.json:
        typer.echo(
            json.dumps(
                {"stage": "config", "state": "done", "paths": [], "seconds": 0.0, "peak_mib": 0.0, "settings": settings}
            )
        )
    else:
        typer.echo(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), nl=False)
