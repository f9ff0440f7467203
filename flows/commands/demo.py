"""`segcore demo`: the main job on sample scenes, as a Prefect flow; what `make demo` runs."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.console import STATES, near, stdout_kept_clean
from flows.options import DEBUG, JSON
from flows.running import page_of, prepare_prefect, stage_results
from flows.server import USUAL_PORT
from flows.tables import score_lines
from segcore.errors import SegcoreError
from segcore.measure import Peak
from segcore.results import exit_code


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(demo)
    return typer.main.get_command(app)


def demo(
    workspace: Annotated[Path, typer.Option(help="Folder to work in; deleting it is all the cleaning up.")] = Path(
        "demo"
    ),
    minutes: Annotated[float, typer.Option(help="Time for training.")] = 1.5,
    json_: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Run the main job on sample images, as a Prefect flow: ingest, train, predict, score, report.

    Six aerial scenes are drawn from a seed, with exact truth; four train, one validates, one tests the model.
    A second run finds everything done, and takes seconds.
    """
    own_server = use_own_prefect(workspace)
    with stdout_kept_clean(), Peak() as peak:
        server = prepare_prefect(debug, pages=True)
        from flows.main_job import main_job
        from segcore.samples import write_samples

        typer.echo(f"drawing the sample scenes in {workspace / 'sources'}", err=True)
        settings = job_settings(write_samples(workspace / "sources"), minutes)
        if server is not None:
            server.wait()
            typer.echo(f"while it runs, Prefect's pages are at http://127.0.0.1:{server.port}", err=True)
        state = main_job(str(workspace), **settings, return_state=True)
        results = stage_results(state)
    if len(results) < 5:  # a stage failed as a whole: the state says which, and why
        raise SegcoreError(state.message or f"the demo ended as {state.name}")
    _, trained, _, scored, reported = results
    page = page_of(state.state_details.flow_run_id)
    if server is not None:  # it ends with this command; the next one, on the usual port, has the run too
        page = page.replace(f":{server.port}/", f":{USUAL_PORT}/")
    code = exit_code(item for result in results for item in result.items)
    if scored.scores is None:
        raise SegcoreError(f"{workspace}: the demo has no scores; delete the folder and run it again")
    test = scored.scores["per_split"].get("test", scored.scores)
    if json_:
        found = {"stage": "demo", "state": STATES[code], "paths": [*reported.paths, trained.paths[0]], "scores": test}
        typer.echo(json.dumps(found | {"page": page, "seconds": peak.seconds, "peak_mib": peak.mib}))
        raise typer.Exit(code)
    typer.echo("\nScores on the scene that was not trained on:")
    for line in score_lines(test):
        typer.echo(f"  {line}")
    typer.echo(f"\nmodel    {near(trained.paths[0])}")
    typer.echo(f"masks    {workspace}/images/*.ome.zarr/labels/{trained.details['model']}")
    typer.echo(f"report   {near(reported.paths[0])}")
    typer.echo(f"Prefect  {page}{f'   (after: {serve_hint(workspace)})' if own_server else ''}")
    typer.echo(f"all in   {peak.seconds:.0f} s, peak memory {peak.mib:.0f} MiB")
    raise typer.Exit(code)


def use_own_prefect(workspace: Path) -> bool:
    """Keep Prefect's records inside the demo's folder, unless the user has a server or a home of their own.

    Returns:
        True if the records are the demo's own.
    """
    if "PREFECT_API_URL" in os.environ or "PREFECT_HOME" in os.environ:
        return False
    home = (workspace / "prefect").absolute()
    home.mkdir(parents=True, exist_ok=True)
    os.environ["PREFECT_HOME"] = str(home)
    return True


def serve_hint(workspace: Path) -> str:
    """The command after which Prefect's pages show the demo's runs."""
    if workspace == Path("demo") and Path("Makefile").exists():
        return "make ui"
    return f"PREFECT_HOME={(workspace / 'prefect').absolute()} prefect server start"


def job_settings(manifest: Path, minutes: float) -> dict[str, Any]:
    """Settings of the main job on the samples: a small model in small steps, so that slow machines keep to the time."""
    # One thread: on two busy cores, two that wait for each other make a third of the steps.
    step = {"channels": [16, 32, 64, 128], "tile_px": 192, "batch": 4, "threads": 1}
    return {
        "ingest": {"manifest": str(manifest), "classes": str(manifest.with_name("classes.csv"))},
        "train": {"name": "aerial", "minutes": minutes, **step},
        "report": {"run": "demo", "title": "Aerial sample scenes"},
    }
