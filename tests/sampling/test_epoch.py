"""Epoch: each cell once, in another order each time; weights leave out and repeat."""

from collections import Counter

import numpy as np
import pytest

from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.sampling import EpochSampler, LabelledImage
from segcore.sampling.index import usable_cells
from segcore.store import Workspace
from tests.sampling.scenes import bands, labelled
from tests.synthetic import put_image, put_label

TILE = 64


@pytest.fixture
def images(workspace: Workspace) -> list[LabelledImage]:
    bands(workspace, "a", (700, 500))
    ids = np.full((400, 300), 255, np.uint8)
    ids[100:200, 100:300] = 1
    put_image(workspace, "b", np.random.default_rng(0).integers(0, 255, (3, 400, 300), dtype=np.uint8))
    put_label(workspace, "b", "target", ids)
    return [labelled(workspace, name) for name in "ab"]


def cells(sampler: EpochSampler, epoch: int) -> list[tuple[int, int, int]]:
    """Image, row and column of each tile, whatever the jitter moved it by; at the border it may stay where it was."""
    found = []
    for number in range(sampler._num_rounds):
        plan = sampler._epoch(epoch)
        made = sampler.round(epoch * sampler._num_rounds + number)
        numbers = plan.cell[plan.begin[number] : plan.begin[number + 1]]
        for cell, owner, start in zip(numbers, made.owner, made.start, strict=True):
            image = made.regions[owner].image
            place = sampler._cells[cell, 1:] * TILE
            over, free = TILE // 8, np.array(sampler.images[image].shape_yx) - TILE
            low, high = np.clip(place - TILE // 4, -over, free + over), np.clip(place + TILE // 4, -over, free + over)
            assert (start >= low).all()
            assert (start <= high).all()
            found.append((image, *sampler._cells[cell, 1:].tolist()))
    return found


@pytest.mark.parametrize("kept", [(), (0,), (0, 1)])
def test_each_cell_comes_once_an_epoch_and_in_another_order_in_the_next(
    images: list[LabelledImage], kept: tuple[int, ...]
) -> None:
    for number in kept:
        images[number].keep()
    sampler = EpochSampler(images, TILE, seed=3)
    expected = {
        (number, row, column)
        for number, image in enumerate(images)
        for _, row, column in usable_cells(image, TILE).tolist()
    }
    first, second = cells(sampler, 0), cells(sampler, 1)
    assert len(first) == len(expected) == sampler.num_tiles
    assert set(first) == set(second) == expected
    assert first != second
    starts = [{draw.window.start for draw in sampler.draws(epoch * sampler.num_tiles, 80)} for epoch in (0, 1)]
    assert not starts[0] <= starts[1]  # the grid lies elsewhere


def test_all_tiles_of_an_image_are_moved_alike(images: list[LabelledImage]) -> None:
    sampler = EpochSampler(images[:1], TILE, seed=3)
    inner = [draw.window.start for draw in sampler.draws(0, sampler.num_tiles)]
    offsets = Counter(tuple(a % TILE for a in start) for start in inner)
    assert offsets.most_common(1)[0][1] > 0.6 * len(inner)  # the others are moved off the border


def test_draws_are_a_pure_function_of_seed_and_number(images: list[LabelledImage]) -> None:
    sampler = EpochSampler(images, TILE, seed=3)
    straight = sampler.draws(0, 3 * sampler.num_tiles)
    again = EpochSampler(images, TILE, seed=3)
    for first in (2 * sampler.num_tiles - 2, 5, sampler.num_tiles + 7):
        assert again.draws(first, 4) == straight[first : first + 4]
    assert EpochSampler(images, TILE, seed=4).draws(0, 50) != straight[:50]


def test_every_tile_is_made_of_its_region(images: list[LabelledImage]) -> None:
    sampler = EpochSampler(images, TILE, seed=0)
    found = sampler.round(1)
    for owner, start in zip(found.owner, found.start, strict=True):
        region = found.regions[owner]
        tile = Window(tuple(start.tolist()), (TILE, TILE))
        assert region.window.contains(images[region.image].inside(tile))


def test_weights_leave_out_a_share_of_an_image_or_repeat_it(images: list[LabelledImage]) -> None:
    sampler = EpochSampler(images, TILE, seed=3, weights=(0.25, 2.5))
    sizes = [len(usable_cells(image, TILE)) for image in images]
    drawn = [Counter(cells(sampler, epoch)) for epoch in (0, 1)]
    for counts in drawn:
        times = {number: [n for (image, *_), n in counts.items() if image == number] for number in (0, 1)}
        assert times[0] == [1] * round(0.25 * sizes[0])
        assert Counter(times[1]) == {3: round(0.5 * sizes[1]), 2: sizes[1] - round(0.5 * sizes[1])}
    assert drawn[0] != drawn[1]
    assert {draw.image for draw in EpochSampler(images, TILE, 3, (0.0, 1.0)).draws(0, 30)} == {1}


def test_weights_that_leave_nothing_are_refused(images: list[LabelledImage]) -> None:
    with pytest.raises(ConfigError, match="sampling: epoch: the weights leave no tile of 2 images"):
        EpochSampler(images, TILE, 0, (0.0, 0.001))
