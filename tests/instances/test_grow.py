"""Grow: touching objects are told apart, and a window's pixels are decided as the whole image would."""

import tracemalloc
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from scipy import ndimage

from segcore.geometry import Grid, Window
from segcore.instances.grow import Bools, Bytes, Labels, fragments_of, grown
from segcore.instances.rule import SEED_DEPTH, Rule
from segcore.instances.stitch import Fragments, packed, stitched, unpacked
from tests.instances.scenes import Ids, depth_of, discs, same_parts, with_snakes

RULE = Rule(depth_px=5, min_px=8)


def cut(foreground: Bools, depth: Bytes, rule: Rule, side: int | tuple[int, int]) -> tuple[Ids, list[Fragments], int]:
    """Objects of a plane that is worked on in windows of this size, each with its context."""
    shape = foreground.shape
    grid = Grid(shape, (side, side) if isinstance(side, int) else side)
    labels: dict[tuple[int, ...], Labels] = {}
    fragments = []
    for index in grid.indices():
        window = grid.window(index)
        read = window.expanded((rule.context_px,) * 2).intersected(Window.whole(shape))
        y, x = window.relative_to(read.start).slices
        rows = np.arange(window.start[0], window.stop[0]) * shape[1] + window.start[1]
        labels[index], found = fragments_of(foreground[read.slices], depth[read.slices], rule, (y, x), rows)
        fragments.append(found)
    objects = stitched(zip(labels, fragments, strict=True), rule.min_px)
    ids = np.zeros(shape, np.int64)
    for index, numbers in labels.items():
        first = fragments[list(labels).index(index)].first
        ids[grid.window(index).slices] = objects.ids(first, np.uint32)[numbers]
    return ids, fragments, objects.count


def brute_force(foreground: Bools, depth: Bytes, rule: Rule) -> Ids:
    """The rule as it is written, pixel by pixel, on a small plane."""
    numbers, _ = ndimage.label(foreground & (depth >= SEED_DEPTH))
    height, width = numbers.shape
    for number in range(1, numbers.max() + 1):
        y, x = np.nonzero(numbers == number)
        at_rim = (y == 0).any() or (x == 0).any() or (y == height - 1).any() or (x == width - 1).any()
        if len(y) < rule.min_seed_px and not at_rim:
            numbers[y, x] = 0
    for least, steps in rule.levels:
        for _ in range(steps):
            before = numbers.copy()
            for y, x in np.argwhere(foreground & (before == 0) & (depth >= least)):
                best = -1
                for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
                    at = y + dy, x + dx
                    if 0 <= at[0] < height and 0 <= at[1] < width and before[at] and int(depth[at]) > best:
                        best, numbers[y, x] = int(depth[at]), before[at]
    left, _ = ndimage.label(foreground & (numbers == 0))
    return np.where(left > 0, left + numbers.max(), numbers).astype(np.int64)


def test_touching_discs_are_counted_and_keep_their_pixels() -> None:
    """Of seven discs three and two touch, so that foreground alone would count 4."""
    centres = [(40, 40), (40, 61), (40, 82), (90, 40), (90, 61), (120, 110), (30, 120)]
    y, x = np.mgrid[:150, :150]
    ids = np.zeros((150, 150), np.int64)
    for number, (cy, cx) in enumerate(centres, 1):
        ids[((y - cy) ** 2 + (x - cx) ** 2 <= 11**2) & (ids == 0)] = number
    assert ndimage.label(ids > 0)[1] == 4
    found, _, count = cut(ids > 0, depth_of(ids, RULE.depth_px), RULE, 150)
    assert count == len(centres)
    for number in range(1, 8):
        own = np.bincount(found[ids == number]).argmax()
        union = ((found == own) | (ids == number)).sum()
        assert ((found == own) & (ids == number)).sum() / union > 0.97


def test_growth_is_that_of_the_rule_as_written() -> None:
    ids = discs((48, 56), 14, seed=1)
    depth = depth_of(ids, 5, noise=50)
    depth[:, 20:24] = np.minimum(depth[:, 20:24], 90)  # plateaus, and foreground that no seed reaches
    foreground = (ids > 0) | (np.indices(ids.shape)[0] > 44)
    expected = brute_force(foreground, depth, RULE)
    first = grown(foreground, depth, RULE)
    assert same_parts(np.where(first > 0, expected, 0), first)
    found, _, _ = cut(foreground, depth, RULE.model_copy(update={"min_px": 1}), 64)
    assert same_parts(found, expected)


@pytest.mark.parametrize("side", [100, 64, 33, (300, 7), (5, 310)])
def test_windows_of_any_size_give_the_whole_plane_s_objects(side: int | tuple[int, int]) -> None:
    """Objects cross every kind of face and corner, and long ones cross many windows."""
    ids = with_snakes(discs((290, 310), 260, seed=2), 4)
    foreground, depth = ids > 0, depth_of(ids, RULE.depth_px, noise=45)
    whole, (fragments,), count = cut(foreground, depth, RULE, 400)
    assert len(fragments.first) > count > 100
    found, _, found_count = cut(foreground, depth, RULE, side)
    np.testing.assert_array_equal(found, whole)
    assert found_count == count


