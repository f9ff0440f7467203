"""Detection: boxes and masks against the definition, a detector that learns, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from segcore.config import TrainConfig, build_config
from segcore.errors import ConfigError
from segcore.instances.rule import Rule
from segcore.models import ModelConfig, build_model
from segcore.sampling import IGNORED
from segcore.sampling.codes import coded
from segcore.store import Workspace
from segcore.training import train
from segcore.training.data import gather
from segcore.training.detection import targets_of
from segcore.training.objects import ObjectTruth
from tests.instances.scenes import discs
from tests.training.test_objects import put_scene
from tests.zoo import load_torchvision

TRUTH = ObjectTruth(Rule(depth_px=1, min_px=12), (False, True, True), "")


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Classes and ids of two tiles; the second shows nothing."""
    ids = np.stack([discs((60, 70), 30), np.zeros((60, 70), np.int64)])
    classes = np.where(ids > 0, 1 + ids % 2, 0).astype(np.int16)
    classes[0, 20:30, :40] = IGNORED
    return classes, ids


def parts_of_objects(ids: np.ndarray, least_px: int) -> list[tuple[int, np.ndarray]]:
    """Id and mask of every part that is connected by sides or corners, and large enough."""
    found = []
    for number in np.unique(ids[ids > 0]):
        labels, count = ndimage.label(ids == number, np.ones((3, 3)))
        found += [(int(number), labels == part) for part in range(1, count + 1)]
    return [(number, mask) for number, mask in found if mask.sum() >= least_px]


def test_targets_are_the_objects_of_each_tile() -> None:
    classes, ids = scene()
    one, none = targets_of(torch.from_numpy(coded(classes, ids, 3).astype(np.int64)), TRUTH)
    seen = np.where(classes[0] == IGNORED, 0, ids[0])
    expected = parts_of_objects(seen, 12)
    assert len({number for number, _ in expected}) < len(expected) < len(parts_of_objects(seen, 0))
    assert (one["masks"].dtype, len(one["masks"])) == (torch.uint8, len(expected))
    for mask, row, box in zip(one["masks"].bool().numpy(), one["rows"].tolist(), one["boxes"].tolist(), strict=True):
        (number,) = [number for number, other in expected if np.array_equal(mask, other)]
        assert row == 1 + number % 2
        y, x = np.nonzero(mask)
        assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    np.testing.assert_array_equal(one["unknown"], classes[0] == IGNORED)
    undrawn, _ = targets_of(torch.from_numpy(coded(classes, np.where(ids == 3, 0, ids), 3).astype(np.int64)), TRUTH)
    np.testing.assert_array_equal(undrawn["unknown"], (classes[0] == IGNORED) | (ids[0] == 3))
    assert not none["unknown"].any()
    assert none["boxes"].shape == (0, 4)
    assert (none["masks"].shape, none["rows"].tolist()) == ((0, 60, 70), [])


def test_an_object_and_its_mirror_image_are_two() -> None:
    """A tile over the image's border: no box around both, of which no image would have the like."""
    ids = np.zeros((40, 40), np.int64)
    ids[4:12, 10:16] = 1
    ids[:3, 25:30] = 2
    codes = np.pad(coded((ids > 0).astype(np.int16), ids, 3), ((16, 0), (0, 0)), mode="reflect").astype(np.int64)
    (found,) = targets_of(torch.from_numpy(codes)[None], TRUTH)
    assert sorted(found["boxes"].tolist()) == [[10, 5, 16, 13], [10, 20, 16, 28], [25, 14, 30, 19]]


def test_a_detector_learns_what_objects_are() -> None:
    """The same few tiles for a few steps, of which it then tells most pixels."""
    load_torchvision()
    torch.manual_seed(0)
    arguments = {
        "in_channels": 1, "num_classes": 4, "encoder": "resnet18", "features": 16, "hidden": 32, "sampled": 32,
        "anchors": (16, 32, 64, 128, 256), "proposals": 60, "max_objects": 30,
    }  # fmt: skip
    model: Any = build_model(ModelConfig(architecture="mask_rcnn", arguments=arguments))
    ids = np.stack([discs((64, 64), 9, seed, (7, 11)) for seed in range(2)])
    classes = (ids > 0).astype(np.int16)
    tiles = torch.from_numpy(2.0 * classes[:, None] - 1).float() + 0.1 * torch.randn(2, 1, 64, 64)
    truth = ObjectTruth(Rule(depth_px=1, min_px=12), (False, True), "")
    targets = targets_of(torch.from_numpy(coded(classes, ids, 2).astype(np.int64)), truth)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model.train().loss(tiles, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    with torch.inference_mode():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
                module.reset_running_stats()  # those of a few steps are of the beginning
        model.train()
        model.body(tiles)
        logits = model.eval()(tiles)
    mask = logits[:, :2].argmax(dim=1).numpy()
    assert (mask & classes).sum() / (mask | classes).sum() > 0.5


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    for number in range(3):
        put_scene(ws, f"i{number}", number, "val" if number == 2 else "train")
    return ws


def config_of(workspace: Workspace, **settings: Any) -> TrainConfig:
    base = {"workspace": workspace.uri, "task": "instances", "architecture": "mask_rcnn", "device": "cpu"}
    return build_config(TrainConfig, {**base, **settings})


def test_regions_are_drawn_by_the_seed_alone(workspace: Workspace) -> None:
    """A step is the same whatever the process drew before: so a run that goes on is that of an undisturbed one."""
    load_torchvision()
    arguments = {
        "encoder": "resnet18", "features": "8", "hidden": "8", "sampled": "8", "anchors": "16,32,64,128,256",
        "proposals": "10",
    }  # fmt: skip
    settings = {"arguments": arguments, "tile_px": 64, "batch": 2, "threads": 1, "validate_every": 1000}
    curves = []
    for run in ("one", "two"):
        torch.manual_seed(len(curves))
        train(config_of(workspace, run=run, max_steps=2, **settings))
        curve = workspace.objects.get(f"runs/{run}/curve.csv")
        assert curve is not None
        curves.append([line.split(",")[:3] for line in curve.decode().splitlines()])
    assert len(curves[0]) == 3
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"task": "semantic"}, r"^architecture mask_rcnn: .* expected task instances, got semantic; give it"),
        ({"loss": {"ce": 1.0}}, r"^loss: mask_rcnn has a loss of its own; leave it out$"),
        ({"label_smoothing": 0.1, "class_weighting": "inverse"}, r"^class_weighting, label_smoothing: mask_rcnn has"),
        ({"augments": {"cutmix": 0.5}}, r"^cutmix: it cuts objects to pieces, which mask_rcnn would learn"),
    ],
)
def test_what_a_detector_cannot_learn_is_one_line(workspace: Workspace, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        train(config_of(workspace, **settings))


def test_all_of_an_object_is_deep_and_the_widest_decide_the_halo(workspace: Workspace) -> None:
    found, other = (
        gather(workspace, config_of(workspace, architecture=name)).objects for name in ("mask_rcnn", "unet")
    )
    assert found is not None
    assert other is not None
    assert (found.rule.depth_px, found.rule.min_px) == (1, other.rule.min_px)
    assert 15 <= found.widest_px == other.widest_px <= 21  # discs of up to 10 px around their middles
    assert found.why.startswith(f"found one by one, up to {found.widest_px} px wide, and of ")
