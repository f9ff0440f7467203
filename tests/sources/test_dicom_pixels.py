"""DICOM values: the type that holds them all, and what they mean."""

import numpy as np
import pytest

from segcore.sources.dicom_pixels import Values, rescaled, result_dtype, values_of


@pytest.mark.parametrize(
    ("found", "dtype"),
    [
        ([values_of(12, False, 16, 1, 0)], "uint16"),
        ([values_of(16, True, 16, 1, 0)], "int16"),
        ([values_of(8, False, 8, 1, 0)], "uint8"),
        ([values_of(12, False, 16, 1, -1024)], "int16"),
        ([values_of(16, False, 16, 1, -1024)], "int32"),
        ([values_of(32, True, 32, 1, -1024)], "float32"),
        ([values_of(12, False, 16, 0.5, 0)], "float32"),
        ([values_of(12, False, 16, 1, 0), values_of(12, False, 16, 3, 0)], "int16"),
        ([values_of(12, False, 16, 1, 0), values_of(12, False, 16, 30, 0)], "int32"),
        ([values_of(16, False, 16, 1, 0), values_of(16, True, 16, 1, 0)], "int32"),
        ([Values("float32", 0, 0)], "float32"),
        ([Values("float64", 0, 0, 2.0)], "float32"),
    ],
)
def test_one_type_holds_all_slices(found: list[Values], dtype: str) -> None:
    assert result_dtype(found) == np.dtype(dtype)


def test_ends_of_the_range_are_those_of_the_bits() -> None:
    assert (values_of(12, False, 16, 1, 0).low, values_of(12, False, 16, 1, 0).high) == (0, 4095)
    assert (values_of(12, True, 16, 1, 0).low, values_of(12, True, 16, 1, 0).high) == (-2048, 2047)


def test_rescaling_is_exact() -> None:
    stored = np.arange(4096, dtype=np.uint16)
    whole = rescaled(stored, values_of(12, False, 16, 2, -1024), np.dtype("int16"), False)
    assert whole.dtype == np.int16
    np.testing.assert_array_equal(whole, np.arange(4096) * 2 - 1024)
    broken = rescaled(stored, values_of(12, False, 16, 0.1, -7.3), np.dtype("float32"), False)
    np.testing.assert_array_equal(broken, (np.arange(4096) * 0.1 - 7.3).astype(np.float32))


@pytest.mark.parametrize("is_signed", [False, True])
def test_inverting_stays_in_the_range_of_the_bits(is_signed: bool) -> None:
    values = values_of(12, is_signed, 16, 1, 0)
    stored = np.arange(values.low, values.high + 1).astype(values.dtype)
    np.testing.assert_array_equal(rescaled(stored, values, np.dtype(values.dtype), True), stored[::-1])
