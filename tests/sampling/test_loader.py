"""Loader: its batches are the sampler's own tiles bit for bit, from whatever step on; regions are read once."""

from contextlib import closing

import numpy as np
import pytest

from segcore.errors import ConfigError
from segcore.sampling import ClassIndex, EpochSampler, LabelledImage, Loader, RandomSampler, Sampler, keep_what_fits
from segcore.sampling import loader as loader_module
from segcore.store import Workspace
from tests.sampling.scenes import bands, labelled
from tests.synthetic import put_image, put_label

TILE, BATCH = 96, 3


@pytest.fixture
def images(workspace: Workspace) -> list[LabelledImage]:
    """One larger than a region, one smaller than a tile, and one that is kept in memory where a test wants it."""
    return [bands(workspace, name, shape, seed) for seed, (name, shape) in enumerate(
        {"a": (1500, 1100), "b": (40, 300), "c": (200, 200)}.items()
    )]  # fmt: skip


def sampler_of(images: list[LabelledImage], kind: str) -> Sampler:
    if kind == "epoch":
        return EpochSampler(images, TILE, seed=5)
    return RandomSampler(images, ClassIndex(images, 2), TILE, 0.5, seed=5)


@pytest.mark.parametrize("kind", ["random", "epoch"])
@pytest.mark.parametrize("kept", ["none", "one", "all"])
def test_resumed_at_any_step_the_tiles_are_those_of_an_uninterrupted_run(
    images: list[LabelledImage], kind: str, kept: str
) -> None:
    keep_what_fits({"none": [], "one": images[2:], "all": images}[kept], 64)
    sampler = sampler_of(images, kind)
    whole = 60
    with closing(Loader(sampler, BATCH)) as ahead:
        run = [next(ahead) for _ in range(whole)]
    assert [step for step, _, _ in run] == list(range(whole))
    for step in (0, 7, 41, whole - 1):
        pixels, target = sampler.tiles(step, BATCH)  # each tile read alone
        np.testing.assert_array_equal(run[step][1], pixels)
        np.testing.assert_array_equal(run[step][2], target)
    for first in (1, 29, 52):
        with closing(Loader(sampler_of(images, kind), BATCH, first, readers=3)) as ahead:
            for step, pixels, target in run[first : first + 8]:
                got = next(ahead)
                assert got[0] == step
                np.testing.assert_array_equal(got[1], pixels)
                np.testing.assert_array_equal(got[2], target)


def test_processes_that_share_a_batch_make_it_together(images: list[LabelledImage]) -> None:
    sampler = sampler_of(images, "random")
    with closing(Loader(sampler, BATCH)) as ahead:
        whole = [next(ahead) for _ in range(3)]
    parts = []
    for own in (range(1), range(1, BATCH)):
        with closing(Loader(sampler, BATCH, own=own)) as ahead:
            parts.append([next(ahead) for _ in range(3)])
    for (step, pixels, target), *shares in zip(whole, *parts, strict=True):
        assert {share[0] for share in shares} == {step}
        np.testing.assert_array_equal(np.concatenate([share[1] for share in shares]), pixels)
        np.testing.assert_array_equal(np.concatenate([share[2] for share in shares]), target)


def test_tiles_are_right_over_the_border_of_rounds(
    images: list[LabelledImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segcore.sampling.sampler.ROUND_BYTES", 0)
    monkeypatch.setattr("segcore.sampling.anywhere.MAX_TILES", 2)
    sampler = sampler_of(images, "random")  # rounds of 8 tiles
    assert sampler.find(8) == (1, 0)
    with closing(Loader(sampler, BATCH)) as ahead:
        for step, pixels, target in (next(ahead) for _ in range(20)):
            expected = sampler.tiles(step, BATCH)
            np.testing.assert_array_equal(pixels, expected[0])
            np.testing.assert_array_equal(target, expected[1])


def test_a_region_is_read_once_and_two_rounds_at_most_are_under_way(
    images: list[LabelledImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segcore.sampling.sampler.ROUND_BYTES", 0)  # rounds of 4 regions
    asked = []
    read = LabelledImage._read
    monkeypatch.setattr(LabelledImage, "_read", lambda self, *where: (asked.append(where), read(self, *where))[1])
    sampler = sampler_of(images, "random")
    per_round = len(sampler.round(0).owner)
    with closing(Loader(sampler, 8)) as ahead:
        for taken in range(1, 3 * per_round // 8):
            next(ahead)
            begun = (taken + loader_module.AHEAD) * 8 // per_round + 1
            assert len(asked) <= 4 * (begun + 1)
    assert len(asked) >= 8


def test_what_cannot_be_read_is_told_to_the_caller_and_the_threads_end(workspace: Workspace) -> None:
    pixels = np.zeros((3, 300, 300), np.uint8)
    ids = np.zeros((300, 300), np.uint8)
    put_image(workspace, "a", pixels)
    put_label(workspace, "a", "target", ids)
    index = ClassIndex([labelled(workspace)], 2)
    put_label(workspace, "a", "target", np.full((300, 300), 7, np.uint8), version=1)
    broken = labelled(workspace)
    with (
        closing(Loader(RandomSampler([broken], index, 64, 0.0, 0), 2)) as ahead,
        pytest.raises(ConfigError, match="target of a: expected class ids below 2"),
    ):
        next(ahead)


def test_the_time_that_is_waited_is_counted(images: list[LabelledImage]) -> None:
    with closing(Loader(sampler_of(images, "random"), BATCH)) as ahead:
        assert ahead.waited_s == 0
        next(ahead)
        first = ahead.waited_s
        assert 0 < first < 10
        next(ahead)
        assert ahead.waited_s >= first
