"""`segcore champion`: the model that a workspace's nights follow; who it is, who it was, and another one."""

import json
from typing import Annotated, Any

import typer

from flows.console import stdout_kept_clean
from flows.options import DEBUG, JSON
from segcore.measure import Peak


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(show_or_promote)
    return typer.main.get_command(app)


def show_or_promote(
    workspace: Annotated[str, typer.Option(help="Folder or object-store prefix whose champion is meant.")],
    promote: Annotated[
        str | None, typer.Option(help="Make this model the champion: an id in the workspace, or a package's folder.")
    ] = None,
    why: Annotated[str, typer.Option(help="For people who read the history.")] = "by hand",
    json_: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Show which model the nights follow (`model: champion`), with all before it; or promote another one.

    Nothing is lost: to go back, promote the former one again.
    """
    from segcore import champion
    from segcore.models.package import read_package
    from segcore.store import Workspace

    with stdout_kept_clean(), Peak() as peak:
        ws = Workspace.open(workspace)
        if promote is not None:
            read_package(ws, promote)  # refuses what is no model
            champion.promote(ws, promote, why, after=champion.champion(ws))
        entries = champion.history(ws)
    if json_:
        found = {"stage": "champion", "state": "done", "paths": [], "seconds": peak.seconds, "peak_mib": peak.mib}
        listed = [entry.model_dump(mode="json") for entry in entries]
        typer.echo(json.dumps(found | {"champion": entries[-1].model if entries else None, "history": listed}))
        return
    if not entries:
        typer.echo("no champion yet; --promote MODEL makes one")
    for entry in reversed(entries):
        told = "; ".join(part for part in (entry.why, entry.report) if part)
        mark = "->" if entry is entries[-1] else "  "
        typer.echo(f"{mark} {entry.model}  since {entry.since:%Y-%m-%d %H:%M} UTC{f'  ({told})' if told else ''}")
