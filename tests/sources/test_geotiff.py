"""GeoTIFF and JPEG 2000: pixels, geometry and validity against rasterio, and nothing beside the file is ever opened."""

import warnings
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC
from rasterio.transform import Affine, from_origin
from rasterio.warp import reproject

from segcore.errors import SourceError
from segcore.geometry import Window, is_level
from segcore.sources import Limits, Opening, open_source
from segcore.sources.jpeg2000_header import Jpeg2000Header, check_tiles

RNG = np.random.default_rng(3)


def quiet(writes: Any) -> Any:
    """What rasterio says of files that are written without a georeference; what it says on reading has to be heard."""

    def quietly(*args: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return writes(*args, **options)

    return quietly


@quiet
def write(path: Path, bands: Any, **options: Any) -> str:
    profile = {"crs": "EPSG:32631", "transform": from_origin(500000, 4600000, 10, 10), "driver": "GTiff"} | options
    alpha, mask = profile.pop("alpha", False), profile.pop("mask", None)
    overviews, told = profile.pop("overviews", None), profile.pop("told", {})
    count, height, width = bands.shape
    with rasterio.open(path, "w", count=count, height=height, width=width, dtype=bands.dtype, **profile) as dataset:
        dataset.write(bands)
        for name, value in told.items():
            setattr(dataset, name, value)
        if alpha:
            dataset.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        if mask is not None:
            dataset.write_mask(mask)
    if overviews:
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews(overviews, Resampling.average)
    return str(path)


def write_jp2(path: Path, bands: Any, **options: Any) -> str:
    lossless = {"driver": "JP2OpenJPEG", "REVERSIBLE": "YES", "QUALITY": 100, "BLOCKXSIZE": 64, "BLOCKYSIZE": 64}
    with rasterio.Env(GDAL_PAM_ENABLED="NO"):
        return write(path, bands, **(lossless | options))


def bands_of(count: int, dtype: str = "uint16") -> Any:
    return RNG.integers(1, 200, (count, 130, 170)).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("options", [{"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}, {}])
def test_pixels_and_geometry(tmp_path: Path, assert_reads: Any, dtype: str, options: dict[str, Any]) -> None:
    bands = bands_of(5, dtype)
    path = write(tmp_path / "scene.tif", bands, nodata=7, **options)
    with open_source(path) as source:
        info = source.info
        assert_reads(source, bands)
    assert (info.reader, info.axes, info.nodata, info.has_valid) == ("geotiff", ("c", "y", "x"), 7.0, False)
    assert info.channels == ("band 1", "band 2", "band 3", "band 4", "band 5")
    assert info.georef is not None
    assert info.georef.epsg == 32631
    assert info.georef.transform == (10.0, 0.0, 500000.0, 0.0, -10.0, 4600000.0)
    assert rasterio.CRS.from_wkt(info.georef.crs_wkt) == rasterio.CRS.from_epsg(32631)
    assert info.spacing is not None
    assert (info.spacing.values, info.spacing.unit) == ({"y": 10.0, "x": 10.0}, "meter")


def test_spacing_of_rotated_footed_and_geographic_grids(tmp_path: Path) -> None:
    turned = Affine.translation(500000, 4600000) * Affine.rotation(30) * Affine.scale(4, -2)
    with open_source(write(tmp_path / "turned.tif", bands_of(1), transform=turned)) as source:
        assert source.info.spacing is not None
        assert source.info.spacing.values == pytest.approx({"y": 2.0, "x": 4.0})
        assert source.info.georef is not None
        assert source.info.georef.transform == pytest.approx(tuple(turned)[:6])
    with open_source(write(tmp_path / "feet.tif", bands_of(1), crs="EPSG:2263")) as source:
        assert source.info.spacing is not None
        assert source.info.spacing.unit == "meter"
        assert source.info.spacing.values == pytest.approx({"y": 3.048006, "x": 3.048006})
    with open_source(write(tmp_path / "degrees.tif", bands_of(1), crs="EPSG:4326")) as source:
        assert source.info.spacing is not None
        assert source.info.spacing.unit == "degree"


def test_alpha_and_mask_bands_say_what_is_usable(tmp_path: Path, assert_reads: Any) -> None:
    bands = bands_of(4, "uint8")
    bands[3] = RNG.choice([0, 255], size=bands[3].shape)
    with open_source(write(tmp_path / "alpha.tif", bands, alpha=True)) as source:
        assert source.info.channels == ("red", "green", "blue")
        assert source.info.has_valid
        assert_reads(source, bands[:3], valid=bands[3] > 0)
    usable = RNG.choice([0, 255], size=(130, 170)).astype(np.uint8)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write(tmp_path / "mask.tif", bands_of(2), mask=usable)
    with open_source(path) as source:
        assert source.info.has_valid
        assert source.info.shape[0] == 2
        window = Window((20, 30), (50, 60))
        np.testing.assert_array_equal(source.read_valid(window), usable[window.slices] > 0)


def test_a_fourth_band_that_gdal_knows_is_no_alpha_stays(data_dir: Path) -> None:
    path = data_dir / "geotiff/naip/m_4709963_se_14_1_20100629.tif"  # its ExtraSamples tag says alpha; it is NIR
    with open_source(str(path)) as source:
        assert source.info.shape == (4, 723, 934)
        assert (source.info.has_valid, source.info.nodata) == (False, 0.0)


def test_real_files_are_those_of_rasterio(data_dir: Path, assert_reads: Any) -> None:
    paths = [path for path in sorted((data_dir / "geotiff").rglob("*.*tif")) if path.stat().st_size < 3e6]
    assert len(paths) >= 8
    for path in paths:
        if "fp_mask" in path.name or "cog_world" in path.name:  # no georeference; too large to read whole
            continue
        with open_source(str(path)) as source, rasterio.open(path) as dataset:
            assert_reads(source, dataset.read(), num_windows=3)
            assert source.info.georef is not None
            assert source.info.georef.transform == tuple(dataset.transform)[:6]
            assert source.info.georef.epsg == dataset.crs.to_epsg()
            assert source.info.nodata == dataset.nodata


def test_a_window_of_a_huge_cog(data_dir: Path) -> None:
    path = data_dir / "geotiff/scale/cog_world_36000x18000.tif"
    with open_source(str(path)) as source, rasterio.open(path) as dataset:
        assert source.info.shape == (1, 18000, 36000)
        window = Window((0, 5000, 18500), (1, 700, 900))
        expected = dataset.read(window=((5000, 5700), (18500, 19400)))
        np.testing.assert_array_equal(source.read(window), expected)
        assert expected.any()


def test_sidecars_are_not_read(tmp_path: Path) -> None:
    bands = bands_of(1)
    path = write(tmp_path / "scene.tif", bands)
    Path(f"{path}.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><NoDataValue>99</NoDataValue></PAMRasterBand></PAMDataset>"
    )
    write(tmp_path / "scene.tif.msk", np.zeros((1, 130, 170), np.uint8), crs=None)
    with open_source(path) as source:
        assert source.info.nodata is None
        assert not source.info.has_valid


@pytest.mark.parametrize("name", ["scene.vrt", "scene.tif"])
def test_a_vrt_is_refused_whatever_its_name(tmp_path: Path, name: str) -> None:
    hidden = write(tmp_path / "hidden.tif", bands_of(1))
    vrt = tmp_path / name
    vrt.write_text(
        f'<VRTDataset rasterXSize="170" rasterYSize="130"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f"<SourceFilename>{hidden}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(SourceError, match="GDAL VRT is not a format"):
        open_source(str(vrt))


def test_it_has_no_parts(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="leave out '::2'"):
        open_source(f"{write(tmp_path / 'scene.tif', bands_of(1))}::2")


def test_limits(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", bands_of(3), compress="deflate", blockysize=130)
    with pytest.raises(SourceError, match="max_px = 100"):
        open_source(path, Opening(limits=Limits(max_px=100)))
    with pytest.raises(SourceError, match="max_tile_bytes = 1000"):
        open_source(path, Opening(limits=Limits(max_tile_bytes=1000)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("codec", ["JP2", "J2K"])
def test_jpeg2000(tmp_path: Path, assert_reads: Any, dtype: str, codec: str) -> None:
    bands = bands_of(3, dtype)
    with open_source(write_jp2(tmp_path / "scene.jp2", bands, CODEC=codec)) as source:
        info = source.info
        assert_reads(source, bands)
        assert_levels(source, tmp_path / "scene.jp2")
    assert (info.reader, info.details["kind"], info.nodata) == ("jpeg2000", "JPEG 2000", None)
    assert (info.georef is None) == (codec == "J2K")  # a bare codestream has no boxes to hold it
    if info.georef is not None:
        assert info.georef.epsg == 32631
        assert info.georef.transform == (10.0, 0.0, 500000.0, 0.0, -10.0, 4600000.0)


def test_a_world_file_beside_a_jpeg2000_is_not_read(tmp_path: Path) -> None:
    path = write_jp2(tmp_path / "scene.jp2", bands_of(1), crs=None, transform=None)
    for suffix in ("j2w", "wld"):
        (tmp_path / f"scene.{suffix}").write_text("5\n0\n0\n-5\n1\n2\n")
    with open_source(path) as source:
        assert source.info.georef is None


def test_a_remote_jpeg2000(tmp_path: Path, assert_reads: Any) -> None:
    bands = bands_of(1)
    path = Path(write_jp2(tmp_path / "scene.jp2", bands))
    fsspec.filesystem("memory").pipe("/scenes/scene.jp2", path.read_bytes())
    with open_source("memory://scenes/scene.jp2") as source:
        assert_reads(source, bands)
        assert_levels(source, path)


def siz_of(path: str) -> tuple[bytes, int]:
    data = Path(path).read_bytes()
    return data, data.index(b"\xff\x4f\xff\x51") + 8


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (0, 2**31, "max_px"),
        (36 - 4, 2**14 << 16, "over the limit max_channels"),
        (16, 2**31, "a tile of"),
        (16, 1, "tiles of 1 components"),
        (16, 0, "describes no image"),
        (8, 2**31, "describes no image"),
    ],
)
def test_hostile_sizes_of_jpeg2000_are_refused_before_gdal_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, value: int, said: str
) -> None:
    data, siz = siz_of(write_jp2(tmp_path / "scene.jp2", RNG.integers(1, 9, (1, 700, 900)).astype("uint8")))
    changed = bytearray(data)
    changed[siz + at : siz + at + 4] = value.to_bytes(4, "big")
    if said == "max_px":
        changed[siz + 4 : siz + 8] = value.to_bytes(4, "big")
    if said == "tiles of 1 components":
        changed[siz + 20 : siz + 24] = value.to_bytes(4, "big")
    path = tmp_path / "hostile.jp2"
    path.write_bytes(changed)
    monkeypatch.setattr(rasterio, "open", None)
    with pytest.raises(SourceError, match=said):
        open_source(str(path), Opening(limits=Limits(max_whole_px=50_000 if said == "a tile of" else 2**28)))


def test_a_tile_of_jpeg2000_counts_with_all_its_components() -> None:
    def header(num_components: int) -> Jpeg2000Header:
        return Jpeg2000Header(num_components, 1000, 1000, 1000, 1000, 1)

    check_tiles("a.jp2", header(4), Limits(max_whole_px=1_000_000))
    with pytest.raises(SourceError, match=r"1000 x 1000 px, 5 components, is over the limit max_whole_px"):
        check_tiles("a.jp2", header(5), Limits(max_whole_px=1_000_000))


@pytest.mark.parametrize("length", [12, 60, 500])
def test_a_jpeg2000_that_is_cut_off(tmp_path: Path, length: int) -> None:
    path = write_jp2(tmp_path / "scene.jp2", bands_of(1))
    Path(path).write_bytes(Path(path).read_bytes()[:length])
    with pytest.raises(SourceError, match=r"damaged|cut off"):
        open_source(path)


def test_metadata_boxes_of_jpeg2000_have_a_limit(tmp_path: Path) -> None:
    path = write_jp2(tmp_path / "scene.jp2", bands_of(1))
    with pytest.raises(SourceError, match="max_metadata_bytes = 100"):
        open_source(path, Opening(limits=Limits(max_metadata_bytes=100)))


@quiet
def assert_levels(source: Any, path: Path) -> None:
    """Every level is rasterio's overview, window by window."""
    assert len(source.info.levels) > 1
    for level in range(1, len(source.info.levels)):
        with rasterio.open(path, overview_level=level - 1) as dataset:
            pixels = dataset.read()
        assert source.shape(level) == pixels.shape
        for window in (Window.whole(pixels.shape), Window((0, 3, 5), (1, 11, 13))):
            np.testing.assert_array_equal(source.read(window, level), pixels[window.slices])


def test_levels_are_the_overviews(tmp_path: Path, data_dir: Path) -> None:
    path = write(tmp_path / "scene.tif", bands_of(3), overviews=[2, 4], tiled=True, blockxsize=64, blockysize=64)
    with open_source(path) as source:
        assert source.info.levels == ((130, 170), (65, 85), (33, 43))
        assert_levels(source, Path(path))
    with open_source(write(tmp_path / "one.tif", bands_of(1))) as source:
        assert source.info.levels == ()
    with open_source(str(data_dir / "geotiff/scale/cog_world_36000x18000.tif")) as source:
        assert source.info.levels[-1] == (282, 563)
        assert len(source.info.levels) == 7


@pytest.mark.parametrize(
    ("found", "is_one"),
    [
        ((50, 85), True),
        ((51, 86), False),
        ((100, 170), False),
        ((200, 340), False),
        ((50, 40), False),
        ((34, 57), True),
        ((33, 56), True),
        ((1, 1), True),
    ],
)
def test_a_level_is_the_whole_image_in_a_whole_fraction(found: tuple[int, int], is_one: bool) -> None:
    assert is_level((100, 170), (100, 170), found) is is_one


def test_names_scales_and_offsets(tmp_path: Path) -> None:
    told = {"descriptions": ("B02", "B03"), "scales": (0.0001, 0.0001), "offsets": (-0.1, 0.0)}
    bands = bands_of(2)
    with open_source(write(tmp_path / "scene.tif", bands, told=told)) as source:
        assert source.info.channels == ("B02", "B03")
        assert source.info.details["scales"] == [0.0001, 0.0001]
        assert source.info.details["offsets"] == [-0.1, 0.0]
        np.testing.assert_array_equal(source.read(Window.whole(bands.shape)), bands)  # as stored
    with open_source(write(tmp_path / "plain.tif", bands)) as source:
        assert "scales" not in source.info.details


@pytest.mark.parametrize("dtype", ["int8", "uint32", "int32", "float64"])
def test_further_types(tmp_path: Path, assert_reads: Any, dtype: str) -> None:
    bands = bands_of(2, "uint8").astype(dtype)
    with open_source(write(tmp_path / "scene.tif", bands)) as source:
        assert_reads(source, bands)


@pytest.mark.parametrize(
    ("dtype", "said"),
    [("complex64", r"complex pixels \(complex64\)"), ("complex_int16", "complex_int16"), ("int64", "type int64")],
)
def test_types_that_are_refused(tmp_path: Path, dtype: str, said: str) -> None:
    path = tmp_path / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=4, width=4, dtype=dtype, crs="EPSG:32631",
        transform=from_origin(0, 0, 2, 2),
    ):  # fmt: skip
        pass
    with pytest.raises(SourceError, match=said):
        open_source(str(path))


def test_a_crs_without_a_code_is_kept_whole(tmp_path: Path) -> None:
    crs = rasterio.CRS.from_proj4("+proj=laea +lat_0=12.3 +lon_0=45.6 +x_0=7 +y_0=8 +ellps=GRS80 +units=m")
    with open_source(write(tmp_path / "scene.tif", bands_of(1), crs=crs)) as source:
        assert source.info.georef is not None
        assert source.info.georef.epsg is None
        assert rasterio.CRS.from_wkt(source.info.georef.crs_wkt) == crs


def test_alpha_beside_nodata_counts(tmp_path: Path) -> None:
    bands = bands_of(4, "uint8")
    bands[3] = RNG.choice([0, 255], size=bands[3].shape)
    with open_source(write(tmp_path / "alpha.tif", bands, alpha=True, nodata=0)) as source:
        window = Window((20, 30), (50, 60))
        assert source.info.has_valid
        np.testing.assert_array_equal(source.read_valid(window), bands[3][window.slices] > 0)


def test_a_palette_is_a_legend(tmp_path: Path, assert_reads: Any) -> None:
    ids = RNG.integers(0, 3, (1, 40, 50)).astype(np.uint8)
    path = write(tmp_path / "classes.tif", ids, photometric="palette")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (0, 0, 0), 1: (10, 20, 30), 2: (255, 0, 0)})
    with open_source(path, Opening(indexed=True)) as source:
        assert_reads(source, ids)
        assert source.info.details["palette"][:3] == [[0, 0, 0], [10, 20, 30], [255, 0, 0]]


def points_of(height: int, width: int) -> list[GroundControlPoint]:
    """A grid of points that turns and shears the image a little."""
    places = [(row, col) for row in (0, height / 2, height) for col in (0, width / 2, width)]
    return [GroundControlPoint(r, c, x=5e5 + 10 * c + 2 * r, y=4e6 - 10 * r + c) for r, c in places]


@quiet
def write_with_points(path: Path, bands: Any, crs: str | None = "EPSG:32631", **options: Any) -> str:
    write(path, bands, crs=None, transform=None, **options)
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = (points_of(*bands.shape[1:]), rasterio.CRS.from_string(crs) if crs else rasterio.CRS())
    return str(path)


def test_points_alone_need_warp(tmp_path: Path) -> None:
    path = write_with_points(tmp_path / "points.tif", bands_of(1))
    with pytest.raises(SourceError, match=r"9 ground-control points place it.*give --warp"):
        open_source(path)
    nowhere = write_with_points(tmp_path / "nowhere.tif", bands_of(1), crs=None)
    with pytest.raises(SourceError, match="have no CRS"):
        open_source(nowhere, Opening(warp=True))


def test_polynomials_alone_are_refused(tmp_path: Path) -> None:
    terms = [1.0] + [0.0] * 19
    rpc = RPC(
        height_off=0, height_scale=500, lat_off=45, lat_scale=0.1, line_off=65, line_scale=65, long_off=5,
        long_scale=0.1, samp_off=85, samp_scale=85, line_num_coeff=[0, 0, 1.0] + [0.0] * 17, line_den_coeff=terms,
        samp_num_coeff=[0, 1.0] + [0.0] * 18, samp_den_coeff=terms,
    )  # fmt: skip
    path = write(tmp_path / "rpc.tif", bands_of(1), crs=None, transform=None, told={"rpcs": rpc})
    for warp in (False, True):
        with pytest.raises(SourceError, match="orthorectify it first"):
            open_source(path, Opening(warp=warp))


@pytest.mark.parametrize(
    ("dtype", "nodata", "indexed"),
    [
        ("uint16", None, False),
        ("int16", -99, False),
        ("int8", -1, False),
        ("float32", float("nan"), False),
        ("uint8", None, True),
    ],
)
def test_points_are_warped_to_their_own_crs(
    tmp_path: Path, assert_reads: Any, dtype: str, nodata: float | None, indexed: bool
) -> None:
    bands = RNG.integers(1, 100, (2, 700, 600)).astype(dtype)
    if nodata is not None:
        bands[0, 100:300, 100:300] = nodata
        bands[:, 400:500, 200:300] = nodata
    path = write_with_points(tmp_path / "points.tif", bands, nodata=nodata)
    with open_source(path, Opening(warp=True, indexed=indexed)) as source:
        info = source.info
        pixels, valid = source.read(Window.whole(info.shape)), source.read_valid(Window.whole(info.shape[1:]))
        assert_reads(source, pixels, valid)
    assert (info.has_valid, info.levels, info.dtype) == (True, (), dtype)
    assert info.georef is not None
    assert info.georef.epsg == 32631
    assert info.georef.transform[1] == info.georef.transform[3] == 0
    # The same warp in one go.
    expected = np.full(pixels.shape, 0 if nodata is None else nodata, bands.dtype)
    reproject(
        bands, expected, gcps=points_of(700, 600), src_crs="EPSG:32631", dst_crs="EPSG:32631",
        dst_transform=Affine(*info.georef.transform), src_nodata=nodata, dst_nodata=nodata, init_dest_nodata=True,
        resampling=Resampling.nearest if indexed else Resampling.bilinear, tolerance=0,
        XSCALE="1", YSCALE="1",
    )  # fmt: skip
    np.testing.assert_allclose(pixels[:, valid], expected[:, valid], atol=0 if indexed else 1)
    assert 0.6 < valid.mean() < 0.95
    outside = pixels[:, ~valid]
    assert np.isnan(outside).all() if nodata != nodata else (outside == (nodata or 0)).all()


def test_alpha_is_warped_with_the_pixels(tmp_path: Path, assert_reads: Any) -> None:
    bands = RNG.integers(1, 99, (4, 700, 600)).astype("uint8")
    bands[3] = 255
    bands[3, 200:400, 200:400] = 0
    path = write_with_points(tmp_path / "points.tif", bands, alpha=True)
    with open_source(path, Opening(warp=True)) as source:
        info = source.info
        pixels, valid = source.read(Window.whole(info.shape)), source.read_valid(Window.whole(info.shape[1:]))
        assert_reads(source, pixels, valid)
        assert info.georef is not None
        (a, _, c, _, e, f) = info.georef.transform
    assert info.channels == ("red", "green", "blue")

    def at(row: float, column: float) -> bool:
        """Is the place of a stored pixel usable?"""
        x, y = 5e5 + 10 * column + 2 * row, 4e6 - 10 * row + column
        return bool(valid[int((y - f) / e), int((x - c) / a)])

    assert not at(300, 300)
    assert not at(220, 380)
    assert at(190, 300)
    assert at(300, 410)
