"""Kill ingest at any moment: the rerun ends with the same pixels, and nothing finished is done twice."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tifffile

from segcore.config import IngestConfig
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.store import Workspace, verify

SHAPE = (2300, 1900)
SCRIPT = """
import sys
from segcore.config import IngestConfig
from segcore.ingest import ingest
ingest(IngestConfig(workspace=sys.argv[2], sources=(sys.argv[1],), shard_px=256, processes=2))
"""


def start(source: Path, workspace: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(source), str(workspace)])


def pixels_of(workspace: Path) -> list[np.ndarray]:
    opened = Workspace.open(str(workspace))
    (image_id,) = opened.image_ids()
    image = opened.image(image_id)
    return [image.read(Window.whole(image.shape(level)), level) for level in range(image.num_levels)]


def recorded(workspace: Path) -> dict[Path, int]:
    """Ledger records and when they were written."""
    return {path: path.stat().st_mtime_ns for path in workspace.glob("state/*/image/0/shards/*/*")}


def test_sigkill_at_ten_random_moments_ends_in_the_same_pixels(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)
    source = tmp_path / "source.tif"
    tifffile.imwrite(source, picture, photometric="rgb", tile=(256, 256))
    began = time.monotonic()
    undisturbed = start(source, tmp_path / "whole")
    assert undisturbed.wait() == 0
    took = time.monotonic() - began

    moments = random.Random(0)
    disturbed, before = tmp_path / "killed", {}
    for _ in range(10):
        process = start(source, disturbed)
        time.sleep(moments.uniform(0.3, 1.0) * took)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.05)  # the kernel ends the children after their parent
        after = recorded(disturbed)
        assert {path: after.get(path) for path in before} == before, "a finished shard was written again"
        before = after
    result = ingest(IngestConfig(workspace=str(disturbed), sources=(str(source),), shard_px=256, processes=2))
    assert result.exit_code == 0
    for level, (one, other) in enumerate(zip(pixels_of(tmp_path / "whole"), pixels_of(disturbed), strict=True)):
        assert (one == other).all(), f"level {level} differs"
    assert (pixels_of(disturbed)[0] == picture.transpose(2, 0, 1)).all()
    assert verify(Workspace.open(str(disturbed))) == []
    leftovers = [p for p in disturbed.rglob("*") if "#" in p.name or p.name.endswith(".partial")]
    assert leftovers == []
