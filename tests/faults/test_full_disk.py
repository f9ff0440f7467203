"""The disk is full in the middle of a night: one line says so, nothing finished is lost, and after room is made the
same command ends with the pixels of a run that nobody disturbed.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.store import Workspace
from tests.inference.scenes import every_level, scene, unet_package
from tests.synthetic import put_image

DISK = "9m"
"""For the image and a part of its mask."""
MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2"'


def ran(folder: Path, how: str) -> dict[str, Any]:
    """What both calls came to."""
    call = [sys.executable, "-m", "tests.faults.full_disk", str(folder), how]
    if how == "own":  # a namespace of its own may mount what it likes, and takes it along when it ends
        call = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{MOUNT} && shift 2 && exec "$@"',
                "sh", DISK, str(folder), *call]  # fmt: skip
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def may_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    call = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", DISK, str(folder)]
    return subprocess.run(call, capture_output=True, timeout=60).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["own", "injected"])
def test_a_full_disk_is_named_and_after_room_is_made_the_rest_is_done(tmp_path: Path, how: str) -> None:
    if how == "own" and not may_mount(tmp_path):
        pytest.skip("needs a namespace in which a small disk can be mounted")
    found = ran(tmp_path, how)
    assert found["states"] == ["failed", "done"]
    assert "/labels/m/" in found["error"]
    assert "the disk is full, or your share of it (" in found["error"]
    assert "MiB are needed for this file alone); make room and run the same again" in found["error"]
    assert "\n" not in found["error"]
    assert found["resumed"] > 0
    assert found["leftovers"] == []
    assert found["digest"] == undisturbed()


def undisturbed() -> str:
    """Digest of the mask's pixels, of all levels, where there is room."""
    ws = Workspace.open("memory://full-disk", create=True)
    put_image(ws, "a", scene(1500, 1300))
    settings: dict[str, Any] = {"workspace": ws.uri, "model": unet_package(ws).model_id, "name": "m", "shard_px": 256}
    predict(PredictConfig.model_validate({**settings, "device": "cpu", "tile_workers": 1}))
    return hashlib.sha256(b"".join(level.tobytes() for level in every_level(ws, "a", "m"))).hexdigest()
