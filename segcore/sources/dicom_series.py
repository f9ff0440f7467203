"""DICOM series, without reading any file: which slices belong together, in which order they lie, and where.

    Slice, Slice, ... --stacked--> Stack: slices along their normal, matrix to RAS

Positions are the truth: neither file names, nor instance numbers, nor SliceThickness say where a slice lies.
Source: DICOM PS3.3, C.7.6.2.1.1 (Image Position and Image Orientation).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from segcore.errors import SourceError
from segcore.sources.anatomy import LPS_TO_RAS, Matrix, matrix_of

TOLERANCE = 0.25
"""How far a slice may lie from its place in an even stack, in steps. Headers round positions, to a tenth of a mm at
worst; a slice that is missing moves one by a third of a step at least."""
NOTED = 0.05
"""From here on, in steps, `inspect` says how uneven they lie."""
SAME_PLACE = 0.1
"""Slices closer than this, in steps, are two images of one place."""
SAME_PLACE_MM = 1e-3
SAME_DIRECTION = 1e-3
"""Largest difference of two direction cosines that are the same direction."""
SAME_SIDE = 1e-3
"""Largest relative difference of two pixel spacings that are the same."""
TILTED = 0.02
"""From this sideways shift per step on, a stack is called tilted (about one degree)."""

Vectors = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Slice:
    """One plane: a file, or a frame of one."""

    file: str
    """URI of the file."""
    size: tuple[int, int, int]
    """Rows, columns, samples per pixel."""
    frame: int | None = None
    """Number of the frame, where the file has several."""
    position: tuple[float, ...] | None = None
    """(x, y, z) of the centre of the first voxel, LPS mm."""
    orientation: tuple[float, ...] | None = None
    """Direction of a row (in which x grows) and of a column (in which y grows), LPS, unit length."""
    spacing: tuple[float, float] | None = None
    """(y, x) in mm."""
    thickness: float | None = None
    """In mm; used only where there is one slice."""
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def label(self) -> str:
        """What errors call it."""
        name = self.file.rsplit("/", 1)[-1]
        return name if self.frame is None else f"{name} (frame {self.frame + 1})"


@dataclass(frozen=True)
class Stack:
    """Slices in the order in which they lie."""

    slices: tuple[Slice, ...]
    matrix: Matrix | None
    """4 x 4 over (x, y, z) to RAS mm; None where the slices do not say where they lie."""
    axis: str | None
    """What the slices are along: "z"; "t" of frames of one file that all lie at one place; None of a single slice, or
    where they do not say where they lie."""
    notes: tuple[str, ...] = field(default=())


def series_name(uid: str, otherwise: tuple[object, ...]) -> str:
    """A name for a series that does not show its UID; of one without a UID, from what its slices share."""
    text = uid or repr(otherwise)
    return f"series-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def stacked(uri: str, slices: Sequence[Slice]) -> Stack:
    """Bring slices in the order of their positions along the normal of their planes.

    Args:
        uri: what errors name.
        slices: those of one series, in any order.

    Returns:
        The stack; the slices in the order given, with no axis, where a single file does not place its frames.

    Raises:
        SourceError: naming the files between which a slice is missing, is there twice, or differs.
    """
    assert slices, "no slices to stack"
    _check_alike(uri, slices)
    if len(slices) == 1:
        return Stack(tuple(slices), _single_matrix(slices[0]), None)
    homeless = [found for found in slices if found.position is None or found.orientation is None]
    if homeless:
        if len(homeless) == len(slices) and len({found.file for found in slices}) == 1:
            return Stack(tuple(slices), None, None)
        raise SourceError(
            f"{uri}: {homeless[0].label} has no ImagePositionPatient or ImageOrientationPatient, so that its place "
            f"among {len(slices)} slices is not known; give the files one by one"
        )
    positions = np.array([found.position for found in slices])
    if len({found.file for found in slices}) == 1 and np.ptp(positions, axis=0).max() < SAME_PLACE_MM:
        return Stack(tuple(slices), None, "t", ("all frames lie at one place: they are taken as a sequence (t)",))
    row, column = _directions(slices[0])
    along = positions @ np.cross(row, column)
    order = np.argsort(along, kind="stable")
    inside = [slices[i] for i in order]
    step, unevenness = _step(uri, inside, positions[order], along[order])
    spacing = slices[0].spacing
    notes = _notes(step, unevenness, row, column)
    if spacing is None:
        return Stack(tuple(inside), None, "z", (*notes, "no PixelSpacing"))
    matrix = matrix_of((row * spacing[1], column * spacing[0], step), positions[order[0]])
    return Stack(tuple(inside), LPS_TO_RAS @ matrix, "z", notes)


def _directions(found: Slice) -> tuple[Vectors, Vectors]:
    assert found.orientation is not None, f"{found.label} has no orientation"
    cosines = np.array(found.orientation)
    return cosines[:3], cosines[3:]


def _check_alike(uri: str, slices: Sequence[Slice]) -> None:
    """Refuse slices that cannot be planes of one array."""
    first = slices[0]
    for found in slices[1:]:
        which = f"{uri}: {first.label} and {found.label}, of one series, differ in"
        if found.size != first.size:
            raise SourceError(f"{which} rows x columns x samples: {_times(first.size)} and {_times(found.size)}")
        if _differ(first.orientation, found.orientation, SAME_DIRECTION):
            raise SourceError(f"{which} ImageOrientationPatient; expected parallel slices: give the files one by one")
        if _differ(first.spacing, found.spacing, SAME_SIDE * max(first.spacing or (0.0,))):
            raise SourceError(f"{which} PixelSpacing: {first.spacing} and {found.spacing}")


def _differ(a: tuple[float, ...] | None, b: tuple[float, ...] | None, tolerance: float) -> bool:
    if a is None or b is None:
        return (a is None) != (b is None)
    return max(abs(p - q) for p, q in zip(a, b, strict=True)) > tolerance


def _times(sides: tuple[int, ...]) -> str:
    return " x ".join(map(str, sides))


def _step(uri: str, slices: Sequence[Slice], positions: Vectors, along: Vectors) -> tuple[Vectors, float]:
    """The vector from one slice to the next, and how uneven they lie, in mm; refused where it is too much."""
    steps = np.diff(along)
    typical = float(np.median(steps))
    if steps.min() <= max(SAME_PLACE_MM, SAME_PLACE * typical):
        at = int(np.argmin(steps))
        raise SourceError(
            f"{uri}: {slices[at].label} and {slices[at + 1].label} lie at the same place ({steps[at]:.3g} mm apart); "
            "a series with several images of one place (time, echo, phase) is no volume: keep one of each"
        )
    step = np.asarray((positions[-1] - positions[0]) / (len(slices) - 1))
    expected = positions[0] + np.arange(len(slices))[:, None] * step
    deviations = np.linalg.norm(positions - expected, axis=1)
    if deviations.max() <= TOLERANCE * np.linalg.norm(step):
        return step, float(deviations.max())
    at = int(np.argmax(np.abs(steps - typical)))
    if abs(steps[at] - typical) > TOLERANCE * typical:
        missing = round(steps[at] / typical) - 1
        raise SourceError(
            f"{uri}: from {slices[at].label} to {slices[at + 1].label} it is {steps[at]:.4g} mm, between the others "
            f"{typical:.4g} mm; {f'slices are missing there (about {missing})' if missing > 0 else 'one is misplaced'}"
        )
    at = int(np.argmax(deviations))
    raise SourceError(
        f"{uri}: {slices[at].label} lies {deviations[at]:.3g} mm beside its place in an even stack of "
        f"{len(slices)} slices; resample the series first"
    )


def _notes(step: Vectors, unevenness: float, row: Vectors, column: Vectors) -> tuple[str, ...]:
    """What a user of the affine has to know."""
    notes = []
    if unevenness > NOTED * np.linalg.norm(step):
        notes.append(f"the slices lie up to {unevenness:.2g} mm beside an even stack")
    shift = np.hypot(step @ row, step @ column) / np.linalg.norm(step)
    if shift > TILTED:
        degrees = np.degrees(np.arcsin(min(1.0, shift)))
        notes.append(f"tilted: the slices are shifted sideways ({degrees:.1f} degrees); the affine is sheared")
    return tuple(notes)


def _single_matrix(found: Slice) -> Matrix | None:
    """Of a slice alone; one step along z is its thickness, or 1 mm."""
    if found.position is None or found.orientation is None or found.spacing is None:
        return None
    row, column = _directions(found)
    normal = np.cross(row, column) * (found.thickness or 1.0)
    matrix = matrix_of((row * found.spacing[1], column * found.spacing[0], normal), found.position)
    return np.asarray(LPS_TO_RAS @ matrix)
