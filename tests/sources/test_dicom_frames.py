"""Frames: what is said per frame, for all frames or for the file, in that order; headers here are plain mappings."""

from typing import Any

import numpy as np
import pytest

from segcore.errors import SourceError
from segcore.sources.dicom_frames import frame_axis, is_at_detector, slices_of

SIZE = (8, 6, 1)
AXIAL = [1, 0, 0, 0, 1, 0]


def group(**sequences: dict[str, Any]) -> dict[str, Any]:
    return {name: [item] for name, item in sequences.items()}


def test_a_frames_own_values_come_first() -> None:
    header = {
        "NumberOfFrames": 2,
        "PixelSpacing": [9, 9],
        "RescaleSlope": "7",
        "SharedFunctionalGroupsSequence": [
            group(
                PixelMeasuresSequence={"PixelSpacing": [2, 3], "SliceThickness": "4"},
                PlaneOrientationSequence={"ImageOrientationPatient": AXIAL},
                PixelValueTransformationSequence={"RescaleSlope": "5", "RescaleIntercept": ""},
            )
        ],
        "PerFrameFunctionalGroupsSequence": [
            group(PlanePositionSequence={"ImagePositionPatient": [0, 0, 1]}),
            group(
                PlanePositionSequence={"ImagePositionPatient": [0, 0, 2]},
                PixelValueTransformationSequence={"RescaleSlope": "6", "RescaleIntercept": "-1"},
            ),
        ],
    }
    first, second = slices_of(header, "folder/file", SIZE)
    assert (first.slope, first.intercept, second.slope, second.intercept) == (5.0, 0.0, 6.0, -1.0)
    assert (first.position, second.position) == ((0, 0, 1), (0, 0, 2))
    assert (first.spacing, first.thickness, first.orientation) == ((2, 3), 4.0, tuple(AXIAL))
    assert (first.label, second.label) == ("file (frame 1)", "file (frame 2)")


def test_frames_are_not_placed_by_the_position_of_the_file() -> None:
    header = {"ImagePositionPatient": [1, 2, 3], "ImageOrientationPatient": AXIAL}
    (alone,) = slices_of(header, "folder/file", SIZE)
    assert (alone.position, alone.label) == ((1, 2, 3), "file")
    assert [found.position for found in slices_of(header | {"NumberOfFrames": 2}, "uri", SIZE)] == [None, None]


def test_a_dose_grid_counts_from_its_first_offset() -> None:
    header = {"ImagePositionPatient": [1, 2, 3], "ImageOrientationPatient": [0, 1, 0, 0, 0, 1], "NumberOfFrames": 3}
    found = slices_of(header | {"GridFrameOffsetVector": [5, 7, 9], "DoseGridScaling": "0.5"}, "uri", SIZE)
    assert [one.position for one in found] == [(1, 2, 3), (3, 2, 3), (5, 2, 3)]
    assert {one.slope for one in found} == {0.5}


@pytest.mark.parametrize("wrong", [[1, 0, 0], [1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 2, 0], [np.nan] * 6, "1", None])
def test_directions_that_are_none_are_not_used(wrong: Any) -> None:
    (found,) = slices_of({"ImageOrientationPatient": wrong}, "uri", SIZE)
    assert found.orientation is None


@pytest.mark.parametrize("wrong", [{"RescaleSlope": "0"}, {"RescaleSlope": "nan"}, {"RescaleIntercept": "inf"}])
def test_a_scaling_that_is_none_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(SourceError, match="uri: expected a finite slope other than 0"):
        slices_of(wrong, "uri", SIZE)


@pytest.mark.parametrize(
    ("header", "axis"),
    [
        ({"FrameIncrementPointer": 0x00181063, "Modality": "NM"}, "t"),
        ({"FrameIncrementPointer": [0x00181065]}, "t"),
        ({"FrameTime": "33"}, "t"),
        ({"Modality": "US"}, "t"),
        ({"FrameIncrementPointer": 0x00540080, "Modality": "NM"}, "z"),
        ({"Modality": "OT"}, "z"),
    ],
)
def test_frames_are_times_where_something_says_so(header: dict[str, Any], axis: str) -> None:
    assert frame_axis(header)[0] == axis


def test_whose_spacing_it_is() -> None:
    assert not is_at_detector({})
    assert not is_at_detector({"PixelSpacing": [1, 1], "ImagerPixelSpacing": [2, 2]})
    assert is_at_detector({"ImagerPixelSpacing": [2, 2]})
    assert slices_of({"ImagerPixelSpacing": [2, 1]}, "uri", SIZE)[0].spacing == (2, 1)
