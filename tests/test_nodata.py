"""Nodata: fitting, missing and kept off."""

import numpy as np
import pytest

from segcore.nodata import fitting_nodata, missing, off_nodata

LOWEST = float(np.finfo("float32").min)


@pytest.mark.parametrize(
    ("nodata", "dtype", "fitting"),
    [
        (-9999, "uint8", None),
        (-9999.0, "int16", -9999),
        (0.5, "int16", None),
        (float("nan"), "int16", None),
        (1e300, "float32", None),
        (-3.40282346638529e38, "float32", LOWEST),  # as GIS programs write the lowest value: rounded beyond it
        (0.1, "float32", float(np.float32(0.1))),
        (0.1, "float64", 0.1),
        (None, "float64", None),
    ],
)
def test_the_value_as_pixels_have_it(nodata: float | None, dtype: str, fitting: float | None) -> None:
    assert fitting_nodata(nodata, dtype) == fitting


def test_nan_stays() -> None:
    assert np.isnan(fitting_nodata(float("nan"), "float32") or 0)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("nodata", [0.0, 100.0])
def test_missing_and_kept_off(dtype: str, nodata: float) -> None:
    values = np.array([0, 1, 99, 100, 101], dtype)
    np.testing.assert_array_equal(missing(values, nodata), values == nodata)
    off = off_nodata(values, nodata)
    assert off.dtype == values.dtype
    assert not missing(off, nodata).any()
    np.testing.assert_array_equal(off[values != nodata], values[values != nodata])
    np.testing.assert_allclose(off.astype(float), values.astype(float), atol=1)


def test_what_is_not_finite_is_missing_whatever_nodata_is() -> None:
    values = np.array([0, np.nan, np.inf, -np.inf])
    for nodata in (None, np.nan, np.inf):
        assert missing(values, nodata).tolist() == [False, True, True, True]
        np.testing.assert_array_equal(off_nodata(values, nodata), values)
