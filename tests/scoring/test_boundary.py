"""Boundary scores against a brute force on the whole image (scipy's distance transform), MONAI, and closed forms."""

import itertools
import math
from collections import Counter as Tally
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter, generate_binary_structure

from segcore.geometry import Grid, Window
from segcore.scoring.boundary import BOUNDARY_METRICS, Boundaries, Ruler, percentile

K = 3
Numbers = npt.NDArray[np.uint16]


def _blobs(seed: int, shape: tuple[int, ...], sigma: float = 5.0) -> npt.NDArray[np.uint16]:
    """Three classes in smooth regions."""
    rng = np.random.default_rng(seed)
    fields = np.stack([gaussian_filter(rng.normal(size=shape), sigma) for _ in range(K)])
    return fields.argmax(axis=0).astype(np.uint16)


def _pair(seed: int, shape: tuple[int, ...], ignored: float = 0.1) -> tuple[Numbers, Numbers]:
    """A target, a mask like it, and a region that does not count."""
    target, other = _blobs(seed, shape), _blobs(seed + 100, shape)
    mask = np.where(gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4) < 0.05, target, other)
    noise = gaussian_filter(np.random.default_rng(seed + 1).normal(size=shape), 3)
    uncounted = noise > np.quantile(noise, 1 - ignored)
    target[uncounted] = mask[uncounted] = K
    return target, mask.astype(np.uint16)


def _streamed(target: Numbers, mask: Numbers, ruler: Ruler, cell: tuple[int, ...]) -> list[dict[str, Any]]:
    boundaries = Boundaries(K, ruler)
    grid, whole = Grid(target.shape, cell), Window.whole(target.shape)
    for core in map(grid.window, grid.indices()):
        read = core.expanded(ruler.halo).intersected(whole)
        boundaries.add(target[read.slices], mask[read.slices], core.relative_to(read.start))
    return boundaries.scores()


def _edge(numbers: Numbers, number: int, ruler: Ruler, outer: bool = False) -> npt.NDArray[np.bool_]:
    """Pixels of a class that touch another counted class; or those of others that touch it."""
    own, others = numbers == number, (numbers != number) & (numbers != K)
    cross = generate_binary_structure(numbers.ndim, 1)
    for axis in set(range(numbers.ndim)) - set(ruler.spatial):
        cross = cross & (np.indices(cross.shape)[axis] == 1)
    return others & binary_dilation(own, cross) if outer else own & binary_dilation(others, cross)


