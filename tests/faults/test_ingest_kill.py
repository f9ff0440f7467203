"""Kill ingest at any moment: the rerun ends with the same pixels, and nothing finished is done twice."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from segcore.geometry import Window
from segcore.store import Workspace, verify

SHAPE = (2300, 1900)
SCRIPT = """
import sys
from segcore.config import IngestConfig
from segcore.ingest import ingest
source, target, workspace = sys.argv[1:]
ingest(IngestConfig(workspace=workspace, sources=(source,), targets=target, shard_px=256, processes=2))
"""
LABELS = ("image", "target")


def start(folder: Path, workspace: Path) -> "subprocess.Popen[bytes]":
    arguments = (str(folder / "source.tif"), str(folder / "target.png"), str(workspace))
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments])


def pixels_of(workspace: Path) -> list[np.ndarray]:
    """Every level of the image, then of its target."""
    opened = Workspace.open(str(workspace))
    (image_id,) = opened.image_ids()
    arrays = (opened.image(image_id), opened.label(image_id, "target"))
    return [one.read(Window.whole(one.shape(level)), level) for one in arrays for level in range(one.num_levels)]


def recorded(workspace: Path) -> dict[Path, int]:
    """Ledger records of image and target, and when they were written."""
    found = [path for name in LABELS for path in workspace.glob(f"state/*/{name}/0/shards/*/*")]
    return {path: path.stat().st_mtime_ns for path in found if "#" not in path.name}


@pytest.mark.slow
def test_sigkill_at_ten_random_moments_ends_in_the_same_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture, classes = rng.integers(0, 256, (*SHAPE, 3), np.uint8), rng.integers(0, 4, SHAPE, np.uint8)
    tifffile.imwrite(tmp_path / "source.tif", picture, photometric="rgb", tile=(256, 256))
    Picture.fromarray(classes).save(tmp_path / "target.png")
    assert start(tmp_path, tmp_path / "whole").wait() == 0

    moments = random.Random(0)
    killed, before, at_work = tmp_path / "killed", dict[Path, int](), 0
    for _ in range(10):
        process = start(tmp_path, killed)
        goal = len(before) + moments.randrange(0, 12)  # by its work: a busy machine's clock says little
        deadline = time.monotonic() + 60
        while len(recorded(killed)) < goal and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        at_work += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.05)  # the kernel ends the children after their parent
        after = recorded(killed)
        assert {path: after.get(path) for path in before} == before, "a finished shard was written again"
        before = after
    assert at_work >= 8
    assert len(before) > 0
    assert start(tmp_path, killed).wait() == 0
    after = recorded(killed)
    assert {path: after.get(path) for path in before} == before, "a finished shard was written again"
    whole, resumed = pixels_of(tmp_path / "whole"), pixels_of(killed)
    for number, (one, other) in enumerate(zip(whole, resumed, strict=True)):
        assert (one == other).all(), f"array {number} differs"
    assert (resumed[0] == picture.transpose(2, 0, 1)).all()
    assert (resumed[len(resumed) // 2] == classes).all()
    assert verify(Workspace.open(str(killed))) == []
    leftovers = [p for p in killed.rglob("*") if "#" in p.name or p.name.endswith(".partial")]
    assert leftovers == []
