"""Stretch: values by the closed form; the range is the image's, whatever window is read."""

from pathlib import Path

import numpy as np
import pytest

from segcore.config import PredictConfig, TrainConfig
from segcore.geometry import Window
from segcore.inference import predict
from segcore.models.package import read_package
from segcore.sampling import LabelledImage
from segcore.store import Workspace
from segcore.stretch import Stretch, stretch_of
from segcore.training import train
from segcore.training.data import is_stretched
from tests.synthetic import put_image, put_label


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_apply_is_linear_between_low_and_high_and_clips(dtype: str) -> None:
    top = np.iinfo(dtype).max
    pixels = np.array([[[0, 10, 60, 110, 200]]], dtype)
    assert Stretch(10, 110).apply(pixels).tolist() == [[[0, 0, round(top / 2), top, top]]]
    assert Stretch(10, 110).apply(pixels).dtype == dtype


def test_the_range_is_that_of_the_usable_pixels(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path), create=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(20, 61, (2, 200, 300), np.uint8)
    pixels[:, :50] = 255
    put_image(workspace, "a", pixels, nodata=255)
    found = stretch_of(workspace.image("a"))
    low, high = np.percentile(pixels[:, 50:], (0.1, 99.9))
    assert (found.low, found.high) == (low, high)
    assert high <= 60


def test_an_image_without_usable_pixels_or_contrast_stays_finite(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path), create=True)
    put_image(workspace, "none", np.zeros((1, 40, 40), np.uint8), nodata=0)
    put_image(workspace, "flat", np.full((1, 40, 40), 7, np.uint8))
    assert stretch_of(workspace.image("none")) == Stretch(0, 255)
    assert stretch_of(workspace.image("flat")) == Stretch(7, 8)


def test_a_stretched_model_sees_a_dark_copy_as_the_image_itself(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path), create=True)
    bright = 2 * np.random.default_rng(0).integers(10, 120, (1, 160, 200), np.uint8)
    put_image(workspace, "bright", bright, split="train")
    put_image(workspace, "dark", bright // 2)
    put_label(workspace, "bright", "target", (bright[0] > 120).astype(np.uint8))
    settings = {"architecture": "conv1", "max_steps": 3, "tile_px": 64, "batch": 2, "threads": 1, "device": "cpu"}
    trained = train(TrainConfig(workspace=workspace.uri, stretch="on", **settings))
    model = trained.details["model"]
    assert read_package(workspace, model).contract.stretch
    assert predict(PredictConfig(workspace=workspace.uri, model=model, tile_workers=1)).exit_code == 0
    one, other = (workspace.label(name, model).read(Window((0, 0), (160, 200))) for name in ("bright", "dark"))
    assert (one == other).all()
    assert set(np.unique(one)) == {0, 1}


def test_stretch_is_taken_where_images_differ_much(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path), create=True)
    rng = np.random.default_rng(0)
    for name, high in (("a", 200), ("b", 190), ("c", 40)):
        put_image(workspace, name, rng.integers(0, high, (1, 64, 64), np.uint8))
        put_label(workspace, name, "target", np.zeros((64, 64), np.uint8))
    images = [LabelledImage(workspace.image(name), workspace.label(name, "target")) for name in "abc"]
    assert not is_stretched(images[:2], "auto")
    assert is_stretched(images, "auto")
    assert is_stretched(images[:2], "on")
    assert not is_stretched(images, "off")
