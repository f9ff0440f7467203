"""`segcore verify`: every byte of the workspace held against its ledger."""

import json
from typing import Annotated, Any

import typer

from flows.console import progress_on_stderr, stdout_kept_clean
from flows.options import DEBUG, JSON
from segcore.measure import Peak


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(verify_workspace)
    return typer.main.get_command(app)


def verify_workspace(
    workspace: Annotated[str, typer.Option(help="Folder or object-store prefix to check.")],
    images: Annotated[list[str] | None, typer.Option(help="Image ids; none = all. Repeat for more.")] = None,
    json_: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Look for missing or damaged shards; exit code 1 if there are any. Nothing is changed."""
    from segcore.store import Workspace, verify

    with stdout_kept_clean(), progress_on_stderr() as progress, Peak() as peak:
        problems = verify(Workspace.open(workspace), tuple(images or ()), progress)
    state = "failed" if problems else "done"
    if json_:
        found = {"stage": "verify", "state": state, "paths": [], "seconds": peak.seconds, "peak_mib": peak.mib}
        typer.echo(json.dumps(found | {"problems": [problem.model_dump(mode="json") for problem in problems]}))
    else:
        for problem in problems:
            typer.echo(f"{problem.image} {problem.name}: {problem.key}: {problem.what}".lstrip())
        typer.echo(f"verify: {len(problems)} problems in {peak.seconds:.1f} s")
    raise typer.Exit(1 if problems else 0)
