from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.inference.model_grid import ModelGrid
from segcore.inference.tiling import (
    bounding,
    crop_tiling,
    gaussian_tiling,
    read_reflected,
    read_validity,
    stacked,
)
from segcore.store import Workspace
from tests.inference.scenes import scene
from tests.synthetic import put_image


@pytest.mark.parametrize(
    ("tile_px", "stride", "shard_px", "side"),
    [(512, 16, 2048, 512), (500, 16, 2048, 512), (700, 16, 2048, 512), (800, 16, 2048, 1024), (512, 16, 256, 256),
     (300, 16, 768, 256), (10, 16, 2048, 16), (512, 3, 768, 384)],
)  # fmt: skip
def test_crop_tiling_divides_the_shard(tile_px: int, stride: int, shard_px: int, side: int) -> None:
    tiling = crop_tiling((5000, 5000), (tile_px,) * 2, (30, 30), (stride,) * 2, shard_px)
    assert tiling.core == (side, side)
    assert shard_px % side == 0
    assert side % stride == 0
    assert tiling.halo[0] % stride == 0
    assert 30 <= tiling.halo[0] < 30 + stride


def test_crop_tiling_refuses_a_stride_that_no_divisor_has() -> None:
    with pytest.raises(ConfigError, match=r"shard_px 256: expected a multiple of the model's stride 48; .* 288"):
        crop_tiling((1000, 1000), (128, 128), (0, 0), (48, 48), 256)


def test_crop_tiling_fits_a_small_image() -> None:
    tiling = crop_tiling((100, 3000), (512, 512), (32, 32), (16, 16), 2048)
    assert tiling.core == (112, 512)
    assert tiling.read == (176, 576)


@pytest.mark.parametrize("shape", [(1, 1), (17, 300), (513, 255), (256, 256)])
@pytest.mark.parametrize("is_cut", [True, False])
def test_every_pixel_lies_in_one_write_window(shape: tuple[int, int], is_cut: bool) -> None:
    tiling = crop_tiling(shape, (64, 64), (16, 16), (16, 16), 256)
    tiling = replace(tiling, is_cut=is_cut)
    hits = np.zeros(shape, dtype=int)
    num_read_px = 0
    for tile in tiling.tiles(Window.whole(shape)):
        hits[tile.write.slices] += 1
        num_read_px += tile.read.num_px
        cut = tuple(-(-n // 16) * 16 + 32 for n in tile.write.shape)
        assert tile.read.shape == (cut if is_cut else tiling.read)
    assert (hits == 1).all()
    assert tiling.num_read_px == num_read_px


def test_gaussian_tiling_overlaps_by_a_quarter() -> None:
    tiling = gaussian_tiling((5000, 5000), (512, 512), (64, 64), (16, 16))
    assert tiling.read == (512, 512)
    assert tiling.core == (384, 384)
    with pytest.raises(ConfigError, match="less than half of the tile"):
        gaussian_tiling((5000, 5000), (64, 64), (32, 32), (16, 16))


@pytest.mark.parametrize(
    "window",
    [Window((3, 4), (20, 30)), Window((-9, -5), (40, 40)), Window((30, 40), (40, 50)), Window((-70, -99), (200, 220))],
)
def test_read_reflected_is_numpys_reflect_padding(tmp_path: Path, window: Window) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    pixels = scene(50, 61)
    put_image(ws, "a", pixels)
    wide = np.pad(pixels, ((0, 0), (300, 300), (300, 300)), mode="reflect")
    expected = wide[(slice(None), *window.relative_to((-300, -300)).slices)]
    np.testing.assert_array_equal(read_reflected(ModelGrid(ws.image("a")), window), expected)


def test_read_reflected_of_one_pixel(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "a", np.full((3, 1, 1), 9, dtype=np.uint8))
    assert (read_reflected(ModelGrid(ws.image("a")), Window((-4, -4), (16, 16))) == 9).all()


def test_read_validity_is_none_where_all_is_usable(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    pixels = scene(64, 64)
    put_image(ws, "plain", pixels)
    pixels[:, 40:] = 0
    put_image(ws, "holed", pixels, nodata=0)
    assert read_validity(ModelGrid(ws.image("plain")), Window.whole((64, 64))) is None
    assert read_validity(ModelGrid(ws.image("holed")), Window.whole((40, 64))) is None
    valid = read_validity(ModelGrid(ws.image("holed")), Window.whole((64, 64)))
    assert valid is not None
    np.testing.assert_array_equal(valid, (pixels != 0).any(axis=0))


def test_read_validity_of_floats_sees_nan_without_a_tag(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    pixels = scene(64, 64).astype(np.float32)
    pixels[:, 40:] = np.nan
    pixels[0, :9] = np.nan  # in one band only: usable
    put_image(ws, "a", pixels)
    assert read_validity(ModelGrid(ws.image("a")), Window.whole((40, 64))) is None
    np.testing.assert_array_equal(
        read_validity(ModelGrid(ws.image("a")), Window.whole((64, 64))), ~np.isnan(pixels).all(axis=0)
    )


def test_stacked_fills_the_batch_with_the_last_tile() -> None:
    tiling = crop_tiling((64, 64), (32, 32), (0, 0), (1, 1), 256)
    pixels = np.arange(64 * 64).reshape(1, 64, 64)
    tiles = list(tiling.tiles(Window.whole((64, 64))))[:3]
    batch = stacked(pixels, (0, 0), tiles, 4)
    assert batch.shape == (4, 1, 32, 32)
    np.testing.assert_array_equal(batch[1], pixels[:, :32, 32:])
    np.testing.assert_array_equal(batch[3], batch[2])


def test_bounding_holds_all() -> None:
    assert bounding([Window((-2, 5), (4, 4)), Window((1, 0), (10, 3))]) == Window((-2, 0), (13, 9))
