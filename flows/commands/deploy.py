"""`segcore deploy`: work pool, deployments, schedules, limits and automations on a Prefect server, in one go."""

import json
from typing import Annotated, Any

import typer

from flows.console import progress_on_stderr, stdout_kept_clean
from flows.options import DEBUG, JSON
from segcore.errors import ConfigError
from segcore.measure import Peak


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(deploy_all)
    return typer.main.get_command(app)


def deploy_all(
    file: Annotated[str, typer.Option(help="The deployments, as Prefect has them.")] = "deployments/prefect.yaml",
    gpu_stages: Annotated[int, typer.Option(min=1, help="Long stages at one time, on all workers together.")] = 1,
    notify: Annotated[
        str | None, typer.Option(help="TYPE/NAME of a notification block on the server, which is told of failures.")
    ] = None,
    json_: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Bring a Prefect server up to date: work pool, deployments, schedules, limit, automations.

    The server is that of PREFECT_API_URL. Doing it again changes nothing.
    """
    from flows.running import DEFAULTS

    with stdout_kept_clean(), Peak() as peak:
        import os

        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        from prefect.settings import get_current_settings

        url = get_current_settings().api.url
        if url is None:
            raise ConfigError("PREFECT_API_URL is not set: which server? For one on this machine, `segcore serve`")
        from flows.deploying import deploy

        with progress_on_stderr() as progress:
            said = deploy(file, gpu_stages, notify, progress)
    if json_:
        found = {"stage": "deploy", "state": "done", "paths": [], "seconds": peak.seconds, "peak_mib": peak.mib}
        typer.echo(json.dumps(found | {"server": url, "made": said}))
        return
    for line in said:
        typer.echo(line)
