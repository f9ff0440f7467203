"""Drift on real images: a model of dark fluorescence is shown stained tissue."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as Pillow

from segcore.config import DriftConfig, TrainConfig
from segcore.drift import drift
from segcore.store import Workspace
from segcore.training import train
from tests.synthetic import put_image, put_label

NUM_TRAINING, SIDE_PX = 20, 256


def _kind(pixels: npt.NDArray[np.uint8]) -> str:
    """Of a picture (Y, X, 3): dark fluorescence, purple on white, or grey."""
    if pixels.mean() < 100:
        return "dark"
    return "grey" if np.ptp(pixels.astype(int), axis=-1).mean() < 5 else "purple"


@pytest.mark.slow  # 58 images are written, and a network is trained for a few steps
def test_stained_tissue_is_unusual_to_a_model_of_fluorescence(data_dir: Path, tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    numbers = {"dark": 0, "grey": 0, "purple": 0}
    for folder in sorted((data_dir / "dsb2018/stage1_train").iterdir()):
        pixels = np.asarray(Pillow.open(next((folder / "images").iterdir())).convert("RGB"))[:SIDE_PX, :SIDE_PX]
        kind = _kind(pixels)
        image_id = f"{kind}{numbers[kind]}"
        put_image(ws, image_id, np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        if kind == "dark" and numbers[kind] < NUM_TRAINING:
            masks = [np.asarray(Pillow.open(path).convert("L")) > 127 for path in (folder / "masks").iterdir()]
            target = np.any(masks, axis=0)[:SIDE_PX, :SIDE_PX].astype(np.uint8)
            put_label(ws, image_id, "target", target)
        numbers[kind] += 1
    config = TrainConfig(
        workspace=ws.uri, max_steps=10, tile_px=64, batch=2, channels=(8, 16), validation_share=0.05, device="cpu"
    )
    model = train(config).details["model"]
    result = drift(DriftConfig(workspace=ws.uri, model=model))
    rows = json.loads(Path(result.paths[0]).read_text(encoding="utf-8"))["images"]
    assert (len(rows), numbers) == (58, {"dark": 33, "grey": 4, "purple": 21})
    first = [row["image"].rstrip("0123456789") for row in rows[:25]]
    assert set(first) == {"grey", "purple"}
    assert all(row["unusual"] for row in rows[:25])
    ordinary = [row for row in rows if row["image"].startswith("dark")]
    assert sum(row["unusual"] for row in ordinary) <= 0.1 * len(ordinary)
    assert all("brighter" in " ".join(row["words"]) for row in rows[:25])
