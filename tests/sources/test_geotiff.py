"""GeoTIFF: pixels, geometry and validity against rasterio, and nothing beside the file is ever opened."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.transform import Affine, from_origin

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Limits, Opening, open_source

RNG = np.random.default_rng(3)


def write(path: Path, bands: Any, **options: Any) -> str:
    profile = {"crs": "EPSG:32631", "transform": from_origin(500000, 4600000, 10, 10)} | options
    alpha, mask = profile.pop("alpha", False), profile.pop("mask", None)
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype, **profile
    ) as dataset:
        dataset.write(bands)
        if alpha:
            dataset.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        if mask is not None:
            dataset.write_mask(mask)
    return str(path)


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


def test_limits(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", bands_of(3), compress="deflate", blockysize=130)
    with pytest.raises(SourceError, match="max_px = 100"):
        open_source(path, Opening(limits=Limits(max_px=100)))
    with pytest.raises(SourceError, match="max_tile_bytes = 1000"):
        open_source(path, Opening(limits=Limits(max_tile_bytes=1000)))
