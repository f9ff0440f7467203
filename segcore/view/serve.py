"""Serve: settings -> *a server on this machine* until Ctrl-C, and its first address for whoever looks."""

import ipaddress
import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable
from urllib.parse import quote

import uvicorn

from segcore.config import ViewConfig
from segcore.errors import ConfigError
from segcore.progress import SILENT, Progress
from segcore.store import Workspace
from segcore.view.app import view_app
from segcore.view.guard import Guard

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def view(config: ViewConfig, tell: Callable[[str], None], progress: Progress = SILENT) -> None:
    """Serve a workspace until Ctrl-C.

    Args:
        config: what, and where.
        tell: hears the address once it can be asked for.
        progress: hears warnings.

    Raises:
        ConfigError: if the port is taken, or the machine has no such address.
        StoreError: if there is no such workspace or image.
    """
    workspace = Workspace.open(config.workspace)
    if config.image is not None:
        workspace.image(config.image)
    token = secrets.token_urlsafe(16)
    is_local = is_loopback(config.host)
    hosts = LOOPBACK | {config.host.lower()} | (frozenset() if is_local else {socket.gethostname().lower()})
    app = Guard(view_app(workspace), hosts, token, any_address=not is_local)
    with bound(config.host, config.port) as listening:
        url = first_address(config, listening.getsockname()[1], token)
        if not is_local:
            progress.note("view: other machines can reach it, unencrypted: whoever reads the token sees the workspace")
        tell(url)
        if config.browser and has_screen():
            webbrowser.open(url)
        run(app, listening)


def run(app: Guard, listening: socket.socket) -> None:
    """Until Ctrl-C, which is the regular end."""
    options = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
    )
    try:
        uvicorn.Server(options).run(sockets=[listening])
    except KeyboardInterrupt:
        return


def is_loopback(host: str) -> bool:
    """True if only this machine can reach it there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        ConfigError: if it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: cannot listen there ({error.strerror or error})") from error


def first_address(config: ViewConfig, port: int, token: str) -> str:
    """With the token, which the browser keeps in a cookie."""
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(config.host, config.host)  # noqa: S104
    path = "" if config.image is None else f"image/{quote(config.image, safe='')}"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/{path}?token={token}"


def has_screen() -> bool:
    """True where a browser would show: not behind ssh, where a text browser would take the terminal."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
