"""`segcore inspect FILE...`: what segcore sees in a file, before anything is copied."""

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from flows.console import STATES, mapping_lines, named_error, stdout_kept_clean
from flows.options import DEBUG, JSON
from segcore.measure import Peak
from segcore.results import ItemResult, exit_code


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(inspect_files)
    return typer.main.get_command(app)


def _checked(text: str | None) -> str | None:
    """The spacing as it was written, if it is one."""
    from segcore.spatial import WantedSpacing

    if text is not None:
        try:
            WantedSpacing.parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return text


SPACING = Annotated[
    str | None,
    typer.Option("--spacing", callback=_checked, help="As ingest would resample them: 0.5, 0.5um, 10m."),
]


def inspect_files(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Files or URLs.", show_default=False)],
    spacing: SPACING = None,
    json_: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Show how segcore reads files: reader, axes, shape, type, channels, spacing, georeference.

    Files are opened in a child process with limits, as ingest opens them: a broken one costs a line, no crash.
    """
    with stdout_kept_clean(), Peak() as peak:
        items = described(files, spacing)
    code = exit_code(items)
    if json_:
        listed = [item.model_dump(mode="json", exclude_none=True) for item in items]
        found = {"stage": "inspect", "state": STATES[code], "paths": [], "seconds": peak.seconds, "peak_mib": peak.mib}
        typer.echo(json.dumps(found | {"sources": listed}))
    else:
        for item in items:
            typer.echo(named_error(item) if item.error else item.source)
            for line in mapping_lines(item.details, "  "):
                typer.echo(line)
    raise typer.Exit(code)


def described(files: list[str], spacing: str | None = None) -> list[ItemResult]:
    """What each file is, or why it is refused; in the order given."""
    from segcore.isolation import ChildPool, Task

    tasks = [Task(describe, (file, spacing), label=file) for file in files]
    with ChildPool(processes=1) as pool:
        outcomes = {id(outcome.task): outcome for outcome in pool.run(tasks)}
    items = []
    for task in tasks:
        outcome = outcomes[id(task)]
        if outcome.error is None:
            items.append(ItemResult(state="done", source=task.label, details=outcome.result))
        else:
            items.append(ItemResult(state="failed", source=task.label, error=str(outcome.error)))
    return items


def describe(beat: Callable[..., None], file: str, spacing: str | None) -> dict[str, Any]:
    """In the child: open one file and return its `SourceInfo` as JSON."""
    from segcore.sources import Opening, open_source
    from segcore.spatial import WantedSpacing

    with open_source(file, Opening(spacing=WantedSpacing.parse(spacing) if spacing else None)) as source:
        return source.info.model_dump(mode="json", exclude_none=True)
