"""A workspace to tune on: the smallest that can be learnt from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.store import Workspace
from tests.synthetic import put_image, put_label

TINY: dict[str, Any] = {"channels": (4, 8), "tile_px": 32, "batch": 2, "threads": 1, "max_steps": 4, "device": "cpu"}


def discs(folder: Path) -> str:
    """Two images of a bright disc on dark, noisy ground, and one that is held out."""
    workspace = Workspace.open(str(folder), create=True)
    y, x = np.mgrid[:64, :64]
    for number in range(3):
        rng = np.random.default_rng(number)
        disc = (y - rng.integers(24, 40)) ** 2 + (x - rng.integers(24, 40)) ** 2 < 18**2
        pixels = rng.normal(60 + 80 * disc, 12, (1, 64, 64)).clip(0, 255).astype(np.uint8)
        put_image(workspace, f"i{number}", pixels, split="val" if number == 2 else "train")
        put_label(workspace, f"i{number}", "target", disc.astype(np.uint8))
    return workspace.uri


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return discs(tmp_path / "ws")
