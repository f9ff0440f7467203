"""Running: all of a command speaks to the one server that it started."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import subprocess, sys, threading
from types import SimpleNamespace
from flows import running

running.TemporaryServer = lambda home, pages: SimpleNamespace(url="http://127.0.0.1:1/api")
running.prepare_prefect()
from prefect.settings import get_current_settings

told = lambda: print(get_current_settings().api.url)
told()
thread = threading.Thread(target=told)
thread.start()
thread.join()
own = "from prefect.settings import get_current_settings; print(get_current_settings().api.url)"
sys.stdout.flush()
subprocess.run([sys.executable, "-c", own], check=True)
"""


def test_threads_and_processes_of_a_command_know_its_server(tmp_path: Path) -> None:
    """One that does not would start another, which Prefect does by itself."""
    own = {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_EPHEMERAL_ENABLED": "false"}
    others = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=others | own, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["http://127.0.0.1:1/api"] * 3
