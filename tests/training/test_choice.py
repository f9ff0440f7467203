"""Choice: what is given stands; what is open follows from the images, the device and the time."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from segcore.augment import OFF
from segcore.classes import ClassInfo
from segcore.config import TrainConfig
from segcore.errors import ConfigError
from segcore.instances.rule import Rule
from segcore.training.choice import check_partners, choose, class_weights
from segcore.training.data import TrainingData
from segcore.training.objects import ObjectTruth
from tests.zoo import load_torchvision


class Image:
    def __init__(self, *shape_yx: int) -> None:
        self.shape_yx = shape_yx


def data(*sides: int, pixels: tuple[float, ...] = (900.0, 100.0)) -> TrainingData:
    index: Any = type("Index", (), {"pixels": np.array([pixels])})
    images: Any = tuple(Image(side, 2 * side) for side in sides)
    classes = tuple(ClassInfo(id=k, name=f"c{k}", color=(k, k, k)) for k in range(len(pixels)))
    return TrainingData(images, (), classes, index, (0.0,), (1.0,))


def config(**settings: Any) -> TrainConfig:
    """Without augmentation, whose choice looks into the images: see tests/augment."""
    return TrainConfig(workspace="w", augment=False, **settings)


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("side", "tile_px", "stages"), [(2000, 256, 5), (129, 256, 5), (128, 128, 5), (64, 64, 5), (33, 64, 5), (20, 32, 4)]
)
def test_tiles_and_depth_follow_the_smallest_image(side: int, tile_px: int, stages: int) -> None:
    found = choose(config(), data(4000, side), CPU)
    assert (found.tile_px, len(found.channels)) == (tile_px, stages)
    assert found.tile_px >> (stages - 1) >= 4
    assert found.batch == 2 * 256**2 // tile_px**2
    assert f"images of {side} px" in found.reasons["tile_px"]


@pytest.mark.parametrize(
    ("widest", "side", "tile_px"), [(64, 900, 128), (65, 900, 256), (400, 900, 512), (200, 200, 256)]
)
def test_tiles_of_a_detector_hold_most_objects_whole(widest: int, side: int, tile_px: int) -> None:
    load_torchvision()
    objects = ObjectTruth(Rule(depth_px=1), (False, True), "", widest)
    asked = config(architecture="mask_rcnn", task="instances")
    found = choose(asked, replace(data(side), objects=objects), CPU)
    assert found.tile_px == tile_px
    assert (
        found.reasons["tile_px"]
        == f"{tile_px}: for images of {side} px and more a side, and objects of up to {widest} px"
    )
    assert choose(asked.model_copy(update={"tile_px": 64}), replace(data(side), objects=objects), CPU).tile_px == 64


def test_a_tile_classifier_keeps_its_cells() -> None:
    """How many stages it has decides how coarse its map is."""
    chosen = choose(config(architecture="tile_classifier"), data(256), CPU)
    assert chosen.channels == (8, 16, 32, 64)


def test_what_is_given_stands_without_a_reason() -> None:
    given = {"tile_px": 96, "batch": 3, "channels": (8, 16), "loss": {"focal": 2.0}, "learning_rate": 0.1}
    found = choose(config(schedule="poly", arguments={"norm": "batch"}, **given), data(500), CPU)
    assert {key: getattr(found, key) for key in given} == given
    assert (found.norm, found.reasons) == ("batch", {})
    assert not any(found.augments.shares.values())


def test_batch_norm_sees_more_and_smaller_tiles_on_a_cpu() -> None:
    found = choose(config(arguments={"norm": "batch"}), data(500), CPU)
    assert (found.tile_px, found.batch) == (128, 8)
    assert (choose(config(architecture="fcn8s"), data(500), CPU).tile_px, found.norm) == (128, "batch")


def test_colours_of_many_classes_are_not_normalised_away() -> None:
    found = choose(config(), data(500, pixels=(5.0, 3.0, 2.0)), CPU)
    assert (found.norm, found.tile_px, found.batch) == ("batch", 128, 8)
    assert found.reasons["norm"].startswith("batch: 3 classes")
    assert choose(config(), data(500), CPU).norm == "image"


def test_channels_among_the_arguments_stand() -> None:
    assert choose(config(arguments={"channels": "4,8"}), data(500), CPU).channels == ()


def test_a_batch_can_be_shared_evenly() -> None:
    assert [choose(config(), data(500), CPU, processes).batch for processes in (1, 2, 3, 8)] == [2, 2, 3, 8]


def test_a_batch_that_is_chosen_has_partners_for_mixtures() -> None:
    asked = TrainConfig(workspace="w", augment=False).model_copy(update={"augments": {"mixup": 0.5}})
    assert [choose(asked, data(500), CPU, processes).batch for processes in (1, 2, 3)] == [2, 4, 6]


@pytest.mark.parametrize(
    ("name", "batch", "processes", "nearest"), [("mixup", 1, 1, 2), ("mixup", 6, 2, 8), ("cutmix", 2, 2, 4)]
)
def test_every_tile_that_mixes_needs_a_partner(name: str, batch: int, processes: int, nearest: int) -> None:
    asked = replace(OFF, shares={**OFF.shares, name: 0.5})
    with pytest.raises(ConfigError, match=rf"{name}: it mixes pairs of tiles, got a batch of {batch}.* is {nearest}$"):
        check_partners(asked, batch, processes)
    check_partners(asked, nearest, processes)
    check_partners(OFF, batch, processes)


def test_the_rate_suits_the_optimizer() -> None:
    rates = [choose(config(optimizer=name), data(500), CPU).learning_rate for name in ("adamw", "sgd")]
    assert rates == [3e-3, 0.05]


def test_the_rarest_class_is_named() -> None:
    assert "c1, 0.5 % of pixels" in choose(config(), data(500, pixels=(199.0, 1.0)), CPU).reasons["loss"]


def test_inverse_weights_make_every_class_count_alike() -> None:
    weights = class_weights(config(class_weighting="inverse"), data(500, pixels=(800.0, 150.0, 50.0, 0.0)))
    assert weights[3] == 1.0
    assert np.mean(weights[:3]) == pytest.approx(1.0)
    assert np.array(weights[:3]) * [0.8, 0.15, 0.05] == pytest.approx([weights[0] * 0.8] * 3)


def test_effective_weights_lie_between_inverse_and_none() -> None:
    shares = data(500, pixels=(900.0, 90.0, 10.0))
    inverse, effective = (
        np.array(class_weights(config(class_weighting=kind), shares)) for kind in ("inverse", "effective")
    )
    raw = [(1 - 0.999) / (1 - 0.999**n) for n in (900, 90, 10)]
    assert effective == pytest.approx(np.array(raw) / np.mean(raw))
    assert 1 < effective[2] / effective[0] < inverse[2] / inverse[0]


def test_given_weights_win() -> None:
    assert class_weights(config(), data(500)) == ()
    given = {"c1": 3.0}
    assert class_weights(config(class_weights=given), data(500)) == (1.0, 3.0)
    assert class_weights(config(class_weights=given, class_weighting="inverse"), data(500))[1] == 3.0
    with pytest.raises(ConfigError, match="class_weights: expected a class of c0, c1, got 'c7'"):
        class_weights(config(class_weights={"c7": 1.0}), data(500))
    with pytest.raises(ConfigError, match="expected 0 or more for c0, got -1"):
        class_weights(config(class_weights={"c0": -1.0}), data(500))


@pytest.mark.parametrize(("name", "arguments"), [("stain", {}), ("ndvi", {"red": 2}), ("ndwi", {"green": 1, "nir": 3})])
def test_methods_that_ask_for_certain_bands_are_held_against_the_images(name: str, arguments: dict[str, Any]) -> None:
    bands = replace(data(500), mean=(0.0,) * 4, std=(1.0,) * 4)
    assert choose(config(architecture=name, arguments=arguments), bands, CPU).tile_planes == 1
    with pytest.raises(ConfigError, match=name):
        choose(config(architecture=name, arguments=arguments), data(500), CPU)