def test_ids_are_in_the_order_of_first_pixels_and_small_objects_are_out() -> None:
    ids = discs((120, 130), 40, seed=3)
    depth = depth_of(ids, RULE.depth_px, noise=45)
    every, _, count = cut(ids > 0, depth, RULE.model_copy(update={"min_px": 1}), 50)
    first = [int(np.flatnonzero(every == number)[0]) for number in range(1, count + 1)]
    assert first == sorted(first)
    sizes = np.bincount(every.ravel())[1:]
    kept, _, kept_count = cut(ids > 0, depth, RULE.model_copy(update={"min_px": 60}), 50)
    assert kept_count == (sizes >= 60).sum() < count
    expected = np.zeros(count + 1, np.int64)
    expected[1:][sizes >= 60] = np.arange(1, kept_count + 1)
    np.testing.assert_array_equal(kept, expected[every])


def test_memory_is_that_of_the_objects_first_pixels() -> None:
    """20,000 objects inside each of 16 shards; of those at faces there are few."""
    rows, columns, inside = 4, 4, 20_000
    none, faces = np.zeros(0, np.int64), np.zeros(64, np.int32)

    def shards() -> Iterator[tuple[tuple[int, int], Fragments]]:
        for y, x in product(range(rows), range(columns)):
            first = np.arange(inside) * rows * columns + rows * y + x
            yield (y, x), Fragments(first, np.full(inside, 9), faces, faces, faces, faces)

    stitched([((0, 0), Fragments(none, none, faces, faces, faces, faces))], 1)  # what is loaded once
    tracemalloc.start()
    try:
        found = stitched(shards(), min_px=9)
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.count == rows * columns * inside
    assert left < 9 * found.count
    assert peak < 20 * found.count
    wanted = np.arange(0, found.count, 1000)
    np.testing.assert_array_equal(found.ids(wanted, np.uint32)[1:], wanted + 1)


def test_noise_leaves_no_fragments_but_at_the_faces() -> None:
    """Memory is that of fragments: what is too small and goes on nowhere is not one; what goes on may be."""
    rng = np.random.default_rng(5)
    foreground = rng.random((120, 130)) < 0.2
    depth = np.zeros(foreground.shape, np.uint8)
    every, _, _ = cut(foreground, depth, RULE.model_copy(update={"min_px": 1}), 130)
    sizes = np.bincount(every.ravel())
    expected = np.where(sizes[every] >= RULE.min_px, every, 0)
    for side in (130, 40):
        found, _, count = cut(foreground, depth, RULE, side)
        assert same_parts(found, expected)
        assert count == len(np.unique(expected)) - 1 > 3
    _, (whole,), _ = cut(foreground, depth, RULE, 130)
    rims = np.unique(np.concatenate([every[0], every[-1], every[:, 0], every[:, -1]]))
    kept = [number for number in range(1, len(sizes)) if sizes[number] >= RULE.min_px or number in rims]
    assert len(whole.area) == len(kept) < len(sizes) / 2


def test_a_flipped_bit_anywhere_is_no_error() -> None:
    ids = discs((40, 40), 5, seed=4)
    data = packed(cut(ids > 0, depth_of(ids, 5), RULE, 40)[1][0])
    expected = unpacked(data)
    assert expected is not None
    for bit in range(0, 8 * len(data), 5):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        found = unpacked(bytes(flipped))
        if found is not None:  # a bit that says nothing, such as of a date
            np.testing.assert_array_equal(found.area, expected.area)


def test_a_plane_without_objects() -> None:
    nothing = np.zeros((70, 50), np.bool_)
    ids, _, count = cut(nothing, np.full((70, 50), 255, np.uint8), RULE, 32)
    assert count == 0
    assert not ids.any()


def test_packed_fragments_come_back_and_damaged_ones_do_not() -> None:
    ids = discs((60, 60), 12, seed=4)
    _, (fragments, *_), _ = cut(ids > 0, depth_of(ids, 5), RULE, 40)
    data = packed(fragments)
    again = unpacked(data)
    assert again is not None
    for name in ("first", "area", "top", "left", "below", "right"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fragments, name))
    assert unpacked(None) is None
    assert unpacked(data[: len(data) // 2]) is None
    middle = len(data) // 3
    assert unpacked(data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]) is None


def test_scaled_rules_follow_the_size_of_the_pixel() -> None:
    assert Rule(depth_px=6, min_px=40).scaled((2.0, 2.0)) == Rule(depth_px=12, min_px=160)
    assert Rule(depth_px=6, min_px=40).scaled((0.4, 0.5)) == Rule(depth_px=3, min_px=8)
    assert Rule(depth_px=6, min_px=40).scaled((1.0, 1.0)) == Rule(depth_px=6, min_px=40)
