"""`segcore demo` as a user runs it: once, and again."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def run_demo(folder: Path) -> tuple[dict[str, Any], str]:
    """One run with little training; the object it prints, and what it says beside."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "flows", "demo", "--minutes", "0.2", "--json"],
        cwd=folder,
        env={**environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_demo_runs_and_runs_again(tmp_path: Path) -> None:
    first, said = run_demo(tmp_path)
    assert "Traceback" not in said
    report, _, _, package = (Path(path) for path in first["paths"])
    assert report.is_relative_to(tmp_path / "demo")
    assert report.read_text(encoding="utf-8").startswith("<!")
    assert package.parent == tmp_path / "demo" / "models"
    assert {"paths", "scores", "seconds", "peak_mib"} <= set(first)
    assert first["page"].startswith("http://127.0.0.1:4200/runs/flow-run/")
    assert (tmp_path / "demo" / "prefect" / "prefect.db").exists()
    assert set(first["scores"]["per_class"]) == {"field", "wood", "water", "road", "house"}
    again, _ = run_demo(tmp_path)
    assert again["paths"] == first["paths"]
    assert again["scores"] == first["scores"]
    assert again["page"] != first["page"]
