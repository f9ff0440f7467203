"""DICOM frames: where each plane of a file lies and how it is scaled, from its header; no pixel, no library.

A header is anything with `get(name)`: the elements of a file, or of an item of a sequence. Enhanced files say these
things per frame, or once for all frames, in functional groups. Source: DICOM PS3.3, C.7.6.16.
"""

import math
from typing import Any

import numpy as np

from segcore.errors import SourceError
from segcore.sources.dicom_series import Slice

FRAME_TIMES = (0x00181063, 0x00181065)
"""FrameTime and FrameTimeVector, to which FrameIncrementPointer may point."""
MOVING = ("US", "XA", "RF", "ES", "GM", "IVUS", "OPT")
"""Modalities whose frames follow each other in time, where the file does not say what they are."""

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
"""In the patient; at the detector; on the film."""


def slices_of(header: Any, uri: str, size: tuple[int, int, int]) -> tuple[Slice, ...]:
    """One slice per frame.

    Args:
        header: of the file.
        uri: of the file.
        size: rows, columns, samples per pixel.

    Raises:
        SourceError: if the frames are not those that are described, or a scaling is no number.
    """
    count = num_frames(header)
    groups = list(header.get("PerFrameFunctionalGroupsSequence") or [])
    if groups and len(groups) != count:
        raise SourceError(f"{uri}: its header says {count} frames and describes {len(groups)}; the file is damaged")
    places = _grid_positions(header, count)
    frames = (_Frame(header, i) for i in range(count))
    return tuple(_slice(frame, uri, size, places[i] if places else None) for i, frame in enumerate(frames))


def num_frames(header: Any) -> int:
    """How many frames the file holds; one that does not say holds one."""
    return max(1, whole(header, "NumberOfFrames", 1))


def frame_axis(header: Any) -> tuple[str, str]:
    """What the frames of a file are along that does not place them, "t" or "z"; and what says so."""
    pointer = header.get("FrameIncrementPointer")
    tags = [int(tag) for tag in (pointer if isinstance(pointer, list | tuple) else [pointer]) if tag is not None]
    if any(tag in FRAME_TIMES for tag in tags) or "FrameTime" in header or "FrameTimeVector" in header:
        return "t", "FrameTime"
    modality = text(header, "Modality")
    if modality in MOVING:
        return "t", f"modality {modality}"
    return "z", "nothing says what they are"


def is_at_detector(header: Any) -> bool:
    """True where the only spacing is not that in the patient."""
    frame = _Frame(header, 0)
    sides = [_numbers(frame.get("PixelMeasuresSequence", name), 2) for name in SPACINGS]
    return sides[0] is None and sides != [None] * len(sides)


class _Frame:
    """A frame's own values before those of all frames, before those of the file."""

    def __init__(self, header: Any, number: int) -> None:
        own = list(header.get("PerFrameFunctionalGroupsSequence") or [])[number : number + 1]
        self.header = header
        self.groups = [*own, *list(header.get("SharedFunctionalGroupsSequence") or [])[:1]]
        self.number = None if num_frames(header) == 1 else number

    def get(self, group: str, name: str, of_file: bool = True) -> Any:
        """An element; None where it is missing or empty."""
        for items in self.groups:
            for item in items.get(group) or []:
                if item.get(name) not in (None, ""):
                    return item.get(name)
        value = self.header.get(name) if of_file else None
        return None if value == "" else value


def _slice(frame: _Frame, uri: str, size: tuple[int, int, int], place: tuple[float, ...] | None) -> Slice:
    # The file's own position is that of one slice: frames that share it are not placed by it.
    position = _numbers(frame.get("PlanePositionSequence", "ImagePositionPatient", of_file=frame.number is None), 3)
    slope, intercept = _scaling(frame, uri)
    return Slice(
        file=uri,
        size=size,
        frame=frame.number,
        position=place or position,
        orientation=_orientation(frame),
        spacing=_spacing(frame),
        thickness=_positive(frame.get("PixelMeasuresSequence", "SliceThickness")),
        slope=slope,
        intercept=intercept,
    )


def _orientation(frame: _Frame) -> tuple[float, ...] | None:
    """Six direction cosines of unit length; None where they are no such thing."""
    cosines = _numbers(frame.get("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    if cosines is None:
        return None
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.allclose(lengths, 1, atol=0.02) or abs(row @ column) > 0.02:
        return None
    return (*(row / lengths[0]).tolist(), *(column / lengths[1]).tolist())


def _spacing(frame: _Frame) -> tuple[float, float] | None:
    """(y, x) in mm: PixelSpacing holds the distance of the rows first."""
    for name in SPACINGS:
        sides = _numbers(frame.get("PixelMeasuresSequence", name), 2)
        if sides is not None and min(sides) > 0:
            return sides[0], sides[1]
    return None


def _scaling(frame: _Frame, uri: str) -> tuple[float, float]:
    """Slope and intercept; those of a dose grid are its DoseGridScaling and 0."""
    dose = frame.header.get("DoseGridScaling")
    slope = dose if dose not in (None, "") else frame.get("PixelValueTransformationSequence", "RescaleSlope")
    intercept = frame.get("PixelValueTransformationSequence", "RescaleIntercept")
    found = 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
    if not all(map(math.isfinite, found)) or found[0] == 0:
        raise SourceError(f"{uri}: expected a finite slope other than 0 and a finite intercept, got {found}")
    return found


def _grid_positions(header: Any, count: int) -> list[tuple[float, ...]] | None:
    """Positions of the frames of a dose grid, which gives their offsets along the normal (PS3.3, C.8.8.3.2)."""
    offsets = _numbers(header.get("GridFrameOffsetVector"), count)
    first, cosines = _numbers(header.get("ImagePositionPatient"), 3), _orientation(_Frame(header, 0))
    if count == 1 or offsets is None or first is None or cosines is None:
        return None
    normal = np.cross(cosines[:3], cosines[3:])
    return [tuple((np.array(first) + normal * (offset - offsets[0])).tolist()) for offset in offsets]


def text(header: Any, name: str) -> str:
    """An element as text; "" where it is missing."""
    value = header.get(name)
    return "" if value is None else str(value).strip().strip("\0")


def whole(header: Any, name: str, default: int = 0) -> int:
    """An element as a whole number."""
    value = header.get(name)
    return default if value in (None, "") else int(value)


def _positive(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(float(value)) and float(value) > 0 else None


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """So many finite numbers; None for anything else."""
    if value is None or isinstance(value, str | float | int) or len(value) != count:
        return None
    numbers = tuple(float(number) for number in value)
    return numbers if all(math.isfinite(number) for number in numbers) else None
