"""Server: a Prefect server for the length of one command, for users who keep none. On this machine only.

Prefect can start one itself, but in the same process group: Ctrl-C then kills it before the flow can say how it ended,
and the command hangs on a server that is gone. This one has a session of its own, and ends with its parent.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from segcore.errors import SegcoreError

USUAL_PORT = 4200
START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 10.0
POLL_S = 0.1


class TemporaryServer:
    """A server process. It is started at once, `wait` for it before the first flow; it is stopped at exit.

    Args:
        home: Prefect's home, where the server's records are; its messages go to `server.log` there.
        pages: serve Prefect's pages too, on the usual port if that is free; they show the run while it goes on.
    """

    def __init__(self, home: Path, pages: bool) -> None:
        self.port = USUAL_PORT if pages and is_free(USUAL_PORT) else free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._log = home / "server.log"
        home.mkdir(parents=True, exist_ok=True)
        with self._log.open("w") as log:
            arguments = [str(self.port), "pages" if pages else "no-pages", str(os.getpid())]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.server", *arguments],  # -P: the user's folder is not imported from
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**self._doors(), **os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": self.url},
            )
        # Registered before Prefect's own: the last logs and events are sent, then this runs.
        atexit.register(self.stop)

    def _doors(self) -> dict[str, str]:
        """Settings, where the user chose none, that keep any web page in the user's browser from starting runs here."""
        own = ",".join(f"http://{host}:{self.port}" for host in ("127.0.0.1", "localhost"))
        return {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": own}

    def wait(self) -> None:
        """Return when the server answers.

        Raises:
            SegcoreError: if it ends, or does not answer in time.
        """
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):  # noqa: S310 - http, to ourselves
                    return
            except OSError:
                time.sleep(POLL_S)
        raise SegcoreError(f"the temporary Prefect server did not start; its messages are in {self._log}")

    def stop(self) -> None:
        """Let the server finish what it records, and end it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()


def is_free(port: int) -> bool:
    """True if nothing listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def serve(port: int, pages: bool, parent: int) -> None:
    """In the server's process: serve until told to stop, or until the process `parent` is gone."""
    import uvicorn
    from prefect.server.api.server import create_app

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    app = create_app(ephemeral=not pages, final=True)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    serve(int(sys.argv[1]), pages=sys.argv[2] == "pages", parent=int(sys.argv[3]))
