"""What Prefect adds to a predict: the plain command beside the same one as a flow, in turns.

    plain       segcore predict
    server      segcore predict --prefect, against a server that runs
    ephemeral   segcore predict --prefect, which starts a server of its own

Wall-clock seconds of the whole process, median; `server_adds_s` and `ephemeral_adds_s` are what counts.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.memory import put_package
from benchmarks.predict import put_scene
from segcore.store import Workspace

QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """A Prefect server of our own; its API's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    call = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environ = {**os.environ, **QUIET, "PREFECT_HOME": str(home), "PREFECT_API_URL": url}
    server = subprocess.Popen(call, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1).close()  # noqa: S310 - our own server
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)


def seconds(arguments: list[str], environ: dict[str, str]) -> float:
    """One whole process."""
    began = time.monotonic()
    call = [sys.executable, "-m", "flows", *arguments]
    subprocess.run(call, env={**os.environ, **QUIET, **environ}, check=True, capture_output=True)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each contestant")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="segcore-flow-") as folder:
        workspace = Workspace.open(f"{folder}/w", create=True)
        put_scene(workspace, 1024)
        model = put_package(workspace, ("red", "green", "blue"))
        taken: dict[str, list[float]] = {"plain": [], "server": [], "ephemeral": []}
        with prefect_server(Path(folder, "server")) as url:
            for number in range(1 if arguments.quick else arguments.rounds):
                call = ["predict", "--workspace", workspace.uri, "--model", model]
                ways = {
                    "plain": ([], {}),
                    "server": (["--prefect"], {"PREFECT_API_URL": url, "PREFECT_HOME": f"{folder}/server"}),
                    "ephemeral": (["--prefect"], {"PREFECT_HOME": f"{folder}/own"}),
                }
                for way, (option, environ) in ways.items():
                    taken[way].append(seconds([*call, "--name", f"{way}{number}", *option], environ))
    median = {way: statistics.median(all_s) for way, all_s in taken.items()}
    found = {f"{way}_s": round(value, 2) for way, value in median.items()}
    found |= {f"{way}_adds_s": round(median[way] - median["plain"], 2) for way in ("server", "ephemeral")}
    if arguments.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:18} {value:6.2f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
