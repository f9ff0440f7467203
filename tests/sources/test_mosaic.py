"""Mosaics: tiles cut from one scene give that scene again; gaps and overlaps by their rules."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine, from_origin

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Joined, Limits, Opening, Source, open_source
from segcore.sources.parts import MAX_OPEN

RNG = np.random.default_rng(7)
GRID = from_origin(500000, 4600000, 10, 10)


def write(path: Path, bands: Any, transform: Affine = GRID, **options: Any) -> str:
    count, height, width = bands.shape
    profile = {"crs": "EPSG:32631", "transform": transform} | options
    mask = profile.pop("mask", None)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype, **profile
        ) as dataset,
    ):
        dataset.write(bands)
        if mask is not None:
            dataset.write_mask(mask)
    return str(path)


def cut(folder: Path, scene: Any, y: slice, x: slice, name: str = "", **options: Any) -> str:
    place = GRID * Affine.translation(x.start, y.start)
    return write(folder / f"tile{name or f'_{y.start:04}_{x.start:04}'}.tif", scene[:, y, x], place, **options)


def joined(*uris: str, **options: Any) -> Source:
    how = Joined(uri=str(Path(uris[0]).parent), how="mosaic", parts=tuple(sorted(uris)))
    return open_source(how, Opening(**options))


def test_tiles_make_the_scene_again(tmp_path: Path, assert_reads: Any) -> None:
    scene = RNG.integers(0, 999, (3, 90, 110)).astype("uint16")
    tiles = [
        cut(tmp_path, scene, slice(y, min(y + 20, 90)), slice(x, min(x + 25, 110)))
        for y in range(0, 90, 20)
        for x in range(0, 110, 25)
    ]
    assert len(tiles) > MAX_OPEN
    with joined(*tiles) as source:
        assert_reads(source, scene)
        info = source.info
    assert (info.reader, info.has_valid, info.nodata) == ("mosaic", False, None)
    assert info.georef is not None
    assert info.georef.transform == tuple(GRID)[:6]
    assert info.num_bytes == sum(Path(tile).stat().st_size for tile in tiles)


@pytest.mark.parametrize("nodata", [None, 7, -9999])
def test_gaps_are_nodata_or_not_usable(tmp_path: Path, assert_reads: Any, nodata: float | None) -> None:
    """-9999 fits no uint8: such a file says nothing."""
    scene = RNG.integers(10, 99, (2, 50, 60)).astype("uint8")
    tiles = [
        cut(tmp_path, scene, slice(20, 50), slice(30, 60), nodata=None if nodata == -9999 else nodata),
        cut(tmp_path, scene, slice(0, 20), slice(0, 30), nodata=None if nodata == -9999 else nodata),
    ]
    covered = np.zeros((50, 60), bool)
    covered[20:, 30:] = covered[:20, :30] = True
    with joined(*tiles) as source:
        expected = np.where(covered, scene, 7 if nodata == 7 else 0).astype("uint8")
        assert_reads(source, expected, None if nodata == 7 else covered)
        assert source.info.nodata == (7.0 if nodata == 7 else None)
        assert source.info.has_valid is (nodata != 7)
        assert source.info.georef is not None
        assert source.info.georef.transform == tuple(GRID)[:6]


def test_where_tiles_overlap_the_first_with_a_value_wins(tmp_path: Path, assert_reads: Any) -> None:
    first, second = (RNG.integers(1, 99, (2, 30, 40)).astype("int16") for _ in range(2))
    first[:, 10:20, 25:35] = 0
    second[:, 15:25, 5:20] = 0
    tiles = [
        write(tmp_path / "b.tif", second, GRID * Affine.translation(20, 0), nodata=0),
        write(tmp_path / "a.tif", first, nodata=0),
    ]
    expected = np.zeros((2, 30, 60), "int16")
    expected[:, :, 20:] = second
    expected[:, :, :40] = np.where((first != 0).any(axis=0), first, expected[:, :, :40])
    with joined(*tiles) as source:
        assert source.info.nodata == 0
        assert_reads(source, expected)


def test_overlapping_tiles_whose_areas_add_up_still_tell_their_gap(tmp_path: Path, assert_reads: Any) -> None:
    scene = RNG.integers(0, 99, (1, 10, 40)).astype("uint8")
    tiles = [cut(tmp_path, scene, slice(0, 10), x) for x in (slice(0, 15), slice(10, 20), slice(25, 40))]
    covered = np.ones((10, 40), bool)
    covered[:, 20:25] = False
    with joined(*tiles) as source:
        assert source.info.has_valid
        assert_reads(source, np.where(covered, scene, 0).astype("uint8"), covered)


def test_masks_and_differing_nodata(tmp_path: Path, assert_reads: Any) -> None:
    scene = RNG.integers(1, 9, (1, 20, 40)).astype("uint8")
    usable = RNG.choice([0, 255], (20, 20)).astype("uint8")
    tiles = [
        cut(tmp_path, scene, slice(0, 20), slice(0, 20), mask=usable),
        cut(tmp_path, scene, slice(0, 20), slice(20, 40), nodata=5),
    ]
    with joined(*tiles) as source:
        assert source.info.nodata is None
        assert_reads(source, scene, np.hstack([usable > 0, scene[0, :, 20:] != 5]))


def test_a_nodata_value_of_one_tile_alone_is_nan_in_floats(tmp_path: Path, assert_reads: Any) -> None:
    scene = RNG.normal(size=(1, 20, 40)).astype("float32")
    scene[0, 3:9, 5:30] = -9999
    tiles = [
        cut(tmp_path, scene, slice(0, 20), slice(0, 20), nodata=-9999),
        cut(tmp_path, scene, slice(0, 20), slice(20, 40), nodata=-1),
    ]
    there = np.hstack([scene[0, :, :20] != -9999, np.ones((20, 20), bool)])
    with joined(*tiles) as source:
        assert source.info.nodata is None
        assert_reads(source, np.where(there, scene, np.nan).astype("float32"), there)


def test_only_what_a_window_touches_is_opened(tmp_path: Path) -> None:
    scene = RNG.integers(0, 99, (1, 10, 400)).astype("uint8")
    tiles = [cut(tmp_path, scene, slice(0, 10), slice(x, x + 10)) for x in range(0, 400, 10)]
    with joined(*tiles) as source:
        for tile in tiles[10:12]:
            Path(tile).unlink()
        window = Window((0, 0, 55), (1, 10, 30))
        np.testing.assert_array_equal(source.read(window), scene[window.slices])
        with pytest.raises(SourceError, match=r"tile_0000_0100\.tif: cannot be opened"):
            source.read(Window((0, 0, 95), (1, 10, 30)))


def test_turned_tiles(tmp_path: Path, assert_reads: Any) -> None:
    grid = Affine.translation(5e5, 4e6) * Affine.rotation(20) * Affine.scale(2, -2)
    scene = RNG.integers(0, 99, (1, 20, 30)).astype("uint8")
    tiles = [
        write(tmp_path / "b.tif", scene[:, :, :10], grid),
        write(tmp_path / "a.tif", scene[:, :, 10:], grid * Affine.translation(10, 0)),
    ]
    with joined(*tiles) as source:
        assert_reads(source, scene)
        assert source.info.georef is not None
        assert source.info.georef.transform == pytest.approx(tuple(grid)[:6])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"transform": GRID * Affine.translation(20.4, 0)}, r"whole pixels from .*a.tif, got y 0.000, x 20.400"),
        ({"transform": GRID * Affine.translation(20, 0) * Affine.scale(1.01)}, "expected pixels like those of"),
        ({"transform": GRID * Affine.translation(20, 0) * Affine.rotation(1)}, "expected pixels like those of"),
        ({"crs": "EPSG:32632"}, "expected the CRS of"),
        ({"dtype": "uint16"}, r"expected the type of .*a.tif \(uint8\), got uint16"),
        ({"count": 2}, "expected the bands of"),
    ],
)
def test_tiles_that_do_not_fit(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    first = write(tmp_path / "a.tif", np.ones((1, 20, 20), "uint8"))
    bands = np.ones((options.pop("count", 1), 20, 20), options.pop("dtype", "uint8"))
    second = write(tmp_path / "b.tif", bands, **({"transform": GRID * Affine.translation(20, 0)} | options))
    with pytest.raises(SourceError, match=said) as caught:
        joined(first, second)
    assert str(caught.value).startswith(second)


def test_tiles_with_other_colour_tables(tmp_path: Path) -> None:
    names = [write(tmp_path / f"{x}.tif", np.ones((1, 9, 9), "uint8"), GRID * Affine.translation(x, 0)) for x in (0, 9)]
    for color, name in enumerate(names):
        with rasterio.open(name, "r+") as dataset:
            dataset.write_colormap(1, {1: (255, color, 0, 255)})
    with pytest.raises(SourceError, match="expected the palette of"):
        joined(*names)


def test_a_tile_without_a_georeference_and_a_union_that_is_too_large(tmp_path: Path) -> None:
    first = write(tmp_path / "a.tif", np.ones((1, 20, 20), "uint8"))
    far = write(tmp_path / "b.tif", np.ones((1, 20, 20), "uint8"), GRID * Affine.translation(1e5, 1e5))
    with pytest.raises(SourceError, match="max_px = 1000000"):
        joined(first, far, limits=Limits(max_px=10**6))
    Image.fromarray(np.ones((20, 20), np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(SourceError, match=r"c.png: it has no georeference"):
        joined(first, str(tmp_path / "c.png"))
