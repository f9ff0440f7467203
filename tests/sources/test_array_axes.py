"""Array axes: the stated rule, what a user says, and every arrangement against a transpose written out."""

import numpy as np
import pytest

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Limits
from segcore.sources.array_axes import arrange, converted, guessed


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((40, 50), "yx"),
        ((40, 50, 3), "yxc"),
        ((3, 40, 50), "cyx"),
        ((9, 40, 50), "zyx"),
        ((9, 40, 50, 2), "zyxc"),
        ((2, 9, 40, 50), "czyx"),
        ((9, 2, 40, 50), "zcyx"),
        ((1, 3, 9, 40, 50), "tczyx"),
        ((1, 9, 40, 50, 3), "tzyxc"),
    ],
)
def test_the_guess_follows_the_rule(shape: tuple[int, ...], axes: str) -> None:
    assert guessed("a", shape) == axes


@pytest.mark.parametrize(
    ("stored", "shape", "axes"),
    [
        ("yx", (4, 5), "cyx"),
        ("yxc", (4, 5, 3), "cyx"),
        ("xyc", (5, 4, 3), "cyx"),
        ("zyx", (6, 4, 5), "czyx"),
        ("xyz", (5, 4, 6), "czyx"),
        ("zyxc", (6, 4, 5, 2), "czyx"),
        ("tyx", (6, 4, 5), "tcyx"),
        ("tyxc", (6, 4, 5, 3), "tcyx"),
        ("tczyx", (6, 3, 1, 4, 5), "tcyx"),
        ("tczyx", (1, 3, 6, 4, 5), "czyx"),
        ("tzyxc", (1, 6, 4, 5, 3), "czyx"),
    ],
)
def test_windows_are_those_of_the_whole_transposed(stored: str, shape: tuple[int, ...], axes: str) -> None:
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    found = arrange("a", shape, array.dtype, stored, None, Limits())
    assert "".join(found.axes) == axes
    absent = [axis for axis in "tczyx" if axis not in stored]
    full = np.einsum(f"{''.join(absent)}{stored}->tczyx", array.reshape((1,) * len(absent) + shape))
    expected = np.einsum(f"tczyx->{axes}{''.join(a for a in 'tczyx' if a not in axes)}", full).reshape(found.shape)
    rng = np.random.default_rng(3)
    for _ in range(10):
        start = tuple(int(rng.integers(0, n)) for n in found.shape)
        sides = tuple(int(rng.integers(1, n - a + 1)) for n, a in zip(found.shape, start, strict=True))
        window = Window(start, sides)
        read = found.arranged(array[found.slices(window)], window.shape)
        np.testing.assert_array_equal(read, expected[window.slices])


@pytest.mark.parametrize(
    ("shape", "given", "said"),
    [
        ((5,), None, "expected 2 to 5 dimensions"),
        ((), None, "one value"),
        ((9, 9, 9, 9), None, "nothing tells which axis"),
        ((9, 9), "zyx", r"axes 'zyx' \(given\) do not fit an array of 9 x 9"),
        ((9, 9, 9), "yyx", "do not fit"),
        ((9, 9, 9), "tcz", "do not fit"),
        ((5, 2, 6, 9, 9), None, "5 times of 6 planes"),
        ((0, 9), None, "has no pixels"),
        ((2**20, 2**20), None, "max_px"),
    ],
)
def test_what_is_no_image_is_refused(shape: tuple[int, ...], given: str | None, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        arrange("a", shape, np.dtype("uint8"), given, None, Limits())


def test_the_user_wins_over_the_file_and_the_file_over_the_guess() -> None:
    shape, dtype = (5, 40, 50), np.dtype("uint8")
    assert arrange("a", shape, dtype, "tyx", list("zyx"), Limits()).axes_from == "given"
    found = arrange("a", shape, dtype, None, list("tyx"), Limits())
    assert (found.axes_from, found.axes) == ("file", ("t", "c", "y", "x"))
    assert arrange("a", shape, dtype, None, None, Limits()).axes_from == "guessed"


@pytest.mark.parametrize(("stored", "read"), [("bool", "uint8"), ("float16", "float32"), (">i4", "int32")])
def test_types_that_the_store_lacks_are_widened(stored: str, read: str) -> None:
    array = np.array([[0, 1], [1, 0]], stored)
    assert converted("a", array).dtype == np.dtype(read)
    np.testing.assert_array_equal(converted("a", array), [[0, 1], [1, 0]])


@pytest.mark.parametrize(("stored", "read", "limit"), [("int64", "int32", 2**31), ("uint64", "uint32", 2**32)])
def test_64_bits_are_read_as_32_where_they_fit(stored: str, read: str, limit: int) -> None:
    array = np.array([[0, limit - 1]], stored)
    assert converted("a", array).dtype == np.dtype(read)
    np.testing.assert_array_equal(converted("a", array), array)
    with pytest.raises(SourceError, match=f"from 0 to {limit}"):
        converted("a", np.array([[0, limit]], stored))
