"""Resampled: against dense weight matrices, SciPy and GDAL; and every window against the whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.warp import Resampling, reproject
from scipy.ndimage import map_coordinates

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Joined, Limits, Opening, Source, SourceInfo, open_source, resampled
from segcore.sources.resampled import with_spacing
from segcore.spatial import Affine, Spacing, WantedSpacing


class ArraySource(Source):
    """An array as a source; it remembers which levels were read."""

    def __init__(self, *levels: Any, valid: Any = None, own: tuple[float, float] = (1.0, 1.0), **info: Any) -> None:
        self.uri, self._levels, self._valid, self.read_levels = "array", levels, valid, set[int]()
        shape = levels[0].shape
        axes = {3: ("c", "y", "x"), 4: ("c", "z", "y", "x")}[len(shape)]
        self.info = SourceInfo.model_validate(
            {
                "uri": "array",
                "reader": "array",
                "reader_version": "1",
                "axes": axes,
                "shape": shape,
                "dtype": levels[0].dtype.name,
                "channels": tuple(f"channel {i}" for i in range(shape[0])),
                "spacing": Spacing(values={"y": own[0], "x": own[1]}, unit="micrometer", origin="file"),
                "levels": [level.shape[-2:] for level in levels] if len(levels) > 1 else (),
                "has_valid": valid is not None,
                "num_bytes": 1,
                **info,
            }
        )

    def _read(self, window: Window) -> Any:
        return self._read_level(window, 0)

    def _read_level(self, window: Window, level: int) -> Any:
        self.read_levels.add(level)
        return self._levels[level][window.slices]

    def _read_valid(self, window: Window) -> Any:
        return self._valid[window.slices]

    def close(self) -> None:
        return


def at(source: Source, said: str) -> Source:
    return with_spacing(source, WantedSpacing.parse(said))


def whole(source: Source) -> Any:
    return source.read(Window.whole(source.info.shape))


def noise(*shape: int, dtype: str = "uint8", seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype(dtype) if dtype.startswith("f") else rng.integers(0, 120, shape).astype(dtype)


def overlaps(num_in: int, num_out: int, step: float) -> Any:
    """(output, input) share of each input pixel in each output pixel, one by one."""
    matrix = np.zeros((num_out, num_in))
    for i in range(num_out):
        for j in range(num_in):
            matrix[i, j] = max(0.0, min((i + 1) * step, j + 1) - max(i * step, j))
    return matrix / matrix.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("wanted", "shape"), [("2", (21, 30)), ("2.6", (16, 23)), ("1.3", (32, 46)), ("17", (2, 4))])
def test_coarser_is_the_average_over_the_area(wanted: str, shape: tuple[int, int]) -> None:
    pixels = noise(2, 41, 60)
    source = at(ArraySource(pixels), wanted)
    assert source.info.shape == (2, *shape)
    rows, columns = overlaps(41, shape[0], float(wanted)), overlaps(60, shape[1], float(wanted))
    expected = np.floor(rows @ pixels.astype(float) @ columns.T + 0.5)
    np.testing.assert_array_equal(whole(source), expected.astype(np.uint8))
    assert source.info.details["resampled"]["kernel"] == {"y": "area average", "x": "area average"}


def test_finer_is_bilinear_between_the_centres() -> None:
    pixels = noise(1, 20, 31, dtype="float32")
    source = at(ArraySource(pixels), "0.37")
    height, width = source.info.shape[1:]
    assert (height, width) == (54, 84)
    centres = np.meshgrid((np.arange(height) + 0.5) * 0.37 - 0.5, (np.arange(width) + 0.5) * 0.37 - 0.5, indexing="ij")
    expected = map_coordinates(pixels[0].astype(float), centres, order=1, mode="nearest")
    np.testing.assert_allclose(whole(source)[0], expected, rtol=1e-6, atol=1e-7)
    assert source.info.details["resampled"]["kernel"] == {"y": "bilinear", "x": "bilinear"}


def test_each_axis_by_its_own_factor() -> None:
    pixels = noise(1, 40, 40)
    source = at(ArraySource(pixels, own=(0.25, 0.5)), "0.5um")
    assert source.info.shape == (1, 20, 40)
    expected = np.floor(pixels.reshape(1, 20, 2, 40).mean(axis=2) + 0.5)
    np.testing.assert_array_equal(whole(source), expected)
    assert source.info.spacing == Spacing(
        values={"y": 0.5, "x": 0.5}, unit="micrometer", origin="resampled from 0.25 x 0.5 micrometer (y x x)"
    )


CASES = [
    ("1.7", "uint8", None, False),
    ("3", "uint16", 7, False),
    ("2.3", "float32", -9999.0, False),
    ("0.6", "int16", 5, True),
    ("4.1", "uint8", None, True),
]


@pytest.mark.parametrize(("wanted", "dtype", "nodata", "has_valid"), CASES)
@pytest.mark.parametrize("block", [2**23, 500])
def test_a_window_is_that_window_of_the_whole(
    wanted: str, dtype: str, nodata: float | None, has_valid: bool, block: int,
    assert_reads: Any, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pixels = noise(3, 70, 90, dtype=dtype)
    if nodata is not None:
        pixels[:, 20:40, 30:55] = nodata
    valid = noise(70, 90, seed=1) > 60 if has_valid else None
    source = at(ArraySource(pixels, valid=valid, nodata=nodata), wanted)
    expected = whole(source)
    usable = source.read_valid(Window.whole(source.info.shape[1:])) if has_valid else None
    monkeypatch.setattr(resampled, "BLOCK_VALUES", block)
    assert_reads(source, expected, usable)


def test_a_volume_is_resampled_plane_by_plane(assert_reads: Any) -> None:
    pixels = noise(2, 5, 30, 40, dtype="int16")
    matrix = ((-0.5, 0.1, 0.0, 90.0), (0.0, 0.5, 0.0, -20.0), (0.2, 0.0, 3.0, 5.0), (0.0, 0.0, 0.0, 1.0))
    source = ArraySource(pixels, affine=Affine(matrix=matrix, orientation="LAS"))
    valid = noise(5, 30, 40, seed=2) > 50
    found = at(source, "2")
    np.testing.assert_array_equal(
        whole(found), np.floor(pixels.reshape(2, 5, 15, 2, 20, 2).mean(axis=(3, 5)) + 0.5).astype("int16")
    )
    # The centre of a voxel lies amid the centres of the four that it is made of.
    assert found.info.affine is not None
    assert found.info.affine.orientation == "LAS"
    corners = np.array([[x, y, 3, 1] for x in (8, 9) for y in (4, 5)])
    np.testing.assert_allclose(
        np.array(found.info.affine.matrix) @ [4, 2, 3, 1], (np.array(matrix) @ corners.T).mean(axis=1)
    )
    masked = at(ArraySource(pixels, valid=valid), "3")
    share = valid.reshape(5, 10, 3, 40)[..., :39].reshape(5, 10, 3, 13, 3).mean(axis=(2, 4))
    found_valid = masked.read_valid(Window.whole((5, 10, 13)))
    np.testing.assert_array_equal(found_valid, share >= 0.5)
    assert_reads(masked, whole(masked), found_valid)


def test_georeferenced_like_gdal(tmp_path: Path) -> None:
    pixels = noise(2, 50, 70, dtype="int16") + np.int16(1000)
    pixels[0, 10:30, 20:47] = -9999
    place = rasterio.Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 4000000.0)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=70, height=50, count=2, dtype="int16", nodata=-9999,
        crs="EPSG:32631", transform=place, tiled=True, blockxsize=32, blockysize=32,
    ) as dataset:  # fmt: skip
        dataset.write(pixels)
    with open_source(str(tmp_path / "a.tif"), Opening(spacing=WantedSpacing.parse("25m"))) as source:
        assert source.info.shape == (2, 20, 28)
        assert source.info.georef is not None
        assert source.info.georef.transform == (25.0, 0.0, 500000.0, 0.0, -25.0, 4000000.0)
        assert source.info.georef.epsg == 32631
        found = whole(source)
    expected = np.zeros((2, 20, 28), "int16")
    reproject(
        pixels, expected, src_transform=place, dst_transform=place @ rasterio.Affine.scale(2.5), src_crs="EPSG:32631",
        dst_crs="EPSG:32631", src_nodata=-9999, dst_nodata=-9999, resampling=Resampling.average,
    )  # fmt: skip
    share = overlaps(50, 20, 2.5) @ (pixels[0] != -9999) @ overlaps(70, 28, 2.5).T
    kept = np.stack([share > 0.5 - 1e-9, np.ones((20, 28), bool)])
    assert 0 < (~kept).sum() < 200
    np.testing.assert_array_equal(found, np.where(kept, expected, -9999))


def test_nodata_never_mixes_into_an_average() -> None:
    pixels = np.array([[[0, 0, 10, 0, 7, 9], [0, 40, 20, 0, 9, 0]]], dtype="uint8")
    np.testing.assert_array_equal(whole(at(ArraySource(pixels, nodata=0), "2")), [[[0, 15, 8]]])
    mixed = np.array([[[-3, 3], [-3, 3]], [[0, 0], [0, 5]]], dtype="int8")
    found = whole(at(ArraySource(mixed, nodata=0), "2"))
    np.testing.assert_array_equal(found, [[[1]], [[0]]], "an average that happens to be nodata is moved off it")
    floats = np.array([[[np.nan, 2.0, np.nan, np.nan], [3.0, 4.0, 1.0, np.inf]]], dtype="float32")
    np.testing.assert_array_equal(whole(at(ArraySource(floats), "2")), np.array([[[3.0, np.nan]]], "float32"))
    too_large = noise(1, 4, 4)
    np.testing.assert_array_equal(
        whole(at(ArraySource(too_large, nodata=-9999), "2")), whole(at(ArraySource(too_large), "2"))
    )


def test_what_is_not_usable_never_mixes_into_an_average(tmp_path: Path) -> None:
    pixels = np.array([[[200, 0], [100, 0]], [[90, 0], [90, 0]]], dtype="uint8")[..., None].repeat(3, axis=-1)
    alpha = np.array([[[255, 0], [255, 0]], [[255, 0], [0, 0]]], dtype="uint8")[..., None]
    for case, (color, valid) in enumerate(((150, True), (0, False))):
        rgba = np.concatenate([pixels[case], alpha[case]], axis=-1)
        path = tmp_path / f"{case}.tif"
        options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "resolution": (20000, 20000)}
        tifffile.imwrite(path, rgba, resolutionunit="centimeter", **options)  # type: ignore[arg-type]
        with open_source(str(path), Opening(spacing=WantedSpacing.parse("1um"))) as source:
            np.testing.assert_array_equal(whole(source), np.full((3, 1, 1), color))
            np.testing.assert_array_equal(source.read_valid(Window.whole((1, 1))), [[valid]])


@pytest.mark.parametrize(
    ("wanted", "level", "shape"), [("0.5", 0, (206, 166)), ("3.9", 0, (26, 21)), ("4", 1, (26, 21)), ("12", 2, (9, 7))]
)
def test_the_coarsest_level_that_is_fine_enough_is_read(wanted: str, level: int, shape: tuple[int, int]) -> None:
    levels = noise(1, 103, 83), noise(1, 26, 20, seed=1), noise(1, 13, 11, seed=2)
    source = ArraySource(*levels)
    found = at(source, wanted)
    pixels = whole(found)
    assert source.read_levels == {level}
    assert (found.info.shape[1:], found.info.levels) == (shape, ())
    assert found.info.details["resampled"]["level"] == level
    if wanted == "4":
        # Level 1 has lost a piece of a pixel on the right: there its last column stands twice.
        np.testing.assert_array_equal(pixels, np.concatenate([levels[1], levels[1][..., -1:]], axis=-1))
    masked = ArraySource(*levels, valid=np.ones((103, 83), bool))
    whole(at(masked, wanted))
    assert masked.read_levels == {0}, "its coarser levels do not say what is usable"


def test_a_constant_stays_what_it_is() -> None:
    for wanted in ("1.37", "0.61", "7.3"):
        assert (whole(at(ArraySource(np.full((1, 50, 60), 255, "uint8")), wanted)) == 255).all()
        assert (whole(at(ArraySource(np.full((1, 50, 60), 0.1, "float32")), wanted)) == np.float32(0.1)).all()


def test_a_source_of_that_spacing_is_given_as_it_is() -> None:
    source = ArraySource(noise(1, 9, 9), own=(0.499, 0.5))
    assert at(source, "0.5um") is source
    assert at(source, "500nm") is source
    assert at(source, "0.0005mm") is source
    assert at(source, "0.6") is not source


def test_a_source_without_spacing_takes_it_as_its_own(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(8, 9))
    for said, unit in (("2", "micrometer"), ("2mm", "millimeter"), ("2deg", "degree")):
        with open_source(str(tmp_path / "a.tif"), Opening(spacing=WantedSpacing.parse(said))) as source:
            assert source.info.spacing == Spacing(values={"y": 2.0, "x": 2.0}, unit=unit, origin="user")
            np.testing.assert_array_equal(whole(source)[0], noise(8, 9))


def test_masks_are_never_averaged(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(8, 9), resolution=(20000, 20000), resolutionunit="centimeter")
    asked = Opening(spacing=WantedSpacing.parse("1um"))
    with open_source(str(tmp_path / "a.tif"), asked) as source:
        assert source.info.shape == (1, 4, 5)
    with open_source(str(tmp_path / "a.tif"), asked.model_copy(update={"indexed": True})) as source:
        np.testing.assert_array_equal(whole(source)[0], noise(8, 9))


def test_what_cannot_be_is_said_in_one_line() -> None:
    degrees = ArraySource(noise(1, 9, 9), spacing=Spacing(values={"y": 1e-4, "x": 1e-4}, unit="degree", origin="file"))
    with pytest.raises(
        SourceError, match=r"measured in degree, the wanted spacing of 10 in meter.*give --spacing in degree"
    ):
        at(degrees, "10m")
    assert at(degrees, "0.0002").info.shape == (1, 5, 5)
    with pytest.raises(SourceError, match=r"1000 times its own of 1 micrometer; expected at most 512"):
        at(ArraySource(noise(1, 9, 9)), "1mm")
    with pytest.raises(
        SourceError, match=r"to 0.1 it would have 90 x 90 px \(y x x\), over the limit max_px = 1000; give a coarser"
    ):
        with_spacing(ArraySource(noise(1, 9, 9)), WantedSpacing.parse("0.1"), Limits(max_px=1000))


@pytest.mark.parametrize("wanted", ["20 m", "7 m", "25 m"])
def test_classes_with_a_colour_table_are_never_averaged(tmp_path: Path, wanted: str, assert_reads: Any) -> None:
    classes = np.random.default_rng(3).choice(np.array([1, 7], "uint8"), (1, 41, 40))
    profile = {"driver": "GTiff", "width": 40, "height": 41, "count": 1, "dtype": "uint8", "crs": "EPSG:32631"}
    grid = rasterio.transform.from_origin(500000, 4600000, 10, 10)
    for name in ("classes.tif", "values.tif"):
        with rasterio.open(tmp_path / name, "w", transform=grid, **profile) as dataset:
            dataset.write(classes)
            if name == "classes.tif":
                dataset.write_colormap(1, {1: (255, 0, 0, 255), 7: (0, 255, 0, 255)})
    names = [str(tmp_path / name) for name in ("values.tif", "classes.tif")]
    step = float(wanted.split()[0]) / 10
    centres = [np.floor((np.arange(int(n / step + 0.5)) + 0.5) * step).astype(int) for n in (41, 40)]
    expected = classes[:, np.minimum(centres[0], 40)[:, None], np.minimum(centres[1], 39)]
    opening = Opening(spacing=WantedSpacing.parse(wanted))
    with open_source(names[1], opening) as source:
        assert_reads(source, expected)
        assert source.info.details["resampled"]["nearest"] == [0]
    stack = Joined(uri="stack", how="stack", parts=(names[0], names[1]))
    with open_source(stack, opening) as source, open_source(names[0], opening) as values:
        np.testing.assert_array_equal(whole(source), np.concatenate([whole(values), expected]))
        np.testing.assert_array_equal(source.read(Window((1, 3, 4), (1, 5, 6))), expected[:, 3:8, 4:10])
