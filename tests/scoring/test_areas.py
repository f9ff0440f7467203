"""Pixel areas against closed forms."""

import math

import pytest
from rasterio.crs import CRS

from segcore.scoring.areas import pixel_size
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
