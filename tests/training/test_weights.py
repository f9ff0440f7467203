"""Weights: by image or group, and in one line where a name is not known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import TrainConfig, build_config
from segcore.errors import ConfigError
from segcore.sampling import EpochSampler, RandomSampler
from segcore.store import Workspace
from segcore.training.data import gather, sampler_of
from tests.synthetic import put_image, put_label


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Three images of 64 x 96 px, half of each class; two of one patient."""
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    for name, group in (("slide-a", "patient-1"), ("slide-b", "patient-1"), ("slide-c", None)):
        pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 96), dtype=np.uint8)
        put_image(ws, name, pixels, split="train", group=group)
        put_label(ws, name, "target", (np.arange(64 * 96).reshape(64, 96) % 2).astype(np.uint8))
    return ws


def config_of(ws: Workspace, weights: dict[str, float], **more: Any) -> TrainConfig:
    return build_config(TrainConfig, {"workspace": ws.uri, "weights": weights, **more})


def test_an_images_weight_multiplies_its_groups(workspace: Workspace) -> None:
    config = config_of(workspace, {"patient-1": 0.5, "slide-b": 4.0})
    data = gather(workspace, config)
    assert [image.image_id for image in data.training] == ["slide-a", "slide-b", "slide-c"]
    assert data.weights == (0.5, 2.0, 1.0)
    sampler = sampler_of(config, data, 32)
    assert isinstance(sampler, RandomSampler)
    np.testing.assert_allclose(sampler.shares.sum(axis=1), np.array([0.5, 2, 1]) / 3.5)


def test_weights_count_the_cells_of_an_epoch(workspace: Workspace) -> None:
    config = config_of(workspace, {"slide-a": 0.5, "slide-b": 0}, sampling="epoch")
    sampler = sampler_of(config, gather(workspace, config), 32)
    assert isinstance(sampler, EpochSampler)
    assert np.bincount([draw.image for draw in sampler.draws(0, 9)], minlength=3).tolist() == [3, 0, 6]


@pytest.mark.parametrize("name", ["slide-d", "slide_c", "c"])
def test_an_unknown_name_is_refused_with_the_nearest(workspace: Workspace, name: str) -> None:
    with pytest.raises(ConfigError, match=f"weights: no image and no group is called '{name}'; the nearest name is '"):
        gather(workspace, config_of(workspace, {name: 1.0}))


def test_weights_that_leave_no_image_are_refused(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="weights: all 3 training images have the weight 0"):
        gather(workspace, config_of(workspace, {"patient-1": 0, "slide-c": 0}))


def test_weights_that_leave_empty_targets_are_refused(workspace: Workspace) -> None:
    put_label(workspace, "slide-c", "target", np.full((64, 96), 255, np.uint8), version=1)
    with pytest.raises(ConfigError, match="weights: the targets of all training images with a weight above 0"):
        gather(workspace, config_of(workspace, {"patient-1": 0}))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_is_a_number_from_0_on(workspace: Workspace, weight: float) -> None:
    with pytest.raises(ConfigError, match=r"weights.slide-a: Input should be"):
        config_of(workspace, {"slide-a": weight})
