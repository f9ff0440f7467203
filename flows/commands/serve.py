"""`segcore serve`: all flows on this machine, to be started from Prefect's pages, and the night on a schedule."""

from typing import Annotated, Any

import typer

from flows.options import DEBUG
from segcore.config import NightlyConfig, build_config, load_yaml


def command(name: str) -> Any:
    """The command, ready for the group."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(serve_all)
    return typer.main.get_command(app)


def serve_all(
    config: Annotated[
        str | None, typer.Option(metavar="FILE.yaml", help="What a night does, as the parameters of `nightly` have it.")
    ] = None,
    cron: Annotated[str, typer.Option(help="When the night begins.")] = "0 2 * * *",
    time_zone: Annotated[str, typer.Option(help="Whose clock that is.")] = "UTC",
    debug: DEBUG = False,
) -> None:
    """Serve all flows from this process until Ctrl-C: for a laptop, or to try things out.

    Uses the server of PREFECT_API_URL; without one it starts its own, with pages, for its own time.
    """
    night = None if config is None else build_config(NightlyConfig, load_yaml(config), config)
    from flows.running import prepare_prefect

    server = prepare_prefect(debug, pages=True)
    from flows.serving import serve_flows

    if server is not None:
        server.wait()
        typer.echo(f"Prefect's pages: {server.url.removesuffix('/api')}", err=True)
    serve_flows(night, cron, time_zone)
