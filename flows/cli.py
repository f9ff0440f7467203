"""The command line: `segcore COMMAND ...`. A command's module is imported only when the command is called.

`segcore --help` has to answer at once, so this file knows of each command its module and one line; the options come
from the configs (flows/options.py), the work from segcore.
"""

import importlib
import json
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "Run the main job on sample images, as a Prefect flow."),
    "doctor": ("doctor", "Say what this installation has, and what it lacks."),
    "inspect": ("inspect", "Show how segcore reads a file: axes, shape, spacing, CRS."),
    "ingest": ("stage", "Copy sources and their targets into the workspace."),
    "models": ("models", "List the networks, and what each is good for."),
    "train": ("stage", "Train a model on the labelled images."),
    "preview": ("preview", "Show what the network sees: tiles, augmentation."),
    "tune": ("stage", "Search for the settings that train the best model."),
    "predict": ("stage", "Segment images tile by tile, from where it stopped."),
    "explain": ("stage", "Say which band mattered, and where the model looked."),
    "drift": ("stage", "Say which images are unlike the training images."),
    "refine": ("stage", "Take specks and holes out of masks; make objects of them."),
    "score": ("stage", "Compare masks with targets, per image and class."),
    "measure": ("stage", "Measure every object: area, axes, intensity, confidence."),
    "report": ("stage", "Write one HTML page of scores and pictures."),
    "view": ("view", "Look at images and masks in a browser."),
    "export": ("stage", "Write masks in the geometry of their sources."),
    "export-model": ("export_model", "Write a model as ONNX, as a torch.export program, or as a STAC item."),
    "champion": ("champion", "Show or set the model that the nights follow."),
    "verify": ("verify", "Look for missing or damaged shards, or check a model package."),
    "repair": ("repair", "Make what verify finds again, and nothing else."),
    "clean": ("stage", "Remove old masks, training runs and reports, by rule."),
    "deploy": ("deploy", "Bring a Prefect server up to date: schedules, automations."),
    "serve": ("serve", "Serve all flows from this machine, for Prefect's pages."),
    "config": ("config", "Show a stage's settings, merged from all places."),
}
"""Command -> module under flows/commands, and what `segcore --help` says of it."""

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class Commands(TyperGroup):
    """Loads the module of the command that is called, and turns every failure into one line and an exit code."""

    def resolve_command(  # type: ignore[override]
        self, ctx: typer.Context, args: list[str]
    ) -> Any:
        if args and args[0] in COMMANDS:
            module = importlib.import_module(f"flows.commands.{COMMANDS[args[0]][0]}")
            self.commands[args[0]] = module.command(args[0])
        return super().resolve_command(ctx, args)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        given = list(sys.argv[1:] if args is None else args) or ["--help"]
        if not standalone_mode:
            return super().main(given, standalone_mode=False, **extra)
        if "--debug" not in given:
            warnings.simplefilter("ignore")  # those of libraries help a developer, not a user
        try:
            code = super().main(given, standalone_mode=False, **extra)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except Exception as error:  # noqa: BLE001 - the last line of defence: whatever comes, the user gets one line
            sys.exit(report_failure(error, given))
        if code == INTERRUPTED:
            print("segcore: interrupted; the same command goes on from what is finished", file=sys.stderr)  # noqa: T201
        sys.exit(code if isinstance(code, int) else 0)


def report_failure(error: Exception, args: Sequence[str]) -> int:
    """Print what went wrong as one line on stderr (with --json also as the object on stdout); the exit code."""
    from segcore.errors import ConfigError, SegcoreError

    command = next((arg for arg in args if arg in COMMANDS), "")
    if isinstance(error, SegcoreError):
        code, message = (USAGE if isinstance(error, ConfigError) else FAILED), str(error)
    elif hasattr(error, "format_message"):  # typer's own: a wrong option, a missing argument
        code, message = int(getattr(error, "exit_code", USAGE)), error.format_message()
    else:
        code = FAILED
        hint = "" if "--debug" in args else "; this is a bug in segcore: --debug shows where"
        message = f"{type(error).__name__}: {error}{hint}"
    message = " ".join(message.split())
    if "--debug" in args:
        import traceback

        traceback.print_exception(error)
    print(f"segcore{f' {command}' if command else ''}: {message}", file=sys.stderr)  # noqa: T201
    if "--json" in args:
        failure = {"stage": command, "state": "failed", "error": message, "paths": [], "seconds": 0.0, "peak_mib": 0.0}
        print(json.dumps(failure))  # noqa: T201
    return code


app = typer.Typer(
    cls=Commands,
    help="Large images in, masks and a report out: every night, without losing a tile.",
    add_completion=False,
    rich_markup_mode=None,  # plain help loads in half the time, and can be copied
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from segcore import __version__

        typer.echo(f"segcore {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True, callback=_show_version),
) -> None:
    return


def _stand_in() -> None:
    raise AssertionError("a command's module takes this one's place before it runs")


for _name, (_module, _help) in COMMANDS.items():
    app.command(_name, help=_help)(_stand_in)