def _brute_force(target: Numbers, mask: Numbers, number: int, ruler: Ruler) -> dict[str, Any]:
    edges = [_edge(numbers, number, ruler) for numbers in (target, mask)]
    sides = ruler.sides
    ways = []
    for of, to in (edges, edges[::-1]):
        far = distance_transform_edt(~to, sampling=sides) if to.any() else np.full(to.shape, math.inf)
        ways.append(np.minimum(far[of], ruler.cap))
    both = np.concatenate(ways)
    bands = []
    for numbers in (target, mask):
        outer = _edge(numbers, number, ruler, outer=True)
        far = distance_transform_edt(~outer, sampling=sides) if outer.any() else np.full(outer.shape, math.inf)
        bands.append((numbers == number) & (far <= ruler.tolerance + 1e-9) | _edge(numbers, number, ruler))
    return {
        "hd95": max(float(np.percentile(way, 95)) for way in ways if way.size),
        "assd": float(both.mean()),
        "nsd": float((both <= ruler.tolerance + 1e-9).mean()),
        "boundary_iou": (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum(),
        "target_px": int(edges[0].sum()),
        "mask_px": int(edges[1].sum()),
    }


CASES = [
    ((90, 77), Ruler((1.0, 1.0), "px", 2.0, 12.0), (32, 32)),
    ((90, 77), Ruler((0.3, 0.3), "um", 1.5, 2.7), (90, 77)),
    ((90, 77), Ruler((0.2, 0.5), "um", 1.1, 5.0), (40, 16)),
    ((24, 40, 37), Ruler((2.5, 0.8, 0.8), "mm", 2.5, 7.0), (7, 16, 40)),
    ((24, 40, 37), Ruler((1.0, 1.0, 1.0), "mm", 1.0, 5.0), (24, 16, 16)),
    ((24, 40, 37), Ruler((2.5, 0.8, 0.8), "mm", 1.6, 7.0), (7, 16, 40)),  # less than two planes are apart
    ((70, 83), Ruler((0.5, 0.5), "um", 0.3, 4.0), (32, 32)),  # less than a pixel
]


@pytest.mark.parametrize(("shape", "ruler", "cell"), CASES)
def test_streamed_scores_equal_the_brute_force(shape: tuple[int, ...], ruler: Ruler, cell: tuple[int, ...]) -> None:
    target, mask = _pair(len(shape), shape)
    found = _streamed(target, mask, ruler, cell)
    capped = 0
    for number, scores in enumerate(found):
        expected = _brute_force(target, mask, number, ruler)
        assert {key: scores[key] for key in expected} == pytest.approx(expected, rel=1e-9), number
        capped += scores["capped_px"]
    assert capped > 0, "no distance is beyond the cap: the case tests too little"


def test_scores_do_not_depend_on_the_windows() -> None:
    target, mask = _pair(7, (80, 90))
    ruler = Ruler((0.25, 0.25), "um", 0.5, 4.0)
    whole = _streamed(target, mask, ruler, (80, 90))
    for cell in ((16, 16), (80, 7), (33, 90)):
        assert _streamed(target, mask, ruler, cell) == whole


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI calls itself in an old way
@pytest.mark.parametrize("sides", [(1.0, 1.0), (0.5, 0.5), (0.2, 0.45), (3.0, 1.0, 1.0)])
def test_scores_equal_monai_away_from_the_border(sides: tuple[float, ...]) -> None:
    shape = (60, 70) if len(sides) == 2 else (18, 40, 44)
    target, mask = _pair(11, shape, ignored=0.0)
    inner = np.zeros(shape, bool)
    inner[tuple(slice(2, -2) for _ in shape)] = True  # MONAI has boundaries along the image's border, we have not
    target, mask = np.where(inner, target, 0), np.where(inner, mask, 0)
    tolerance = 2 * min(sides)
    ruler = Ruler(sides, "um", tolerance, cap=1000.0)
    found = _streamed(target.astype(np.uint16), mask.astype(np.uint16), ruler, shape)
    hot = [
        torch.from_numpy(np.stack([part == k for k in range(K)])[None].astype(np.float32)) for part in (mask, target)
    ]
    hd95 = compute_hausdorff_distance(*hot, percentile=95, spacing=sides)[0]
    assd = compute_average_surface_distance(*hot, symmetric=True, spacing=sides)[0]
    nsd = compute_surface_dice(*hot, class_thresholds=[tolerance + 1e-6] * (K - 1), spacing=sides)[0]
    for number in (1, 2):
        ours = [found[number][name] for name in ("hd95", "assd", "nsd")]
        theirs = [float(values[number - 1]) for values in (hd95, assd, nsd)]
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_squares_that_are_two_pixels_apart() -> None:
    target, mask = np.zeros((40, 40), np.uint16), np.zeros((40, 40), np.uint16)
    target[10:30, 10:20] = mask[10:30, 10:22] = 1
    ruler = Ruler((0.5, 0.5), "um", 0.5, 16.0)
    scores = _streamed(target, mask, ruler, (40, 40))[1]
    # 56 px around the target, 60 around the mask. Of the target's right side (20 px) the ends lie on the mask's top and
    # bottom, their neighbours 1 px below, the other 16 are 2 px from its right side. That is 2 px from the target's (20
    # px, ends too); between its ends and the target's corners lies 1 px more, 1 px away.
    assert (scores["target_px"], scores["mask_px"]) == (56, 60)
    assert scores["assd"] == pytest.approx((2 * 0.5 + 16 * 1.0 + 20 * 1.0 + 2 * 0.5) / 116)
    assert scores["hd95"] == 1.0
    assert scores["nsd"] == pytest.approx((116 - 36) / 116)
    # Bands of one pixel: only the two right sides (but for the target's ends) are in one band alone.
    assert scores["boundary_iou"] == pytest.approx(38 / (56 + 60 - 38))


def test_border_towards_what_does_not_count_is_none() -> None:
    target = np.zeros((30, 30), np.uint16)
    target[:, 10:] = 1
    target[:, 20:] = K
    mask = target.copy()
    ruler = Ruler((1.0, 1.0), "px", 1.0, 8.0)
    perfect = _streamed(target, mask, ruler, (30, 30))
    assert perfect[1]["target_px"] == 30  # neither at column 20 nor along the image's border
    assert [perfect[1][name] for name in BOUNDARY_METRICS] == [0.0, 0.0, 1.0, 1.0]
    # However long the border along the ignored part is, an error elsewhere weighs the same.
    mask[:15, 10:13] = 0
    before = _streamed(target, mask, ruler, (30, 30))
    wide_target, wide_mask = (np.pad(part, ((0, 0), (0, 20)), constant_values=K) for part in (target, mask))
    assert _streamed(wide_target, wide_mask, ruler, (30, 50)) == before


def test_class_with_a_boundary_in_one_only_is_at_the_cap() -> None:
    target, mask = np.zeros((20, 20), np.uint16), np.zeros((20, 20), np.uint16)
    mask[5:9, 5:9] = 1
    scores = _streamed(target, mask, Ruler((2.0, 2.0), "um", 2.0, 10.0), (20, 20))
    assert [scores[1][name] for name in BOUNDARY_METRICS] == [10.0, 10.0, 0.0, 0.0]
    assert scores[1]["capped_px"] == scores[1]["mask_px"] == 12
    assert [scores[2][name] for name in BOUNDARY_METRICS] == [None] * 4
    assert scores[2]["target_px"] == scores[2]["mask_px"] == 0


def test_planes_of_a_time_series_do_not_touch() -> None:
    planes = [_pair(seed, (40, 40)) for seed in (1, 2)]
    target, mask = (np.stack(parts) for parts in zip(*planes, strict=True))
    ruler = Ruler((0.0, 1.0, 1.0), "px", 1.0, 6.0)
    found = _streamed(target, mask, ruler, (1, 40, 40))
    one_by_one = [_streamed(*plane, Ruler((1.0, 1.0), "px", 1.0, 6.0), (40, 40)) for plane in planes]
    for number in range(K):
        for key in ("target_px", "mask_px", "capped_px"):
            assert found[number][key] == sum(plane[number][key] for plane in one_by_one)
        expected = _brute_force_over(planes, number)
        assert found[number]["assd"] == pytest.approx(expected)


def test_several_planes_of_a_time_series_at_once_are_refused() -> None:
    boundaries = Boundaries(2, Ruler((0.0, 1.0, 1.0), "px", 1.0, 6.0))
    both = np.zeros((2, 8, 8), np.uint16)
    with pytest.raises(AssertionError, match=r"boundaries of \[2\] planes of t at once"):
        boundaries.add(both, both, Window.whole(both.shape))


def _brute_force_over(planes: list[tuple[Numbers, Numbers]], number: int) -> float:
    ruler = Ruler((1.0, 1.0), "px", 1.0, 6.0)
    parts = [_brute_force(*plane, number, ruler) for plane in planes]
    weights = [part["target_px"] + part["mask_px"] for part in parts]
    return sum(part["assd"] * weight for part, weight in zip(parts, weights, strict=True)) / sum(weights)


def test_percentile_is_numpys() -> None:
    rng = np.random.default_rng(0)
    for size, share in itertools.product((1, 2, 19, 20, 21, 1000), (0.0, 0.5, 0.95, 1.0)):
        values = rng.integers(0, 30, size) / 7
        expected = np.percentile(np.minimum(values, 3.0), 100 * share)
        assert percentile(Tally(values.tolist()), share, 3.0) == pytest.approx(float(expected))
