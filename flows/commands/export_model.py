"""`segcore export-model`: a model package as files that other programs run or list."""

import json
from typing import Annotated, Any

import typer

from flows.console import near, stdout_kept_clean
from flows.options import DEBUG, JSON
from segcore.measure import Peak


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(export_model_files)
    return typer.main.get_command(app)


def export_model_files(
    model: Annotated[str, typer.Option(help="Model id in the workspace, or the folder or URI of a model package.")],
    output: Annotated[
        list[str],
        typer.Option(
            help="File to write; its suffix says what: .onnx, .pt2 (torch.export), .json (a STAC item of the MLM "
            "extension, which lists the other files of the same call). Repeat for more."
        ),
    ],
    workspace: Annotated[str | None, typer.Option(help="Workspace in which --model is an id.")] = None,
    json_: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Write a model as ONNX, as a torch.export program, or as a STAC item.

    The normalisation is inside ONNX and .pt2: they take the image's own pixel values. A file is written once its
    logits were held against segcore's.
    """
    with stdout_kept_clean(), Peak() as peak:
        from segcore.models.package import read_package
        from segcore.models.portable import export_model
        from segcore.store import Workspace

        package = read_package(None if workspace is None else Workspace.open(workspace), model)
        paths = export_model(package, output)
    if json_:
        found = {"stage": "export-model", "state": "done", "paths": paths, "seconds": peak.seconds}
        typer.echo(json.dumps(found | {"peak_mib": peak.mib, "model": package.model_id}))
        return
    for path in paths:
        typer.echo(f"-> {near(path)}")
    typer.echo(f"export-model: {len(paths)} files of {package.model_id} in {peak.seconds:.1f} s")
