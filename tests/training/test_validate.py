"""Validate: the counts over tiles are those of the whole image."""

from pathlib import Path

import numpy as np
import torch

from segcore.config import TrainConfig
from segcore.models import ModelConfig
from segcore.sampling import LabelledImage
from segcore.store import Workspace
from segcore.training.choice import Choice
from segcore.training.learner import Learner
from segcore.training.validate import HeldOut, TileSize, count
from tests.synthetic import put_image, put_label


def test_count_over_tiles_is_the_count_over_the_image_without_what_is_ignored(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    pixels = np.random.default_rng(0).integers(0, 255, (1, 150, 97), dtype=np.uint8)
    ids = np.random.default_rng(1).integers(0, 2, (150, 97), dtype=np.uint8)
    ids[:9] = 255
    put_image(workspace, "a", pixels)
    put_label(workspace, "a", "target", ids)
    model = ModelConfig(architecture="conv1", arguments={"in_channels": 1, "num_classes": 2})
    learner = Learner(
        model,
        TrainConfig(workspace="w"),
        Choice((4, 8), 32, 2, {"ce": 1.0, "dice": 1.0}, 3e-3),
        (100.0,),
        (50.0,),
        torch.device("cpu"),
    )
    with torch.no_grad():  # class 1 where the pixel is above 130
        learner.average.conv.weight.copy_(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1))
        learner.average.conv.bias.copy_(torch.tensor([0.0, -0.61]))
    image = LabelledImage(workspace.image("a"), workspace.label("a", "target"))
    held_out = HeldOut.of([image], TileSize(tile_px=32, halo_px=8, stride=8), limit_px=1e6)
    assert held_out.num_px == 150 * 97
    mask, known = pixels[0] > 130, ids != 255
    expected = [[((ids == i) & (mask == j) & known).sum() for j in (0, 1)] for i in (0, 1)]
    assert count(learner, held_out, 2).confusion.tolist() == expected


def test_held_out_takes_a_spread_of_tiles_where_all_are_too_many(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path / "ws"), create=True)
    images = []
    for name in "abcd":
        put_image(workspace, name, np.zeros((1, 128, 128), np.uint8))
        put_label(workspace, name, "target", np.zeros((128, 128), np.uint8))
        images.append(LabelledImage(workspace.image(name), workspace.label(name, "target")))
    held_out = HeldOut.of(images, TileSize(32, 8, 8), limit_px=4 * 128 * 128 / 4)
    assert held_out.num_px == 128 * 128
    assert {image.image_id for image, _, _ in held_out.tiles} == set("abcd")
    least = HeldOut.of(images, TileSize(32, 8, 8), limit_px=500)
    assert (len(least.tiles), least.num_px) == (1, 32 * 32)
    small = HeldOut.of(images, TileSize(512, 8, 16), limit_px=1e9)
    assert {tile.read.shape for _, _, tile in small.tiles} == {(144, 144)}
