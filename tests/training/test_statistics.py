"""Statistics: each image is read once, whatever is asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import TrainConfig
from segcore.geometry import Window
from segcore.sampling import LabelledImage
from segcore.store import Workspace
from segcore.training import statistics as module
from segcore.training import train
from segcore.training.statistics import Statistics
from tests.synthetic import put_image, put_label


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(number, 200, (2, 64, 64), dtype=np.uint8)
        put_image(ws, f"i{number}", pixels, group=f"g{number}")
        put_label(ws, f"i{number}", "target", (pixels[0] > 127).astype(np.uint8))
    return ws


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the images that are read."""
    found: list[str] = []
    planes = module._planes

    def counted(image: LabelledImage) -> Any:
        found.append(image.image_id)
        return planes(image)

    monkeypatch.setattr(module, "_planes", counted)
    return found


def test_of_several_sets_of_images_each_image_is_read_once(ws: Workspace, read: list[str]) -> None:
    images = [LabelledImage(ws.image(name), ws.label(name, "target")) for name in ws.image_ids()]
    shared = Statistics()
    for few in (images[:3], images[1:], images):
        found = shared.of(few)
        assert found == Statistics().of(few)
        pixels = np.stack([image.read_pixels(0, Window.whole(image.shape_yx), 0) for image in few], axis=1)
        np.testing.assert_allclose(found[0], pixels.mean(axis=(1, 2, 3)))
        np.testing.assert_allclose(found[1], pixels.std(axis=(1, 2, 3)))
    assert len(read) == 4 + 3 + 3 + 4


def test_folds_read_each_image_once(ws: Workspace, read: list[str]) -> None:
    tiny: dict[str, Any] = {"channels": (4, 8), "tile_px": 32, "batch": 2, "threads": 1, "max_steps": 1}
    train(TrainConfig(workspace=ws.uri, folds=2, dry_run=True, device="cpu", **tiny))
    assert sorted(read) == [f"i{number}" for number in range(4)]
