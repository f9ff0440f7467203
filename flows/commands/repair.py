"""`segcore repair`: what verify finds is made again, and nothing else."""

import json
from typing import Annotated, Any

import typer

from flows.console import STATES, progress_on_stderr, stdout_kept_clean
from flows.options import DEBUG, JSON
from segcore.measure import Peak


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(repair_workspace)
    return typer.main.get_command(app)


def repair_workspace(
    workspace: Annotated[str, typer.Option(help="Folder or object-store prefix to repair.")],
    images: Annotated[list[str] | None, typer.Option(help="Image ids; none = all. Repeat for more.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    json_: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Make missing or damaged shards and metadata again, and nothing else: from sources, by models, from each other.

    Exit code 0 if all is sound afterwards, 3 if a part of it is, 1 if nothing could be repaired.
    """
    from segcore.repair import repair
    from segcore.store import Workspace

    with stdout_kept_clean(), progress_on_stderr() as progress, Peak() as peak:
        outcome = repair(Workspace.open(workspace), tuple(images or ()), dry_run, progress)
    num_fixed = sum(one.fixed for one in outcome)
    code = 0 if num_fixed == len(outcome) else 3 if num_fixed else 1
    if json_:
        found = {"stage": "repair", "state": STATES[code], "paths": [], "seconds": peak.seconds, "peak_mib": peak.mib}
        listed = [one.problem.model_dump(mode="json") | {"action": one.action, "fixed": one.fixed} for one in outcome]
        typer.echo(json.dumps(found | {"problems": listed}))
    else:
        for one in outcome:
            problem = one.problem
            typer.echo(f"{problem.image} {problem.name}: {problem.key}: {problem.what} -> {one.action}".lstrip())
        done = "nothing was changed" if dry_run else f"{num_fixed} repaired"
        typer.echo(f"repair: {len(outcome)} problems, {done} in {peak.seconds:.1f} s")
    raise typer.Exit(code)
