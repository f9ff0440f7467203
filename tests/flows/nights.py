"""Nights: what one is asked for, and two pictures for those of real stages."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from segcore.config import NightlyConfig
from segcore.results import StageResult
from segcore.store import Workspace
from tests.inference.scenes import unet_package


def night(workspace: str, **settings: Any) -> NightlyConfig:
    return NightlyConfig.model_validate({"workspace": workspace, "model": "m", "sources": ["in"], **settings})


def files(folder: Path) -> dict[str, tuple[int, int]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


def archive(folder: Path) -> dict[str, Any]:
    """Two pictures, and what a night on them is asked for."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 70, 90, 3), np.uint8)
    (folder / "in").mkdir()
    for name, each in zip("ab", pixels, strict=True):
        Picture.fromarray(each).save(folder / "in" / f"{name}.png")
    return {
        "model": unet_package(Workspace.open(str(folder / "w"), create=True)).model_id,
        "sources": [str(folder / "in")],
        "exports": ["png"],
        "export_folder": str(folder / "out"),
        "objects": True,
        "ingest": {"processes": 1},
        "predict": {"device": "cpu", "precision": "float32", "tile_px": 64, "tile_workers": 1, "shard_px": 256},
    }


def invert(path: Path) -> None:
    pixels = np.asarray(Picture.open(path))
    Picture.fromarray(255 - pixels).save(path)


def states_of(results: list[StageResult], *names: str) -> list[list[str]]:
    return [[item.state for item in result.items] for result in results if result.stage in names]
