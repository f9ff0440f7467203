"""`segcore verify`: every byte of the workspace held against its ledger, or a model package against its sums."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from flows.console import progress_on_stderr, stdout_kept_clean
from flows.options import DEBUG, JSON
from segcore.errors import ConfigError
from segcore.measure import Peak
from segcore.progress import Progress


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(verify_workspace)
    return typer.main.get_command(app)


def verify_workspace(
    workspace: Annotated[str | None, typer.Option(help="Folder or object-store prefix to check.")] = None,
    images: Annotated[list[str] | None, typer.Option(help="Image ids; none = all. Repeat for more.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Check this model package and nothing else: an id in the workspace, or a folder or URI."),
    ] = None,
    json_: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Look for missing or damaged shards, or check a model package; exit code 1 if something is wrong.

    Nothing is changed.
    """
    with stdout_kept_clean(), progress_on_stderr() as progress, Peak() as peak:
        if model is None:
            problems, lines = in_workspace(workspace, images or (), progress)
        else:
            problems, lines = in_package(workspace, model)
    state = "failed" if problems else "done"
    if json_:
        found = {"stage": "verify", "state": state, "paths": [], "seconds": peak.seconds, "peak_mib": peak.mib}
        typer.echo(json.dumps(found | {"problems": problems}))
    else:
        for line in lines:
            typer.echo(line)
        typer.echo(f"verify: {len(problems)} problems in {peak.seconds:.1f} s")
    raise typer.Exit(1 if problems else 0)


def in_workspace(workspace: str | None, images: Sequence[str], progress: Progress) -> tuple[list[Any], list[str]]:
    """Problems of images and labels, as JSON and as lines."""
    from segcore.store import Workspace, verify

    if workspace is None:
        raise ConfigError("--workspace is missing: the folder or prefix to check; or give --model")
    found = verify(Workspace.open(workspace), tuple(images), progress)
    lines = [f"{problem.image} {problem.name}: {problem.key}: {problem.what}".lstrip() for problem in found]
    return [problem.model_dump(mode="json") for problem in found], lines


def in_package(workspace: str | None, model: str) -> tuple[list[Any], list[str]]:
    """Problems of a model package, as JSON and as lines."""
    from segcore.models.check import verify_package
    from segcore.store import Workspace

    found = verify_package(None if workspace is None else Workspace.open(workspace), model)
    return [problem.model_dump(mode="json") for problem in found], [f"{model}: {problem.what}" for problem in found]
