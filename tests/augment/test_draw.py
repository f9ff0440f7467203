"""Draw: a pure function of seed, step and tile; shares are what they say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from segcore.augment import Augmenter, draw_augmentation
from segcore.augment.choice import LEFT_RIGHT, NAMES
from segcore.sampling import IGNORED
from tests.augment.made import only, some_tiles

MEAN, STD = (128.0,) * 3, (40.0,) * 3
EVERYTHING = only(**dict.fromkeys([*NAMES[:-2]], 0.5), mixup=0.3, cutmix=0.3)


def test_with_all_shares_0_the_batch_is_what_it_was() -> None:
    tiles, classes = some_tiles()
    found = Augmenter(only(), 0, MEAN, STD)(tiles, classes, 3)
    assert torch.equal(found.tiles, tiles)
    assert torch.equal(found.classes, classes)
    assert found.other_classes is None


def test_the_same_step_gives_the_same_batch_and_another_step_another() -> None:
    tiles, classes = some_tiles(n=8)
    first, again, other = (Augmenter(EVERYTHING, 5, MEAN, STD)(tiles, classes, step) for step in (9, 9, 10))
    assert torch.equal(first.tiles, again.tiles)
    assert torch.equal(first.classes, again.classes)
    assert not torch.equal(first.tiles, other.tiles)


def test_a_tile_does_not_depend_on_the_batch_it_is_in() -> None:
    """Nor does a mixture, where batches are cut at even numbers, as processes that train together cut them."""
    tiles, classes = some_tiles(n=8)
    augmenter = Augmenter(EVERYTHING, 5, MEAN, STD)
    for step in range(4):
        whole = augmenter(tiles, classes, step)
        parts = [augmenter(tiles[k : k + 2], classes[k : k + 2], step, first=k) for k in range(0, 8, 2)]
        assert torch.equal(whole.tiles, torch.cat([part.tiles for part in parts]))
        assert torch.equal(whole.classes, torch.cat([part.classes for part in parts]))


def test_a_share_leaves_all_other_operations_as_they_were() -> None:
    before = draw_augmentation(EVERYTHING, 0, 0, 32, 3)
    after = draw_augmentation(only(**EVERYTHING.shares | {"gamma": 1.0}), 0, 0, 32, 3)
    for name, one, other in zip(before._fields, before, after, strict=True):
        assert np.array_equal(one, other) == (name != "gamma")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_is_that_of_the_tiles_that_change(name: str, share: float) -> None:
    what = draw_augmentation(only(**{name: share}), 1, 0, 600, 3)
    changed = np.mean([bool(what.names(k)) for k in range(600)])
    # A rotation by less than half a degree, or a scale within half a per cent, is not worth a word.
    assert changed == pytest.approx(share, abs=0.001 + 0.06 * (0 < share < 1) + 0.03 * (name in ("rotate", "scale")))


def test_resampling_takes_the_same_tiles_and_leaves_the_others_sharp() -> None:
    what = draw_augmentation(only(rotate=0.5, scale=0.5, elastic=0.25), 0, 0, 400, 3)
    moved = (what.matrix != np.eye(2, 3)).any((1, 2))
    assert moved.mean() == pytest.approx(0.5, abs=0.08)
    assert not (what.bend.any((1, 2, 3)) & ~moved).any()


def test_a_crop_stays_inside_the_tile() -> None:
    what = draw_augmentation(only(scale=1.0), 0, 0, 400, 1)
    scale = what.matrix[:, 0, 0]
    assert (np.abs(what.matrix[:, :, 2]).max(1) <= np.maximum(0, 1 - scale) + 1e-12).all()
    assert scale.min() == pytest.approx(1 / 1.3, rel=0.02)
    assert scale.max() == pytest.approx(1.3, rel=0.02)


def test_pictures_with_an_up_are_mirrored_left_right_alone() -> None:
    upright = replace(only(flip=1.0, rotate=1.0), flips=LEFT_RIGHT, max_angle=10.0)
    what = draw_augmentation(upright, 0, 0, 100, 1)
    assert set(what.symmetry.tolist()) == {4}
    angles = np.degrees(np.arctan2(what.matrix[:, 1, 0], what.matrix[:, 0, 0]))
    assert 8 < np.abs(angles).max() <= 10


def test_everything_at_once_invents_no_class_and_no_nan() -> None:
    tiles, classes = some_tiles(n=16)
    classes[classes == 2] = 3
    tiles[0] = 1.5
    for step in range(5):
        found = Augmenter(EVERYTHING, 0, MEAN, STD)(tiles, classes, step)
        assert set(found.classes.unique().tolist()) <= {IGNORED, 0, 1, 3}
        assert torch.isfinite(found.tiles).all()
        assert found.tiles.dtype == torch.float32
