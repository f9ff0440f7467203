"""Augment: image and classes move together, each tile by its own seed, and nothing is invented."""

import numpy as np
import pytest
import torch

from segcore.augment import Augmentation, augment, draw_augmentation
from segcore.sampling import IGNORED


def doing_nothing(n: int, c: int) -> Augmentation:
    return Augmentation(
        affine=torch.eye(2, 3).repeat(n, 1, 1),
        gain=torch.ones(n, c),
        shift=torch.zeros(n, c),
        gamma=torch.ones(n, c),
        blur=torch.zeros(n),
        noise=torch.zeros(n),
        noise_seeds=(0,) * n,
    )


def some_tiles(n: int = 2, c: int = 3, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tiles = torch.randn((n, c, side, side), generator=generator)
    return tiles, torch.randint(IGNORED, 4, (n, side, side), generator=generator)


def test_augment_that_does_nothing_changes_nothing() -> None:
    tiles, classes = some_tiles()
    moved, moved_classes = augment(tiles, classes, doing_nothing(2, 3))
    torch.testing.assert_close(moved, tiles, atol=1e-5, rtol=1e-5)
    assert torch.equal(moved_classes, classes)


@pytest.mark.parametrize(
    ("matrix", "oracle"),
    [
        ([[-1, 0], [0, 1]], lambda t: torch.flip(t, (-1,))),
        ([[1, 0], [0, -1]], lambda t: torch.flip(t, (-2,))),
        ([[0, -1], [1, 0]], lambda t: torch.rot90(t, 1, (-2, -1))),
        ([[0, 1], [1, 0]], lambda t: t.transpose(-2, -1)),
    ],
)
def test_flips_and_quarter_turns_are_torchs_own(matrix: list[list[int]], oracle) -> None:  # type: ignore[no-untyped-def]
    tiles, classes = some_tiles()
    what = doing_nothing(2, 3)
    what.affine[:, :, :2] = torch.tensor(matrix, dtype=torch.float32)
    moved, moved_classes = augment(tiles, classes, what)
    assert torch.equal(moved_classes, oracle(classes))
    torch.testing.assert_close(moved, oracle(tiles), atol=1e-5, rtol=1e-5)


def test_pixels_and_classes_stay_over_each_other_under_any_turn() -> None:
    """Each class painted with its own grey: away from edges between classes the grey still tells the class."""
    classes = torch.zeros(8, 64, 64, dtype=torch.int64)
    classes[:, :30, :40] = 1
    classes[:, 45:] = 2
    tiles = classes[:, None].to(torch.float32)
    drawn = draw_augmentation(seed=0, step=3, batch=8, num_bands=1)
    what = doing_nothing(8, 1)
    what.affine.copy_(drawn.affine)
    moved, moved_classes = augment(tiles, classes, what)
    assert ((moved[:, 0] - moved_classes).abs() < 0.5 + 1e-4).float().mean() > 0.97
    assert (moved[:, 0] == moved_classes).float().mean() > 0.85


def test_gain_shift_and_gamma_are_per_band() -> None:
    tiles = torch.linspace(-1, 3, 16).reshape(1, 1, 4, 4).repeat(1, 2, 1, 1)
    what = doing_nothing(1, 2)
    what.gamma[0, 0] = 2.0
    what.gain[0, 1], what.shift[0, 1] = 3.0, 0.5
    moved, _ = augment(tiles, torch.zeros(1, 4, 4, dtype=torch.int64), what)
    unit = (tiles[0, 0] + 1) / 4
    torch.testing.assert_close(moved[0, 0], unit**2 * 4 - 1, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved[0, 1], (tiles[0, 1] - 1) * 3 + 1 + 0.5, atol=1e-5, rtol=1e-5)


def test_draw_augmentation_of_a_tile_does_not_depend_on_its_batch() -> None:
    tiles, classes = some_tiles(n=4)
    whole, whole_classes = augment(tiles, classes, draw_augmentation(5, 9, 4, 3))
    part, part_classes = augment(tiles[:2], classes[:2], draw_augmentation(5, 9, 2, 3))
    assert torch.equal(whole[:2], part)
    assert torch.equal(whole_classes[:2], part_classes)
    assert not torch.equal(part, augment(tiles[:2], classes[:2], draw_augmentation(5, 10, 2, 3))[0])


def test_augment_invents_no_class_and_no_nan() -> None:
    tiles, classes = some_tiles(n=16)
    classes[classes == 2] = 3
    tiles[0] = 1.5  # a constant tile has no range to stretch
    for step in range(5):
        moved, moved_classes = augment(tiles, classes, draw_augmentation(0, step, 16, 3))
        assert set(np.unique(moved_classes)) <= {IGNORED, 0, 1, 3}
        assert torch.isfinite(moved).all()
