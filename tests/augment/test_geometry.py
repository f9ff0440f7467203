"""Geometry: image and classes move together, and nothing is invented."""

import math

import numpy as np
import pytest
import torch
from skimage import draw as shapes
from skimage.segmentation import find_boundaries

from segcore.augment import draw_augmentation
from segcore.augment.geometry import moved, turned
from segcore.sampling import IGNORED
from tests.augment.made import doing_nothing, only, some_tiles


def rotation(degrees: float, scale: float = 1.0) -> list[list[float]]:
    cos, sin = math.cos(math.radians(degrees)) * scale, math.sin(math.radians(degrees)) * scale
    return [[cos, -sin, 0.0], [sin, cos, 0.0]]


def test_moved_by_nothing_is_a_copy_to_the_bit() -> None:
    tiles, classes = some_tiles()
    found, found_classes = moved(tiles, classes, doing_nothing(2, 3))
    assert torch.equal(found, tiles)
    assert torch.equal(found_classes, classes)
    assert found.data_ptr() != tiles.data_ptr()


@pytest.mark.parametrize("symmetry", range(8))
def test_each_symmetry_is_numpys_to_the_bit(symmetry: int) -> None:
    tiles, classes = some_tiles()
    what = doing_nothing(2, 3)
    what.symmetry[1] = symmetry
    found, found_classes = moved(tiles, classes, what)
    for before, after in ((tiles, found), (classes, found_classes)):
        expected = np.rot90(before[1].numpy(), symmetry % 4, (-2, -1))
        assert np.array_equal(after[1], expected[..., ::-1] if symmetry >= 4 else expected)
        assert torch.equal(after[0], before[0])


def test_the_eight_symmetries_differ() -> None:
    values = torch.arange(9).reshape(3, 3)
    assert len({tuple(turned(values, symmetry).flatten().tolist()) for symmetry in range(8)}) == 8


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_rotation_by_quarters_is_rot90(quarters: int) -> None:
    tiles, classes = some_tiles(side=17)
    what = doing_nothing(2, 3)
    what.matrix[:] = rotation(90 * quarters)
    found, found_classes = moved(tiles, classes, what)
    assert np.array_equal(found_classes, np.rot90(classes.numpy(), quarters, (-2, -1)))
    np.testing.assert_allclose(found, np.rot90(tiles.numpy(), quarters, (-2, -1)), atol=1e-4)


def test_scaled_by_two_shows_the_middle_with_half_the_pixels() -> None:
    """A ramp stays a ramp: its slope is halved, and the middle stays in the middle."""
    ramp = torch.arange(32.0).expand(1, 1, 32, 32).contiguous()
    what = doing_nothing(1, 1)
    what.matrix[:] = rotation(0, 0.5)
    found, _ = moved(ramp, torch.zeros(1, 32, 32, dtype=torch.int64), what)
    np.testing.assert_allclose(found[0, 0, 5], 15.5 + (np.arange(32) - 15.5) / 2, atol=1e-4)


def test_a_constant_bend_shifts_by_so_many_pixels() -> None:
    tiles, classes = some_tiles(side=32)
    what = doing_nothing(2, 3)
    what.bend[:, 0] = 2 * 3 / 32  # x, in half sides: 3 px
    found, found_classes = moved(tiles, classes, what)
    assert torch.equal(found_classes[..., :-3], classes[..., 3:])
    np.testing.assert_allclose(found[..., :-3], tiles[..., 3:], atol=1e-4)
    assert torch.equal(found_classes[..., -3:], classes[..., -3:].flip(-1))  # mirrored at the border


@pytest.mark.parametrize("names", [("rotate",), ("scale",), ("elastic",), ("flip", "rotate", "scale", "elastic")])
def test_a_disc_and_its_class_move_together(names: tuple[str, ...]) -> None:
    """The moved picture of a disc, thresholded, is the moved class, but for pixels at its border."""
    mask = np.zeros((96, 96), np.int64)
    mask[shapes.disk((40, 52), 25)] = 1
    classes = torch.from_numpy(mask).expand(16, 96, 96).contiguous()
    what = draw_augmentation(only(**dict.fromkeys(names, 1.0)), 0, 3, 16, 3)
    tiles, found = moved(classes[:, None].expand(16, 3, 96, 96).to(torch.float32), classes, what)
    for tile, moved_mask in zip(tiles.numpy(), found.numpy(), strict=True):
        wrong = (tile[0] > 0.5) != moved_mask
        assert not (wrong & ~find_boundaries(moved_mask, mode="thick")).any()
    if "elastic" in names:
        assert len({int(one.sum()) for one in found}) > 8


def test_ignored_pixels_are_mixed_with_nothing() -> None:
    """Half of a tile is ignored, half is class 3: no other number comes out, and both halves stay about as large."""
    classes = torch.full((16, 64, 64), 3)
    classes[:, :, 32:] = IGNORED
    everything = only(flip=1, rotate=1, scale=1, elastic=1)
    _, found = moved(torch.zeros(16, 1, 64, 64), classes, draw_augmentation(everything, 1, 0, 16, 1))
    assert set(found.unique().tolist()) == {IGNORED, 3}
    assert 0.35 < (found == IGNORED).float().mean() < 0.65
    _, found = moved(torch.zeros(16, 1, 64, 64), classes * 0 + 2, draw_augmentation(everything, 1, 0, 16, 1))
    assert found.unique().tolist() == [2]


def test_elastic_does_not_fold() -> None:
    """Where a pixel is read from goes up with x and with y, in all but a few of the pixels."""
    side, n = 64, 64
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack([x, y])[None].expand(n, 2, side, side).to(torch.float32).contiguous()
    what = draw_augmentation(only(elastic=1), 2, 0, n, 2)
    found, _ = moved(places, torch.zeros(n, side, side, dtype=torch.int64), what)
    inner = found[..., 8:-8, 8:-8]
    assert (inner[:, 0].diff(dim=-1) > 0).float().mean() > 0.999
    assert (inner[:, 1].diff(dim=-2) > 0).float().mean() > 0.999
    assert 1 < (found - places)[..., 8:-8, 8:-8].abs().amax() < 8
