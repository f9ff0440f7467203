"""Totals of several images: sums of all of them, or none."""

import pytest

from segcore.measurements.totals import Totals, totals_of


def of(**row: float) -> Totals:
    return {"cell": row}


UM = of(objects=2, area_px=101, area_um2=25.25)
METRES = of(objects=1, area_px=10, area_m2=40.0, area_ha=0.004)
UNKNOWN = of(objects=3, area_px=30)


def test_a_unit_that_images_with_objects_do_not_have_is_left_out() -> None:
    assert totals_of([UM, UM]) == of(objects=4, area_px=202, area_um2=50.5)
    assert totals_of([UM, METRES, UNKNOWN]) == of(objects=6, area_px=141)
    assert totals_of([UM, UNKNOWN]) == of(objects=5, area_px=131)
    assert totals_of([UM, of(objects=1, volume_px=7, volume_mm3=1.0)]) == of(objects=3, area_px=101, volume_px=7)


def test_an_image_without_objects_of_a_class_takes_no_unit_away() -> None:
    none = of(objects=0, area_px=0)
    assert totals_of([none, UM, none]) == UM
    assert totals_of([none, none]) == none
    assert totals_of([UM, of(objects=0, area_px=0, area_m2=0.0, area_ha=0.0)]) == UM
    assert totals_of([]) == {}


def test_each_class_has_the_units_of_its_own_images() -> None:
    other = {"nucleus": METRES["cell"]}
    assert totals_of([UM, other]) == {**UM, **other}


def test_confidence_is_the_mean_over_pixels_that_have_one() -> None:
    rows = [of(objects=1, area_px=30, confidence=0.5), of(objects=1, area_px=10, confidence=0.9), UNKNOWN]
    assert totals_of(rows)["cell"]["confidence"] == pytest.approx(0.6)
