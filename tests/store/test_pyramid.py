"""Levels held against brute force, block by block."""

from collections import Counter

import numpy as np
import pytest

from segcore.store.pyramid import PyramidSpec, fitting_shard_px


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
