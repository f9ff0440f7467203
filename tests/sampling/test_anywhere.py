"""Anywhere: rare classes come up, tile i is always the same one, and regions leave every tile as likely as it was."""

from collections import Counter

import numpy as np
import pytest

from segcore.geometry import Window
from segcore.sampling import ClassIndex, LabelledImage, RandomSampler, anywhere, keep_what_fits
from segcore.store import Workspace
from tests.sampling.scenes import bands, labelled, rare

KEPT = pytest.mark.parametrize("kept", [False, True])


def sampler_of(image: LabelledImage, kept: bool, tile_px: int = 64, share: float = 0.5, seed: int = 0) -> RandomSampler:
    if kept:
        image.keep()
    return RandomSampler([image], ClassIndex([image], 2), tile_px, share, seed)


@KEPT
def test_a_rare_class_is_in_its_share_of_the_tiles(workspace: Workspace, kept: bool) -> None:
    image = rare(workspace)
    target = image.read(0, Window.whole(image.shape_yx))[1]
    for share, low, high in ((1.0, 0.35, 0.6), (0.0, 0.0, 0.06)):
        draws = sampler_of(image, kept, share=share).draws(0, 4000)
        whole = Window.whole(image.shape_yx)
        held = [(target[draw.window.intersected(whole).slices] == 1).any() for draw in draws]
        assert low < np.mean(held) < high  # of two classes, drawn evenly


@KEPT
def test_draws_are_a_pure_function_of_seed_and_number(workspace: Workspace, kept: bool) -> None:
    image = rare(workspace)
    straight = sampler_of(image, kept, seed=7).draws(0, 5000)
    again = sampler_of(image, kept, seed=7)
    for first in (4321, 17, 2600, 0):
        assert again.draws(first, 3) == straight[first : first + 3]
    assert sampler_of(image, kept, seed=8).draws(0, 20) != straight[:20]


@KEPT
def test_tiles_lie_at_most_an_eighth_over_the_border(workspace: Workspace, kept: bool) -> None:
    for draw in sampler_of(rare(workspace), kept, seed=1).draws(0, 1000):
        assert all(-8 <= a <= n - 56 for a, n in zip(draw.window.start, (900, 700), strict=True))


@pytest.mark.parametrize("tile_px", [32, 64, 257, 400])
@pytest.mark.parametrize("shape", [(900, 700), (1500, 300), (60, 2000)])
def test_every_tile_is_made_of_its_region(workspace: Workspace, tile_px: int, shape: tuple[int, int]) -> None:
    image = bands(workspace, "a", shape)
    sampler = sampler_of(image, kept=False, tile_px=tile_px)
    for number in range(3):
        found = sampler.round(number)
        assert len(found.regions) <= anywhere.Sampler._num_regions(sampler, sampler._region_px)
        for owner, start in zip(found.owner, found.start, strict=True):
            tile = Window(tuple(start.tolist()), (tile_px, tile_px))
            assert found.regions[owner].window.contains(image.inside(tile))
        for region in found.regions:
            assert all(a % 256 == 0 for a in region.window.start)


def test_a_region_serves_many_tiles_and_neighbours_come_from_others(workspace: Workspace) -> None:
    found = sampler_of(bands(workspace, "a", (1100, 1100)), kept=False, tile_px=256).round(0)
    per_region = np.bincount(found.owner)
    assert (len(found.regions), set(per_region.tolist())) == (25, {64})
    assert np.mean(found.owner[1:] == found.owner[:-1]) < 0.1


def test_regions_leave_each_place_as_likely_as_tiles_drawn_alone(workspace: Workspace) -> None:
    """Tiles begin in each sixteenth of the image as often, up to the chance of the regions."""
    alone = Counter[tuple[int, int]]()
    for draw in sampler_of(bands(workspace, "a", (1300, 1300)), kept=True, share=0.0).draws(0, 20_000):
        alone[tuple((np.array(draw.window.start) + 32) * 4 // 1300)] += 1
    sampler = sampler_of(labelled(workspace), kept=False, share=0.0)
    per_round = []
    for number in range(60):
        cells = (sampler.round(number).start + 32) * 4 // 1300
        per_round.append(np.bincount(cells[:, 0] * 4 + cells[:, 1], minlength=16) / len(cells))
    mean, error = np.mean(per_round, axis=0), np.std(per_round, axis=0, ddof=1) / np.sqrt(60)
    expected = np.array([alone[row, column] for row in range(4) for column in range(4)]) / 20_000
    off = (mean - expected) / np.hypot(error, np.sqrt(expected / 20_000))
    assert np.abs(off).max() < 4
    assert error.max() < 0.005


def test_marginal_shares_of_images_and_classes_are_those_of_tiles_drawn_alone(workspace: Workspace) -> None:
    images = [bands(workspace, name, shape, seed) for seed, (name, shape) in enumerate(
        {"a": (900, 700), "b": (400, 500), "c": (600, 600)}.items()
    )]  # fmt: skip
    index = ClassIndex(images, 2)
    weights = (1.0, 0.5, 0.0)
    far = RandomSampler(images, index, 32, 0.7, 3, weights)
    held = index.pixels > 0
    by_class = held * np.array(weights)[:, None]
    expected = 0.7 * by_class / by_class.sum(axis=0) / 2
    expected += 0.3 * index.pixels * np.array(weights)[:, None] / (index.pixels * np.array(weights)[:, None]).sum()
    np.testing.assert_allclose(far.shares, expected)
    keep_what_fits(images[:1], 64)
    mixed = RandomSampler(images, index, 32, 0.7, 3, weights)
    for sampler in (far, mixed):
        counts = []
        for number in range(60):
            found = sampler.round(number)
            image = np.array([region.image for region in found.regions])[found.owner]
            counts.append(np.bincount(image, minlength=3) / len(image))
        mean, error = np.mean(counts, axis=0), np.std(counts, axis=0, ddof=1) / np.sqrt(60)
        assert np.abs(mean - expected.sum(axis=1)).max() < 4 * error.max()
        assert error.max() < 0.02
        assert mean[2] == 0


def test_kept_images_are_drawn_tile_by_tile_beside_others(workspace: Workspace) -> None:
    kept, far = bands(workspace, "a", (600, 600)), bands(workspace, "b", (900, 1200), seed=1)
    keep_what_fits([kept], 64)
    found = RandomSampler([kept, far], ClassIndex([kept, far], 2), 64, 1.0, 0).round(0)
    sizes = {region.image: 0 for region in found.regions}
    for region in found.regions:
        sizes[region.image] += 1
    assert sizes == {0: 1, 1: 25}
    assert len(np.unique(found.start[found.owner == 0], axis=0)) > 0.95 * (found.owner == 0).sum()
