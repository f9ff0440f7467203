"""Spacing: images of several pixel sizes train at the one that is asked for, and predict resamples likewise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcore.config import PredictConfig, TrainConfig
from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.inference import predict
from segcore.inference.contract import check_contract
from segcore.models.package import read_package
from segcore.spatial import Spacing
from segcore.store import Workspace
from segcore.training import train
from segcore.training.choice import choose
from segcore.training.data import TrainingData, gather
from segcore.training.spacing import common
from tests.synthetic import put_image, put_label


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "ws"), create=True)


def put_stripes(ws: Workspace, image_id: str, size: float | None, unit: str = "micrometer", **more: Any) -> np.ndarray:
    """Bright stripes of 40 um on a dark ground, 400 um x 200 um, with pixels of this size; returns where they are."""
    sides = [round(n / (size or 1)) for n in (400, 200)]
    places = (np.arange(sides[0]) + 0.5) * (size or 1)
    target = np.broadcast_to(((places // 40) % 2)[:, None], sides).astype(np.uint8)
    noise = np.random.default_rng(len(image_id)).normal(0, 12, (2, *sides))
    spacing = Spacing(values={"y": size, "x": size}, unit=unit, origin="file") if size else None
    put_image(ws, image_id, (60 + 80 * target + noise).clip(1, 255).astype(np.uint8), spacing=spacing, **more)
    put_label(ws, image_id, "target", target)
    return target


def gathered(ws: Workspace, **settings: Any) -> TrainingData:
    return gather(ws, TrainConfig(workspace=ws.uri, **settings))


def test_each_image_is_read_at_the_size_asked_for(workspace: Workspace) -> None:
    for image_id, size in (("fine", 0.4), ("same", 1.0), ("coarse", 1.4)):
        put_stripes(workspace, image_id, size, split="train")
    data = gathered(workspace, spacing="1um")
    shapes = {image.image_id: (image.level, image.shape_yx) for image in data.training}
    assert shapes == {"fine": (1, (400, 200)), "same": (0, (400, 200)), "coarse": (0, (400, 200))}
    places = np.arange(400) + 0.5
    for image in data.training:
        classes = image.read(0, Window.whole(image.shape_yx))[1]
        assert (classes == ((places // 40) % 2)[:, None]).mean() > 0.97
        assert image.read(0, Window.whole(image.shape_yx))[0][:, 40:80].mean() == pytest.approx(140, abs=4)
    assert data.spacing is not None
    assert (data.spacing.values, data.spacing.unit, data.level) == ({"y": 1.0, "x": 1.0}, "micrometer", 0)
    assert data.index.pixels == pytest.approx(np.full((3, 2), 40_000), rel=0.03)


def test_images_of_different_sizes_train_at_one_that_is_chosen(workspace: Workspace) -> None:
    for image_id, size in (("fine", 0.4), ("same", 1.0), ("coarse", 1.4)):
        put_stripes(workspace, image_id, size, split="train")
    data = gathered(workspace)
    assert data.asked is not None
    assert (data.asked.values["y"], data.asked.origin) == (1.0, "images of 0.4 to 1.4 micrometer")
    assert {image.shape_yx for image in data.training} == {(400, 200)}
    told = choose(TrainConfig(workspace=workspace.uri), data, torch.device("cpu")).reasons["spacing"]
    assert told == "1 micrometer: one size for images of 0.4 to 1.4 micrometer"
    put_stripes(workspace, "far", 5.0, split="test")
    assert gathered(workspace).asked == data.asked, "images that are only scored decide nothing"
    assert {image.level for image in gathered(workspace, level=0).training} == {0}
    assert gathered(workspace, level=0).asked is None, "what is given stands"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((0.5, 0.5, 0.505), None),
        ((0.5, None), None),
        ((0.25, 0.5, 0.5), 0.5),
        ((0.25, 0.25, 0.25, 0.6), 0.4),
    ],
    ids=["alike", "unknown", "median", "coarsest"],
)
def test_the_common_size_is_the_median_that_all_can_be_brought_to(
    workspace: Workspace, sizes: tuple[float | None, ...], expected: float | None
) -> None:
    for number, size in enumerate(sizes):
        spacing = Spacing(values={"y": size, "x": size}, unit="micrometer", origin="file") if size else None
        put_image(workspace, f"i{number}", np.zeros((1, 8, 8), np.uint8), spacing=spacing)
    found = common([workspace.image(image_id) for image_id in workspace.image_ids()])
    assert (found and found.values["y"]) == pytest.approx(expected)


def test_a_spacing_without_a_unit_is_in_that_of_the_images(workspace: Workspace) -> None:
    put_stripes(workspace, "a", 1.0, "meter")
    assert gathered(workspace, spacing="2").spacing == Spacing(
        values={"y": 2.0, "x": 2.0}, unit="meter", origin="asked for"
    )


@pytest.mark.parametrize(
    ("size", "unit", "message"),
    [
        (None, "", "spacing: image b: expected pixels of a known size to make 1 micrometer of, got none; ingest it"),
        (1.0, "degree", "spacing: image b: expected a pixel size that compares with 1 micrometer, got 1 degree"),
        (
            1.6,
            "micrometer",
            "image b: expected pixels of at most 1.5 micrometer to make 1 micrometer of, got 1.6 ",
        ),
    ],
)
def test_an_image_that_cannot_be_of_that_size_is_refused(
    workspace: Workspace, size: float | None, unit: str, message: str
) -> None:
    put_stripes(workspace, "a", 1.0)
    put_stripes(workspace, "b", size, unit)
    with pytest.raises(ConfigError, match=message):
        gathered(workspace, spacing="1um")


@pytest.mark.parametrize("architecture", ["conv1", "unet"])
def test_a_model_trained_at_a_spacing_predicts_on_images_of_another(workspace: Workspace, architecture: Any) -> None:
    put_stripes(workspace, "a", 0.5, split="train")
    put_stripes(workspace, "b", 0.7, split="train")
    put_stripes(workspace, "held", 0.6, split="val")
    target = put_stripes(workspace, "other", 0.8, split="test")
    settings: dict[str, Any] = {"tile_px": 32, "batch": 4, "max_steps": 40, "threads": 1, "device": "cpu"}
    settings |= {"augment": False, "learning_rate": 0.3}
    if architecture == "unet":
        settings |= {"channels": (4, 8), "learning_rate": 0.01}
    config = TrainConfig(workspace=workspace.uri, architecture=architecture, spacing="1um", **settings)
    result = train(config)
    contract = read_package(workspace, result.details["model"]).contract
    assert contract.spacing is not None
    assert (contract.spacing.values, contract.level) == ({"y": 1.0, "x": 1.0}, 0)
    assert result.scores is not None
    assert result.scores["foreground_iou"] > 0.8
    for image in gathered(workspace, spacing="1um").training:  # predict sees what training saw
        assert check_contract(contract, image.image).grid.step == image.step
        assert check_contract(contract, image.image).grid.level == image.level
    predict(PredictConfig(workspace=workspace.uri, model=result.details["model"], images=("other",), shard_px=256))
    mask = workspace.label("other", result.details["model"])
    assert (mask.read(Window.whole(mask.shape())) == target).mean() > 0.9
