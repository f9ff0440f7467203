"""Mix: partners, shares and rectangles, and the loss that goes with them."""

import numpy as np
import pytest
import torch

from segcore.augment import Augmented, draw_augmentation
from segcore.augment.mix import mixed
from tests.augment.made import doing_nothing, only


def numbered(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tile k is k everywhere, and so are its classes."""
    numbers = torch.arange(n)[:, None, None].expand(n, 8, 8)
    return numbers[:, None].to(torch.float32).contiguous(), numbers.contiguous()


def test_without_a_mixture_there_is_one_truth() -> None:
    tiles, classes = numbered(4)
    found = mixed(tiles, classes, doing_nothing(4, 1))
    assert found == Augmented(tiles, classes)


def test_mixup_is_of_neighbours_and_tells_both_truths() -> None:
    tiles, classes = numbered(5)
    what = doing_nothing(5, 1)
    what.mixup[:] = [0.75, 1.0, 0.6, 0.9, 0.5]
    found = mixed(tiles, classes, what)
    assert found.share is not None
    assert found.other_classes is not None
    # 0.75 * 0 + 0.25 * 1; tile 4 is the last of an odd number, and stays
    torch.testing.assert_close(found.tiles[:, 0, 0, 0], torch.tensor([0.25, 1.0, 2.4, 2.9, 4.0]))
    torch.testing.assert_close(found.share, torch.tensor([0.75, 1.0, 0.6, 0.9, 1.0]))
    assert torch.equal(found.classes, classes)
    assert found.other_classes[:, 0, 0].tolist() == [1, 0, 3, 2, 4]


def test_cutmix_brings_the_classes_along() -> None:
    tiles, classes = numbered(3)
    what = doing_nothing(3, 1)
    what.cut[0], what.cut[2] = (0.25, 0.75, 0.0, 0.5), (0.0, 1.0, 0.0, 1.0)
    found = mixed(tiles, classes, what)
    expected = np.zeros((8, 8))
    expected[2:6, 0:4] = 1
    assert found.other_classes is None
    assert np.array_equal(found.classes[0], expected)
    assert np.array_equal(found.tiles[0, 0], expected)
    assert torch.equal(found.tiles[1:], tiles[1:])
    assert tiles.flatten(1).unique().tolist() == [0.0, 1.0, 2.0]  # the given ones are as they were


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.3, 0.0), (0.0, 0.3), (0.25, 0.5), (0.5, 0.5)])
def test_so_many_tiles_are_mixed_and_none_twice(mixup: float, cutmix: float) -> None:
    what = draw_augmentation(only(mixup=mixup, cutmix=cutmix), 0, 0, 2000, 1)
    blended, pasted = what.mixup < 1, what.cut.any(1)
    assert blended.mean() == pytest.approx(mixup, abs=0.04)
    assert pasted.mean() == pytest.approx(cutmix, abs=0.04)
    assert not (blended & pasted).any()
    assert (what.mixup >= 0.5).all()
