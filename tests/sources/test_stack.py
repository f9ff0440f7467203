"""Stacks: channels of several files on the finest grid, against a bilinear of the whole written by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Joined, Limits, Opening, Source, open_source
from segcore.sources.stack import distinct_names

RNG = np.random.default_rng(5)
ORIGIN = (500000.0, 4600000.0)


def write(path: Path, bands: Any, res: float = 10.0, origin: tuple[float, float] = ORIGIN, **options: Any) -> str:
    names = options.pop("names", None)
    profile = {"crs": "EPSG:32631", "transform": from_origin(*origin, res, res)} | options
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype, **profile
    ) as dataset:
        dataset.write(bands)
        if names:
            dataset.descriptions = names
    return str(path)


def stacked(*uris: str, **options: Any) -> Source:
    joined = Joined(uri=str(Path(uris[0]).parent), how="stack", parts=uris)
    return open_source(joined, Opening(**options))


def upsampled(coarse: Any, factor: int, shape: tuple[int, int], usable: Any = None) -> Any:
    """Bilinear, pixel by pixel; only usable neighbours count."""
    out = np.zeros((len(coarse), *shape))
    usable = np.ones(coarse.shape[1:], bool) if usable is None else usable
    for y in range(shape[0]):
        for x in range(shape[1]):
            v, u = (y + 0.5) / factor - 0.5, (x + 0.5) / factor - 0.5
            total = np.zeros(len(coarse))
            weights = 0.0
            for row, wy in ((np.floor(v), 1 - v % 1), (np.floor(v) + 1, v % 1)):
                for column, wx in ((np.floor(u), 1 - u % 1), (np.floor(u) + 1, u % 1)):
                    at = tuple(np.clip((row, column), 0, np.array(coarse.shape[1:]) - 1).astype(int))
                    if usable[at]:
                        total += wy * wx * coarse[(slice(None), *at)]
                        weights += wy * wx
            out[:, y, x] = total / weights if weights else 0
    return out


def test_bands_of_several_resolutions_on_the_finest_grid(tmp_path: Path, assert_reads: Any) -> None:
    fine, mid, coarse = (
        RNG.integers(0, 999, shape).astype("uint16") for shape in ((1, 48, 60), (2, 24, 30), (1, 8, 10))
    )
    parts = [
        write(tmp_path / "S2_B01_60m.tif", coarse, 60),
        write(tmp_path / "S2_B02_10m.tif", fine),
        write(tmp_path / "S2_B05_20m.tif", mid, 20, names=("B05", "B06")),
    ]
    expected = np.concatenate([upsampled(coarse, 6, (48, 60)), fine, upsampled(mid, 2, (48, 60))])
    with stacked(*parts) as source:
        info = source.info
        pixels = source.read(Window.whole(info.shape))
        assert_reads(source, pixels)
    np.testing.assert_allclose(pixels, expected, atol=0.5000001)
    np.testing.assert_array_equal(pixels[1], fine[0])
    assert info.channels == ("B01", "B02", "B05", "B06")
    assert (info.reader, info.dtype, info.has_valid, info.nodata) == ("stack", "uint16", False, None)
    assert info.georef is not None
    assert info.georef.transform == (10.0, 0.0, *ORIGIN[:1], 0.0, -10.0, ORIGIN[1])
    assert info.spacing is not None
    assert info.spacing.values == {"y": 10.0, "x": 10.0}
    assert info.num_bytes == sum(Path(part).stat().st_size for part in parts)


def test_a_constant_stays_constant_up_to_the_border(tmp_path: Path) -> None:
    parts = [
        write(tmp_path / "a.tif", np.full((1, 9, 12), 0.1)),
        write(tmp_path / "b.tif", np.full((1, 3, 4), 0.1), 30),
    ]
    with stacked(*parts) as source:
        np.testing.assert_array_equal(source.read(Window.whole(source.info.shape)), np.full((2, 9, 12), 0.1))


def test_missing_parts_are_no_neighbours_and_make_a_pixel_unusable(tmp_path: Path, assert_reads: Any) -> None:
    fine, coarse = RNG.integers(1, 99, (1, 40, 40)).astype("int16"), RNG.integers(1, 99, (2, 20, 20)).astype("int16")
    fine[0, 5:9, 5:9] = 0
    coarse[:, 10:14, 10:14] = -9
    coarse[0, 2, 2] = -9  # the other band has a value
    parts = [write(tmp_path / "a.tif", fine, nodata=0), write(tmp_path / "b.tif", coarse, 20, nodata=-9)]
    usable = (coarse != -9).any(axis=0)
    valid = (fine[0] != 0) & usable.repeat(2, 0).repeat(2, 1)
    with stacked(*parts) as source:
        assert source.info.has_valid
        assert source.info.nodata is None
        pixels = source.read(Window.whole(source.info.shape))
        assert_reads(source, pixels, valid)
    for band, blended in zip(coarse, pixels[1:], strict=True):
        known = (band != -9).repeat(2, 0).repeat(2, 1)
        expected = upsampled(band[None], 2, (40, 40), band != -9)[0]
        np.testing.assert_allclose(blended[known], expected[known], atol=0.5000001)
        assert (blended[~known] == -9).all()


def test_floats_that_are_no_numbers_are_missing(tmp_path: Path) -> None:
    fine, coarse = RNG.random((1, 8, 8), "float32"), RNG.random((1, 4, 4), "float32")
    coarse[0, 0, 0] = np.nan
    with stacked(write(tmp_path / "a.tif", fine), write(tmp_path / "b.tif", coarse, 20)) as source:
        pixels, valid = source.read(Window.whole((2, 8, 8))), source.read_valid(Window.whole((8, 8)))
    assert not valid[:2, :2].any()
    assert valid.sum() == 60
    assert np.isfinite(pixels[:, valid]).all()
    assert np.isnan(pixels[1, :2, :2]).all()


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_a_blend_is_never_nodata_by_chance(tmp_path: Path, dtype: str) -> None:
    coarse = np.array([[[-1, 1], [-3, 3]]], dtype)
    parts = [write(tmp_path / "a.tif", np.ones((1, 6, 6), dtype)), write(tmp_path / "b.tif", coarse, 30, nodata=0)]
    with stacked(*parts) as source:
        pixels = source.read(Window.whole((2, 6, 6)))
        assert source.read_valid(Window.whole((6, 6))).all()
    assert (pixels[1] != 0).all()
    np.testing.assert_allclose(pixels[1], upsampled(coarse, 3, (6, 6))[0], atol=1.5)


def test_masks_are_repeated_not_blended(tmp_path: Path) -> None:
    fine, coarse = RNG.integers(0, 9, (1, 8, 8)).astype("uint8"), RNG.integers(0, 9, (1, 4, 4)).astype("uint8")
    with stacked(write(tmp_path / "a.tif", fine), write(tmp_path / "b.tif", coarse, 20), indexed=True) as source:
        np.testing.assert_array_equal(source.read(Window.whole((2, 8, 8)))[1], coarse[0].repeat(2, 0).repeat(2, 1))


def test_more_files_than_are_kept_open(tmp_path: Path, assert_reads: Any) -> None:
    bands = RNG.integers(0, 255, (40, 6, 7)).astype("uint8")
    parts = [write(tmp_path / f"b{i:02}.tif", band[None]) for i, band in enumerate(bands)]
    with stacked(*parts) as source:
        assert_reads(source, bands, num_windows=4)
        assert source.info.channels[:2] == ("b00", "b01")
    with pytest.raises(SourceError, match="max_channels = 39"):
        stacked(*parts, limits=Limits(max_channels=39))


def test_real_sentinel2_bands(data_dir: Path, assert_reads: Any) -> None:
    parts = sorted(str(path) for path in (data_dir / "geotiff/sentinel2_bands").glob("*.tif"))
    bands = np.concatenate([rasterio.open(part).read() for part in parts])
    with stacked(*parts) as source:
        assert source.info.channels == ("band1", "band2")
        assert (source.info.nodata, source.info.has_valid) == (0.0, True)
        assert_reads(source, bands, (bands != 0).all(axis=0), num_windows=3)


def test_pictures_without_a_georeference(tmp_path: Path, assert_reads: Any) -> None:
    planes = RNG.integers(0, 255, (2, 20, 30), dtype=np.uint8)
    for name, plane in zip(("cell_dapi.png", "cell_gfp.png"), planes, strict=True):
        Image.fromarray(plane).save(tmp_path / name)
    parts = [str(tmp_path / "cell_dapi.png"), str(tmp_path / "cell_gfp.png")]
    with stacked(*parts) as source:
        assert source.info.channels == ("dapi", "gfp")
        assert source.info.georef is None
        assert_reads(source, planes)
    Image.fromarray(planes[0, :10]).save(tmp_path / "cell_red.png")
    with pytest.raises(SourceError, match=r"cell_red.png: expected 20 x 30 px as .*cell_dapi.png has, got 10 x 30"):
        stacked(*parts, str(tmp_path / "cell_red.png"))


def test_volumes_of_one_place(tmp_path: Path, assert_reads: Any) -> None:
    nibabel = pytest.importorskip("nibabel")
    voxels = RNG.normal(size=(9, 8, 7)).astype("float32")
    affine = np.array([[0, 0, 2, -5], [-1, 0, 0, 30], [0, 1.5, 0, 8], [0, 0, 0, 1]])
    shifts = {"first": 0, "rounded": 1e-4, "moved": 1, "far": 0, "mirrored": 0}
    for name, shift in shifts.items():
        placed = affine.copy()
        placed[0, 3] += shift
        placed[:3, 0] *= {"far": 1.2, "mirrored": -1}.get(name, 1)
        nibabel.save(nibabel.Nifti1Image(voxels, placed), tmp_path / f"{name}.nii")
    uris = {name: str(tmp_path / f"{name}.nii") for name in shifts}
    with stacked(uris["first"], uris["rounded"]) as source:
        assert_reads(source, np.stack([voxels.T, voxels.T]))
    for name, said in (("moved", "up to 1 mm from it"), ("far", "expected the spacing"), ("mirrored", "up to 16 mm")):
        with pytest.raises(SourceError, match=said) as caught:
            stacked(uris["first"], uris[name])
        assert str(caught.value).startswith(uris[name])


def test_a_nodata_value_of_one_part_alone_is_nan_in_floats(tmp_path: Path, assert_reads: Any) -> None:
    bands = RNG.normal(size=(2, 20, 20)).astype("float32")
    bands[0, 3:9] = -9999
    parts = [write(tmp_path / f"{i}.tif", bands[i : i + 1], nodata=value) for i, value in enumerate((-9999, -1))]
    with stacked(*parts) as source:
        assert source.info.nodata is None
        assert_reads(source, np.where(bands == -9999, np.nan, bands).astype("float32"), bands[0] != -9999)


def test_types_are_widened_within_their_kind(tmp_path: Path) -> None:
    small, large = np.full((1, 4, 4), 200, "uint8"), np.full((1, 4, 4), 60000, "uint16")
    a, b = write(tmp_path / "a.tif", small), write(tmp_path / "b.tif", large)
    with stacked(a, b) as source:
        pixels = source.read(Window.whole((2, 4, 4)))
        assert (pixels.dtype, pixels[0, 0, 0], pixels[1, 0, 0]) == (np.uint16, 200, 60000)
    with pytest.raises(SourceError, match=r"c.tif: expected a type like uint8 of .*a.tif, got float32"):
        stacked(a, write(tmp_path / "c.tif", small.astype("float32")))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"crs": "EPSG:32632"}, r"expected the CRS of .*a.tif \(EPSG:32631\), got EPSG:32632"),
        ({"crs": "EPSG:32631", "origin": (ORIGIN[0] + 45, ORIGIN[1])}, r"expected the area of .*a.tif.* 2.2 of its"),
        ({"res": 40}, "expected the area of"),
        ({"transform": rasterio.Affine(20, 3, ORIGIN[0], 3, -20, ORIGIN[1])}, "turned or mirrored"),
        ({"transform": rasterio.Affine(20, 0, ORIGIN[0], 0, 20, ORIGIN[1])}, "turned or mirrored"),
    ],
)
def test_parts_that_do_not_fit(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    first = write(tmp_path / "a.tif", np.ones((1, 40, 40), "uint8"))
    second = write(tmp_path / "b.tif", np.ones((1, 20, 20), "uint8"), **({"res": 20} | options))
    with pytest.raises(SourceError, match=said) as caught:
        stacked(first, second)
    assert str(caught.value).startswith(second)


def test_a_part_without_a_georeference_is_named(tmp_path: Path) -> None:
    first = write(tmp_path / "a.tif", np.ones((1, 20, 30), "uint8"))
    Image.fromarray(np.ones((20, 30), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(SourceError, match=r"b.png: it has no georeference"):
        stacked(first, str(tmp_path / "b.png"))


def test_scales_of_all_parts(tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"{name}.tif", np.ones((1, 4, 4), "uint8")) for name in "ab")
    with rasterio.open(second, "r+") as dataset:
        dataset.scales = (0.5,)
    with stacked(first, second) as source:
        assert source.info.details["scales"] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["T31UFS_20200101T1_B02_10m.jp2", "T31UFS_20200101T1_B8A_20m.jp2"], ["B02", "B8A"]),
        (["LC08_B1.TIF", "LC08_B10.TIF"], ["B1", "B10"]),
        (["a_B02_10m.jp2", "a_B02_20m.jp2"], ["10m", "20m"]),
        (["x_1_r.tif", "x_1_g.tif", "x_2_r.tif"], ["1_r", "1_g", "2_r"]),
        (["scene_B2.tif", "scene_SCL_20m.tif"], ["B2", "SCL_20m"]),
        (["scene.tif", "scene_B2.tif"], ["scene", "B2"]),
        (["only_one.tif"], ["only_one"]),
    ],
)
def test_what_tells_files_apart(files: list[str], names: list[str]) -> None:
    assert distinct_names(files) == names
