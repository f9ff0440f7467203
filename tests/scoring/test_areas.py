"""Pixel areas against closed forms."""

import math
import re

import pytest
from rasterio.crs import CRS

from segcore.scoring.areas import pixel_sides, pixel_size, unmeasured
from segcore.spatial import Georef, Spacing


def test_pixel_size_of_a_slide_is_in_um2_and_mm2() -> None:
    spacing = Spacing(values={"y": 0.5, "x": 0.25}, unit="micrometer", origin="file")
    assert pixel_size(("y", "x"), spacing, None) == pytest.approx({"um2": 0.125, "mm2": 0.125e-6})


def test_pixel_size_of_a_scene_is_in_m2_and_ha() -> None:
    georef = Georef(crs_wkt=None, epsg=26914, transform=(5, 0, 0, 0, -5, 0))
    assert pixel_size(("y", "x"), None, georef) == pytest.approx({"m2": 25.0, "ha": 0.0025})


def test_pixel_size_of_a_rotated_scene_in_survey_feet() -> None:
    cos, sin = math.cos(0.3), math.sin(0.3)
    georef = Georef(
        crs_wkt=CRS.from_epsg(2264).to_wkt(), epsg=2264, transform=(2 * cos, 2 * sin, 0, 2 * sin, -2 * cos, 0)
    )
    foot = 1200 / 3937
    assert pixel_size(("y", "x"), None, georef)["m2"] == pytest.approx(4 * foot**2)


def test_degrees_have_no_area() -> None:
    spacing = Spacing(values={"y": 0.1, "x": 0.1}, unit="degree", origin="file")
    georef = Georef(crs_wkt=CRS.from_epsg(4326).to_wkt(), epsg=4326, transform=(0.1, 0, 0, 0, -0.1, 0))
    assert pixel_size(("y", "x"), spacing, georef) == {}
    assert pixel_size(("y", "x"), None, None) == {}


def test_pixel_size_of_a_volume_is_in_ml_and_time_has_none() -> None:
    spacing = Spacing(values={"z": 5.0, "y": 0.8, "x": 0.5}, unit="millimeter", origin="file")
    assert pixel_size(("z", "y", "x"), spacing, None) == pytest.approx({"mm3": 2.0, "ml": 0.002})
    assert pixel_size(("t", "y", "x"), spacing, None) == {}


def test_pixel_sides_are_in_a_unit_near_the_files() -> None:
    slide = Spacing(values={"y": 0.5, "x": 250}, unit="nanometer", origin="file")
    assert pixel_sides(("y", "x"), slide, None) == (pytest.approx((0.0005, 0.25)), "um")
    volume = Spacing(values={"z": 5.0, "y": 0.8, "x": 0.5}, unit="millimeter", origin="file")
    assert pixel_sides(("z", "y", "x"), volume, None) == (pytest.approx((5.0, 0.8, 0.5)), "mm")
    film = Spacing(values={"y": 2.0, "x": 2.0}, unit="micrometer", origin="file")
    assert pixel_sides(("t", "y", "x"), film, None) == (pytest.approx((0.0, 2.0, 2.0)), "um")


def test_pixel_sides_of_a_rotated_scene_are_those_of_its_grid() -> None:
    cos, sin = math.cos(0.3), math.sin(0.3)
    georef = Georef(crs_wkt=None, epsg=26914, transform=(2 * cos, 3 * sin, 0, 2 * sin, -3 * cos, 0))
    degrees = Spacing(values={"y": 0.1, "x": 0.1}, unit="degree", origin="file")
    assert pixel_sides(("y", "x"), degrees, georef) == (pytest.approx((3.0, 2.0)), "m")


def test_pixel_sides_that_are_not_known_are_pixels() -> None:
    flat = Spacing(values={"y": 1.0, "x": 1.0}, unit="millimeter", origin="file")
    degrees = Spacing(values={"y": 0.1, "x": 0.1}, unit="degree", origin="file")
    assert pixel_sides(("z", "y", "x"), flat, None) == ((1.0, 1.0, 1.0), "px")
    assert pixel_sides(("y", "x"), degrees, None) == ((1.0, 1.0), "px")
    assert pixel_sides(("t", "y", "x"), None, None) == ((0.0, 1.0, 1.0), "px")


@pytest.mark.parametrize(
    ("spacing", "georef", "said"),
    [
        (None, None, "its pixel size is not known, .* or the pixel size to `segcore ingest --spacing`"),
        (Spacing(values={"y": 0.1, "x": 0.1}, unit="degree", origin="file"), None, "degrees, .* warp its file"),
        (None, Georef(crs_wkt=None, epsg=4326, transform=(0.1, 0, 0, 0, -0.1, 0)), "degrees, .* warp its file"),
        (None, Georef(crs_wkt="no CRS", epsg=None, transform=(1, 0, 0, 0, -1, 0)), "is not known"),
        (None, Georef(crs_wkt=None, epsg=None, transform=(1, 0, 0, 0, -1, 0)), "is not known"),
    ],
)
def test_what_is_advised_where_nothing_is_known_of_pixels_helps_there(
    spacing: Spacing | None, georef: Georef | None, said: str
) -> None:
    assert re.search(said, unmeasured(spacing, georef, "--open 3m", "--open 2px"))
