"""Series: slices in any order become the volume that was cut, or the error that says where it is broken."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segcore.errors import SourceError
from segcore.sources.dicom_series import Slice, series_name, stacked

RNG = np.random.default_rng(12)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def volume(count: int = 9, step: Any = (0.0, 0.0, 2.0), first: Any = (-10.0, 20.0, 30.0), **fields: Any) -> list[Slice]:
    given: dict[str, Any] = {"size": (8, 7, 1), "orientation": AXIAL, "spacing": (0.5, 0.25)} | fields
    return [Slice(file=f"s{i}", position=tuple(np.array(first) + i * np.array(step)), **given) for i in range(count)]


def shuffled(slices: list[Slice]) -> list[Slice]:
    return [slices[i] for i in RNG.permutation(len(slices))]


@pytest.mark.parametrize("up", [1, -1])
def test_slices_lie_along_the_normal_whatever_their_names(up: int) -> None:
    stack = stacked("folder", shuffled(volume(step=(0, 0, 2.0 * up))))
    numbers = list(range(9))[::up]
    assert [found.file for found in stack.slices] == [f"s{i}" for i in numbers]
    assert stack.axis == "z"
    assert stack.notes == ()
    bottom = 30.0 if up > 0 else 14.0
    # LPS to RAS: x and y change their sign.
    assert stack.matrix is not None
    np.testing.assert_allclose(
        stack.matrix, [[-0.25, 0, 0, 10], [0, -0.5, 0, -20], [0, 0, 2, bottom], [0, 0, 0, 1]], atol=1e-9
    )


def test_an_oblique_volume_keeps_its_geometry() -> None:
    turn, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    slices = volume(step=turn[:, 2] * 1.5, orientation=(*turn[:, 0], *turn[:, 1]))
    stack = stacked("folder", shuffled(slices))
    assert stack.matrix is not None
    place = stack.matrix @ [4, 3, 5, 1]
    expected = np.array([-10, 20, 30]) + 4 * 0.25 * turn[:, 0] + 3 * 0.5 * turn[:, 1] + 5 * 1.5 * turn[:, 2]
    np.testing.assert_allclose(place[:3], expected * [-1, -1, 1])


def test_positions_that_were_rounded_are_even_enough() -> None:
    slices = [
        replace(found, position=tuple(round(v, 1) for v in found.position or ()))
        for found in volume(200, (0, 0, 0.625), (0.0, 0.0, 0.0))
    ]
    stack = stacked("folder", slices)
    assert stack.matrix is not None
    assert stack.matrix[2, 2] == pytest.approx(0.625, abs=1e-3)
    assert "mm beside an even stack" in stack.notes[0]


@pytest.mark.parametrize("gone", range(1, 8))
def test_a_missing_slice_is_found_where_it_is(gone: int) -> None:
    slices = volume()
    del slices[gone]
    with pytest.raises(SourceError, match=rf"from s{gone - 1} to s{gone + 1} it is 4 mm, .* 2 mm; .*\(about 1\)"):
        stacked("folder", shuffled(slices))


def test_one_slice_missing_among_many_is_found() -> None:
    slices = volume(400)
    del slices[398]
    with pytest.raises(SourceError, match="from s397 to s399"):
        stacked("folder", shuffled(slices))


def test_a_place_that_is_there_twice_is_named() -> None:
    slices = volume()
    slices.append(replace(slices[4], file="again"))
    with pytest.raises(SourceError, match=r"(s4 and again|again and s4) lie at the same place"):
        stacked("folder", shuffled(slices))
    with pytest.raises(SourceError, match="lie at the same place"):
        stacked("folder", volume(step=(0, 0, 0)))


def test_a_slice_beside_the_others_is_named() -> None:
    slices = volume()
    slices[4] = replace(slices[4], position=(-9.0, 20.0, 38.0))
    with pytest.raises(SourceError, match="s4 lies 1 mm beside its place"):
        stacked("folder", slices)


def test_steps_that_grow_are_refused() -> None:
    slices = [replace(found, position=(0.0, 0.0, 1.05**i)) for i, found in enumerate(volume(30))]
    with pytest.raises(SourceError, match=r"from s28 to s29 it is 0.196 mm, between the others 0.09"):
        stacked("folder", slices)


def test_a_tilted_gantry_gives_a_sheared_affine_and_a_note() -> None:
    stack = stacked("folder", volume(step=(0.0, 0.5, 2.0)))
    assert "tilted" in stack.notes[0]
    assert "14.0 degrees" in stack.notes[0]
    assert stack.matrix is not None
    np.testing.assert_allclose(stack.matrix[:3, 2], [0, -0.5, 2])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": (8, 9, 1)}, "s0 and s3, of one series, differ in rows x columns x samples: 8 x 7 x 1 and 8 x 9 x 1"),
        ({"orientation": (1.0, 0, 0, 0, 0, 1.0)}, "s0 and s3, of one series, differ in ImageOrientationPatient"),
        ({"spacing": (0.5, 0.3)}, r"differ in PixelSpacing: \(0.5, 0.25\) and \(0.5, 0.3\)"),
        ({"position": None}, "s3 has no ImagePositionPatient"),
    ],
)
def test_slices_that_are_no_planes_of_one_array_are_named(change: dict[str, Any], said: str) -> None:
    slices = volume()
    slices[3] = replace(slices[3], **change)
    with pytest.raises(SourceError, match=said):
        stacked("folder", slices)


def test_frames_without_a_place_stay_in_order_files_are_refused() -> None:
    frames = [Slice(file="a", size=(8, 7, 1), frame=i) for i in range(5)]
    stack = stacked("a", frames)
    assert (stack.slices, stack.matrix, stack.axis) == (tuple(frames), None, None)
    with pytest.raises(SourceError, match=r"a \(frame 1\) has no ImagePositionPatient .* give the files one by one"):
        stacked("folder", [*frames, Slice(file="b", size=(8, 7, 1))])


def test_a_single_slice_has_its_place() -> None:
    stack = stacked("a", volume(1, thickness=3.0))
    assert stack.axis is None
    assert stack.matrix is not None
    np.testing.assert_allclose(stack.matrix, [[-0.25, 0, 0, 10], [0, -0.5, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])
    assert stacked("a", volume(1, spacing=None)).matrix is None


def test_names_do_not_show_the_uid() -> None:
    name = series_name("1.2.840.99", ())
    assert name == "series-67dbb0b7" or len(name) == 15
    assert name == "series-0a90ed7e"
    assert name != series_name("1.2.840.98", ())
    assert series_name("", ("CT", 1)) == series_name("", ("CT", 1)) != series_name("", ("CT", 2))


def test_frames_of_one_file_at_one_place_are_a_sequence() -> None:
    frames = [replace(found, file="a", frame=i) for i, found in enumerate(volume(5, step=(0, 0, 0)))]
    stack = stacked("folder", frames)
    assert (stack.axis, stack.matrix, list(stack.slices)) == ("t", None, frames)
    assert "one place" in stack.notes[0]
    with pytest.raises(SourceError, match="lie at the same place"):  # volumes one after the other stay refused
        stacked("folder", [*frames, replace(frames[0], position=(-10.0, 20.0, 32.0))])
