"""A PostgreSQL server of our own, with an empty database, for the length of a `with`."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.server import free_port

USER = "postgres"
"""The server refuses to run as root; there it runs as this one, whom the Debian package makes."""


def programs() -> Path | None:
    """The folder of `initdb` and `pg_ctl`; None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    return max(versions, key=lambda folder: float(folder.parent.name), default=None)


class Postgres:
    """A server that was started; `url` is what Prefect's server connects to."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self._port = folder, port
        self.url = f"postgresql+asyncpg://{USER}@127.0.0.1:{port}/postgres"
        self._run("initdb", "--username", USER, "--auth", "trust")
        self.start()

    def start(self) -> None:
        """Return when it answers."""
        options = f"-p {self._port} -h 127.0.0.1 -k {self._folder}"
        self._run("pg_ctl", "--wait", "--log", str(self._folder / "log"), "--options", options, "start")
        self.is_up = True

    def stop(self, mode: str = "fast") -> None:
        """`fast` breaks all connections; `immediate` is as good as a crash."""
        self.is_up = False
        self._run("pg_ctl", "--wait", "--mode", mode, "stop")

    def _run(self, program: str, *options: str) -> None:
        folder = programs()
        assert folder is not None, "no PostgreSQL"
        command = [str(folder / program), "--pgdata", str(self._folder / "data"), *options]
        user = USER if os.geteuid() == 0 else None
        subprocess.run(command, user=user, cwd=self._folder, stdout=subprocess.DEVNULL, check=True)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start one on a free port of this machine, and stop and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="segcore-postgres-") as name:
        if os.geteuid() == 0:
            shutil.chown(name, USER, USER)
        server = Postgres(Path(name), free_port())
        try:
            yield server
        finally:
            if server.is_up:
                server.stop()
