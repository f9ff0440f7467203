"""example_picture: the part in the middle is drawn, with its target and the mask that the model gives."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from segcore.classes import ClassInfo
from segcore.config import TrainConfig
from segcore.models import ModelConfig
from segcore.models.package import InputContract, PackageInfo
from segcore.sampling import LabelledImage
from segcore.store import PyramidSpec, Staging, Workspace
from segcore.training.choice import Choice
from segcore.training.example import GAP_PX, example_picture
from segcore.training.learner import Learner
from segcore.training.validate import HeldOut
from tests.synthetic import put_image, put_label

CLASSES = (ClassInfo(id=0, name="background", color=(0, 0, 0)), ClassInfo(id=1, name="disc", color=(230, 159, 0)))
GREY = (200, 200, 200)
CONFIG = ModelConfig(architecture="conv1", arguments={"in_channels": 1, "num_classes": 2})
CONTRACT = InputContract(bands=("band 0",), dtype="uint8", spacing=None, mean=(100.0,), std=(50.0,), tile_px=64)
INFO = PackageInfo(name="m", architecture=CONFIG, contract=CONTRACT, classes=CLASSES)


@pytest.fixture
def learner() -> Learner:
    """Class 1 where the pixel is above 130."""
    choice = Choice((4, 8), 32, 2, {"ce": 1.0}, 3e-3)
    made = Learner(CONFIG, TrainConfig(workspace="w"), choice, (100.0,), (50.0,), torch.device("cpu"))
    with torch.no_grad():
        made.average.conv.weight.copy_(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1))
        made.average.conv.bias.copy_(torch.tensor([0.0, -0.61]))
    return made


def drawn(images: list[LabelledImage], learner: Learner) -> bytes | None:
    held_out = HeldOut.of(INFO, learner, images, 1e6, 1)
    return example_picture(held_out, learner.average.state_dict())


def labelled(workspace: Workspace, name: str, pixels: np.ndarray, ids: np.ndarray) -> LabelledImage:
    put_image(workspace, name, pixels[None])
    put_label(workspace, name, "target", ids, classes=CLASSES)
    return LabelledImage(workspace.image(name), workspace.label(name, "target"))


def test_the_part_in_the_middle_is_drawn_with_target_and_mask(tmp_path: Path, learner: Learner) -> None:
    """Three images where the mask is right in all, half and none of the object, and one without an object."""
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    bright, dark = np.full((64, 64), 220, np.uint8), np.full((64, 64), 20, np.uint8)
    half = np.where(np.arange(64)[:, None] < 32, bright, dark)
    ids = np.ones((64, 64), np.uint8)
    with_ignored = ids.copy()
    with_ignored[:, :8] = 255
    images = [
        labelled(workspace, "empty", dark, np.zeros_like(ids)),
        labelled(workspace, "right", bright, ids),
        labelled(workspace, "half", half, with_ignored),
        labelled(workspace, "wrong", dark, ids),
    ]
    data = drawn(images, learner)
    assert data is not None
    picture = np.asarray(Pillow.open(io.BytesIO(data)))
    assert picture.shape == (64, 3 * 64 + 2 * GAP_PX, 3)
    photo, target, mask = (picture[:, start : start + 64] for start in (0, 64 + GAP_PX, 2 * (64 + GAP_PX)))
    assert (picture[:, 64 : 64 + GAP_PX] == 255).all()
    assert np.array_equal(photo, np.repeat(half[..., None], 3, axis=-1))
    assert (target[:, :8] == GREY).all()
    assert (target[:, 8:] == CLASSES[1].color).all()
    assert (mask[:32] == CLASSES[1].color).all()
    assert (mask[32:] == CLASSES[0].color).all()
    assert data == drawn(images, learner)


def test_large_parts_are_shrunk_and_no_held_out_image_is_no_picture(tmp_path: Path, learner: Learner) -> None:
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    pixels = np.full((500, 800), 220, np.uint8)
    images = [labelled(workspace, "large", pixels, np.ones((500, 800), np.uint8))]
    data = drawn(images, learner)  # two shards of 512 px, as good as each other
    assert data is not None
    assert Pillow.open(io.BytesIO(data)).size == (3 * 184 + 2 * GAP_PX, 320)
    assert drawn([], learner) is None


def test_of_a_volume_one_plane_is_drawn_and_nodata_is_grey(tmp_path: Path, learner: Learner) -> None:
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    pixels = np.full((1, 3, 40, 50), 220, np.uint8)
    pixels[..., :10] = 7
    put_image(workspace, "v", pixels, axes=("c", "z", "y", "x"), nodata=7.0)
    spec = PyramidSpec(axes=("z", "y", "x"), shape=(3, 40, 50), dtype="uint8", kind="mask")
    with Staging.begin(workspace, "v", "target", {}, spec) as staging:
        staging.put_all(np.ones((3, 40, 50), np.uint8))
        staging.finish({}, CLASSES)
    data = drawn([LabelledImage(workspace.image("v"), workspace.label("v", "target"))], learner)
    assert data is not None
    picture = np.asarray(Pillow.open(io.BytesIO(data)))
    assert picture.shape == (40, 3 * 50 + 2 * GAP_PX, 3)
    assert (picture[:, :10] == GREY).all()
    assert (picture[:, 10:50] == 220).all()
    mask = picture[:, 2 * (50 + GAP_PX) :]
    assert (mask[:, :10] == GREY).all()
    assert (mask[:, 10:] == CLASSES[1].color).all()
