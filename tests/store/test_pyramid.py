"""Levels held against brute force, block by block."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest

from segcore.nodata import missing, off_nodata
from segcore.store.pyramid import PyramidSpec, fitting_shard_px, mean_2x2, valid_mean_2x2


def blocks(pixels: np.ndarray) -> dict[tuple[int, int], list[float]]:
    """Values of every 2x2 block of a (Y, X) array; border blocks hold what exists."""
    found: dict[tuple[int, int], list[float]] = {}
    for (y, x), value in np.ndenumerate(pixels):
        found.setdefault((y // 2, x // 2), []).append(value)
    return found


def spec_of(pixels: np.ndarray, kind: str, **more: object) -> PyramidSpec:
    axes = ("c", "y", "x")[-pixels.ndim :]
    return PyramidSpec.model_validate(
        {"axes": axes, "shape": pixels.shape, "dtype": str(pixels.dtype), "kind": kind, **more}
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int8", "int16", "int32", "float32"])
@pytest.mark.parametrize("shape", [(6, 8), (7, 5), (1, 9), (3, 1)])
def test_mean_of_each_block_rounds_half_up(dtype: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    low = 0 if dtype.startswith(("u", "f")) else -100
    pixels = rng.integers(low, 100, shape).astype(dtype)
    reduced = spec_of(pixels, "image").reduced(pixels)
    for index, values in blocks(pixels).items():
        mean = np.mean([float(v) for v in values])
        expected = mean if dtype == "float32" else np.floor(mean + 0.5)
        assert reduced[index] == pytest.approx(expected)
    assert reduced.dtype == pixels.dtype


@pytest.mark.parametrize("nodata", [0.0, -9.0, float("nan")])
def test_mean_leaves_nodata_out(nodata: float) -> None:
    rng = np.random.default_rng(2)
    pixels = rng.integers(1, 50, (2, 9, 7)).astype("float32" if np.isnan(nodata) else "int16")
    hidden = rng.random((9, 7)) < 0.5
    pixels[:, hidden] = nodata
    reduced = spec_of(pixels, "image", nodata=nodata).reduced(pixels)
    for band in range(2):
        for index, values in blocks(np.where(hidden, np.nan, pixels[band].astype(float))).items():
            seen = [v for v in values if not np.isnan(v)]
            if not seen:
                assert np.isnan(reduced[band][index]) if np.isnan(nodata) else reduced[band][index] == nodata
            elif np.isnan(nodata):
                assert reduced[band][index] == pytest.approx(np.mean(seen))
            else:
                assert reduced[band][index] == np.floor(np.mean(seen) + 0.5)


@pytest.mark.parametrize("nodata", [None, -9.0])
def test_mean_of_floats_leaves_out_what_is_missing_in_one_band(nodata: float | None) -> None:
    pixels = np.random.default_rng(4).random((2, 8, 6)).astype(np.float32)
    seen = pixels.astype(float)
    for band, y, x in ((0, 0, 0), (1, 4, 5), (1, 4, 4), (1, 5, 4), (1, 5, 5)):
        pixels[band, y, x] = np.nan if nodata is None or y == 0 else nodata
        seen[band, y, x] = np.nan
    reduced = spec_of(pixels, "image", nodata=nodata).reduced(pixels)
    for band in range(2):
        for index, values in blocks(seen[band]).items():
            kept = [value for value in values if not np.isnan(value)]
            if kept:
                assert reduced[band][index] == pytest.approx(np.mean(kept), rel=1e-6)
            else:
                assert np.isnan(reduced[band][index]) if nodata is None else reduced[band][index] == nodata


def sum_2x2(values: np.ndarray) -> np.ndarray:
    rows = values[..., ::2, :] + values[..., 1::2, :]
    return rows[..., ::2] + rows[..., 1::2]


def valid_mean_at_once(pixels: np.ndarray, nodata: float, channel: int | None) -> np.ndarray:
    """`valid_mean_2x2` of the whole array in one go."""
    there = ~missing(pixels, nodata)
    valid = there if channel is None else there.any(axis=channel, keepdims=True)
    integer = np.issubdtype(pixels.dtype, np.integer)
    count = np.broadcast_to(sum_2x2(valid.astype(np.int64)), pixels[..., ::2, ::2].shape)
    total = sum_2x2(np.where(valid, pixels, 0).astype(np.int64 if integer else np.float64))
    most = np.maximum(count, 1)
    mean = (2 * total + most) // (2 * most) if integer else total / most
    found = mean_2x2(pixels) if valid.all() else np.where(count > 0, mean, nodata).astype(pixels.dtype)
    gone = missing(found, nodata)
    lost = (count > 0) & (gone if channel is None else gone.all(axis=channel, keepdims=True))
    if channel is not None:  # one channel with a value is enough
        lost[(slice(None),) * channel + (slice(1, None),)] = False
    return np.where(lost, off_nodata(found, nodata), found)


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_mean_is_nodata_only_where_no_pixel_has_a_value(is_whole: bool) -> None:
    dim = np.zeros((4, 4, 4), np.uint8)
    for channel, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        dim[channel, y::2, x::2] = 1
    both = np.tile(np.array([[-5, 5], [5, -5]], np.int16), (1, 2, 2))
    if not is_whole:
        dim[:, 2:, 2:] = both[:, 2:, 2:] = 0
    expected = np.ones((2, 2), bool)
    expected[1, 1] = is_whole
    for pixels in (dim, both, both.astype(np.float32)):
        np.testing.assert_array_equal((valid_mean_2x2(pixels, 0.0, 0) != 0).any(axis=0), expected)


DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "channel"), [((3, 70, 34), 0), ((2, 3, 38, 10), 1), ((3, 2, 66, 8), 0), ((64, 6), None)]
)
@pytest.mark.parametrize("interleaved", [False, True])
def test_mean_of_the_valid_by_bands_is_that_of_all_at_once(
    dtype: str, shape: tuple[int, ...], channel: int | None, interleaved: bool
) -> None:
    rng = np.random.default_rng(6)
    is_float = dtype.startswith("float")
    low, high = (0, 1000) if is_float else (max(np.iinfo(dtype).min, -(2**58)), min(np.iinfo(dtype).max, 2**58))
    for share in (0, 0.002, 0.5, 1):
        pixels = (rng.random(shape) * 1000 if is_float else rng.integers(low, high, shape)).astype(dtype)
        for nodata in (7.0, float("nan")) if is_float else (7.0,):
            pixels[..., rng.random(shape[-2:]) < share] = nodata
            pixels[rng.random(shape) < share / 2] = nodata
            if is_float:
                pixels[rng.random(shape) < share / 4] = np.inf
            if interleaved and channel is not None:
                pixels = np.moveaxis(np.ascontiguousarray(np.moveaxis(pixels, channel, -1)), -1, channel)
            for joined in {channel, None}:
                found, expected = valid_mean_2x2(pixels, nodata, joined), valid_mean_at_once(pixels, nodata, joined)
                np.testing.assert_array_equal(found, expected, strict=True)


def test_mean_of_the_valid_takes_little_memory_besides_its_result() -> None:
    pixels = np.ones((50, 512, 512), np.int16)
    pixels[:, ::3, ::5] = 0
    tracemalloc.start()
    reduced = valid_mean_2x2(pixels, 0, 0)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < reduced.nbytes + (2 << 20)


@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (1, 1)])
def test_mode_ties_go_to_the_lowest_class_that_is_not_ignore(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    pixels = rng.choice(np.array([0, 1, 2, 255], np.uint8), shape)
    reduced = spec_of(pixels, "mask").reduced(pixels)
    for index, values in blocks(pixels).items():
        counts = Counter(int(v) for v in values)
        most = max(counts.values())
        assert reduced[index] == min(value for value, count in counts.items() if count == most)


def test_instances_go_down_by_nearest() -> None:
    pixels = np.arange(20, dtype=np.uint32).reshape(4, 5)
    assert (spec_of(pixels, "instances").reduced(pixels) == [[0, 2, 4], [10, 12, 14]]).all()


def test_many_channels_make_smaller_shards_and_planar_chunks() -> None:
    assert fitting_shard_px(("c", "y", "x"), (3, 9999, 9999), "uint8", 2048) == 2048
    assert fitting_shard_px(("c", "y", "x"), (100, 9999, 9999), "uint16", 2048) == 512
    spec = PyramidSpec(axes=("c", "y", "x"), shape=(8, 300, 300), dtype="int16", kind="image", shard_px=512)
    assert spec.chunk == (1, 256, 256)
    assert spec.shard == (8, 512, 512)
