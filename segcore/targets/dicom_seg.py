"""DICOM SEG: the segments of a Segmentation object, laid into the volume that its frames' positions span.

frames --position, orientation, spacing--> planes of a volume (z, y, x) of ids --affine--> the image's grid

DICOM PS3.3, C.8.20 (Segmentation IOD) and C.7.6.16 (functional groups). Of the object's metadata only the segments'
numbers and labels are kept.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.errors import SourceError
from segcore.geometry import Ints, Window
from segcore.sources import Limits, Source, SourceInfo
from segcore.sources.base import Pixels, decoding, default_channels
from segcore.sources.files import SourceFile
from segcore.spatial import Affine
from segcore.targets.base import Kind, Target, TargetOpening
from segcore.targets.layers import Naming, Overlaps, named_layers
from segcore.targets.regridded import LEFT_OUT_PX, plane_shape, read_planes, read_regridded, regrid_between

SEG_UIDS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage, and Label Map Segmentation Storage."""

_SOP_CLASS = b"\x02\x00\x02\x00UI"
"""Media Storage SOP Class UID (0002,0002), as the file meta information has it: explicit VR, little endian."""
_OFF_GRID = 0.05
"""How far a frame may lie from its plane, in steps between planes."""

Vector = npt.NDArray[np.float64]


def is_dicom_seg(uri: str) -> bool:
    """True for a DICOM file of a segmentation, by its first bytes."""
    file = SourceFile(uri)
    head = file.head
    at = head.find(_SOP_CLASS, 132)
    if head[128:132] != b"DICM" or at < 0:
        return False
    start = at + len(_SOP_CLASS) + 2
    num_bytes = int.from_bytes(head[start - 2 : start], "little")
    return head[start : start + num_bytes].rstrip(b"\0 ").decode("ascii", "replace") in SEG_UIDS


class SegTarget(Target):
    """A target from a DICOM SEG: segments are classes, by their labels in the table, else by their numbers.

    Where segments overlap, the later one (of the higher number) has the pixel. Frames without any segment are usually
    left out of the object, so what lies outside its frames is background. Fractional segments begin above half of
    the maximum.
    """

    kind: Kind = "segments"

    def __init__(self, uri: str, image: SourceInfo, how: TargetOpening) -> None:
        if image.affine is None:
            raise SourceError(f"{uri}: a DICOM SEG is placed by patient positions, which {image.uri} does not have")
        with decoding(uri), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that break the standard a little
            dataset = _read_dataset(uri, how.opening.limits)
            found = _Frames(uri, dataset, image, how.opening.limits)
            naming = named_layers(uri, found.labels, how.table, found.numbers)
            overlaps = Overlaps()
            self._volume = _Volume(found, naming, found.ids(naming, overlaps))
            self._regrid = regrid_between(self._volume.info, image)
        self._fill = naming.fill
        self.classes, self.ignore, self.dtype = naming.table.classes, naming.table.ignore, np.dtype(naming.table.dtype)
        self.notes = overlaps.notes(naming) + self._lost(uri)

    def _lost(self, uri: str) -> tuple[str, ...]:
        """What of the segments lies outside the image."""
        back = self._regrid.inverse() if self._regrid is not None else None
        num_lost = 0
        for z in range(self._volume.ids.shape[0] if back is not None else 0):
            assert back is not None
            plane = Window((z, 0, 0), (1, *self._volume.ids.shape[1:]))
            labelled = self._volume.ids[plane.slices] != self._fill
            num_lost += int((labelled & ~back.inside(plane, LEFT_OUT_PX)).sum()) if labelled.any() else 0
        return (f"{uri}: {num_lost} labelled px lie outside the image",) if num_lost else ()

    def read(self, window: Window) -> Pixels:
        if self._regrid is None:
            return np.ascontiguousarray(read_planes(self._volume, window)[0])
        pixels, known = read_regridded(self._volume, self._regrid, window)
        return np.asarray(np.where(known, pixels[0], self.dtype.type(self._fill)))

    def close(self) -> None:
        self._volume.close()


class _Volume(Source):
    """The ids of all planes, as a source of one channel."""

    def __init__(self, frames: "_Frames", naming: Naming, ids: Pixels) -> None:
        self.uri, self.ids = frames.uri, ids
        self.info = SourceInfo(
            uri=frames.uri,
            reader="dicom-seg",
            reader_version="pydicom",
            axes=("c", "z", "y", "x"),
            shape=(1, *ids.shape),
            dtype=naming.table.dtype,
            channels=default_channels(1),
            affine=frames.affine,
            num_bytes=frames.num_bytes,
        )

    def _read(self, window: Window) -> Pixels:
        return np.asarray(self.ids[None][window.slices])

    def close(self) -> None:
        self.ids = np.zeros((0, 0, 0), dtype=self.ids.dtype)


class _Frames:
    """The frames of a SEG: which segment and which plane each one is of."""

    def __init__(self, uri: str, dataset: Any, image: SourceInfo, limits: Limits) -> None:
        self.uri, self._dataset = uri, dataset
        self.num_bytes = len(dataset.PixelData)
        self._kind = str(dataset.SegmentationType)
        self._shape_yx = (int(dataset.Rows), int(dataset.Columns))
        num_frames = int(dataset.get("NumberOfFrames", 1))
        if num_frames > limits.max_pages or math.prod(self._shape_yx) > limits.max_whole_px:
            raise SourceError(f"{uri}: its header asks for {num_frames} frames of {self._shape_yx} px, over the limits")
        segments = [item for item in dataset.SegmentSequence if int(item.SegmentNumber) > 0]  # 0: a LABELMAP's ground
        self.numbers = tuple(int(item.SegmentNumber) for item in segments)
        self.labels = tuple(str(item.SegmentLabel).strip() for item in segments)
        shared = dataset.SharedFunctionalGroupsSequence[0]
        self._groups = [_Group(uri, shared, frame) for frame in dataset.PerFrameFunctionalGroupsSequence]
        if len(self._groups) != num_frames:
            raise SourceError(f"{uri}: expected {num_frames} frames, its functional groups tell of {len(self._groups)}")
        first = self._groups[0]
        if any(np.abs(found.axes - first.axes).max() > 1e-4 for found in self._groups):
            raise SourceError(f"{uri}: its frames lie in several directions; expected parallel planes")
        self._planes = self._on_planes(image)
        num_px = math.prod(self._shape)
        if num_px > limits.max_whole_px:
            raise SourceError(
                f"{uri}: its frames span {num_px} px, over the limit max_whole_px = {limits.max_whole_px}"
            )

    def _on_planes(self, image: SourceInfo) -> list[int]:
        """The plane of each frame; sets the volume's shape and affine.

        Empty planes are often left out, so that the step between planes is that of the file's header, or the image's,
        or the smallest that occurs: the first on whose multiples all frames lie.
        """
        normal = np.cross(self._groups[0].axes[0], self._groups[0].axes[1])
        depths = np.array([found.position @ normal for found in self._groups])
        depths -= depths.min()
        gaps = np.diff(np.unique(np.round(depths, 3)))
        steps = [self._groups[0].step, *_steps_along(image, normal), *([float(gaps.min())] if gaps.size else [1.0])]
        for step in (step for step in steps if step):
            places = depths / step
            if np.abs(places - np.round(places)).max() <= _OFF_GRID:
                break
        else:
            raise SourceError(f"{self.uri}: its frames do not lie at even distances; resample the segmentation first")
        planes = [int(place) for place in np.round(places)]
        self._shape: Ints = (max(planes) + 1, *self._shape_yx)
        lowest = self._groups[int(np.argmin(depths))]
        self.affine = _affine(lowest, normal * step)
        return planes

    def ids(self, naming: Naming, overlaps: Overlaps) -> Pixels:
        """Ids of the whole volume (z, y, x), segment by segment in the order of their numbers."""
        ids = np.full(self._shape, naming.fill, dtype=naming.table.dtype)
        id_of = dict(zip(self.numbers, naming.ids, strict=True))
        order = sorted(range(len(self._planes)), key=lambda frame: self._groups[frame].segment or 0)
        for frame in order:
            plane, pixels = ids[self._planes[frame]], self._frame(frame)
            segment = self._groups[frame].segment
            present = {segment: pixels} if segment else {n: pixels == n for n in np.unique(pixels).tolist() if n}
            for number, where in present.items():
                if number not in id_of:
                    raise SourceError(f"{self.uri}: a frame shows segment {number}, which it does not describe")
                overlaps.lay(plane, where, id_of[number], naming.fill)
        return ids

    def _frame(self, frame: int) -> Pixels:
        """One frame: where its segment is, or, of a LABELMAP, segment numbers."""
        from pydicom.pixels.decoders.base import get_decoder

        syntax = self._dataset.file_meta.TransferSyntaxUID
        if int(self._dataset.BitsAllocated) == 1 and not syntax.is_encapsulated:
            return self._bits(frame)
        pixels, _ = get_decoder(syntax).as_array(self._dataset, index=frame, raw=True)
        pixels = pixels.reshape(self._shape_yx)
        if self._kind == "LABELMAP":
            return np.asarray(pixels)
        if self._kind == "FRACTIONAL":
            return np.asarray(pixels.astype(np.uint16) * 2 > int(self._dataset.MaximumFractionalValue))
        return np.asarray(pixels > 0)

    def _bits(self, frame: int) -> Pixels:
        """One frame of single bits: frames follow each other without a gap, lowest bit first (PS3.5, 8.1.1)."""
        num_px = math.prod(self._shape_yx)
        first, last = frame * num_px, (frame + 1) * num_px
        packed = np.frombuffer(self._dataset.PixelData[first // 8 : -(-last // 8)], dtype=np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[first % 8 :][:num_px]
        return bits.reshape(self._shape_yx).astype(np.bool_)


class _Group:
    """What the functional groups say of one frame: its own, else those that all share."""

    def __init__(self, uri: str, shared: Any, own: Any) -> None:
        def item(name: str) -> Any:
            found = own.get(name) or shared.get(name)
            return found[0] if found else None

        place, turn = item("PlanePositionSequence"), item("PlaneOrientationSequence")
        measures = item("PixelMeasuresSequence")
        if place is None or turn is None or measures is None:
            raise SourceError(f"{uri}: its frames have no position in a patient; SEGs of slides are not read")
        self.position: Vector = np.array(place.ImagePositionPatient, dtype=np.float64)
        self.axes: Vector = np.array(turn.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
        """Directions in which x and y of the array run, LPS."""
        self.spacing_yx = [float(value) for value in measures.PixelSpacing]
        self.step = abs(float(measures.get("SpacingBetweenSlices") or 0))
        """Between planes in mm; 0 = not said."""
        segment = item("SegmentIdentificationSequence")
        self.segment = int(segment.ReferencedSegmentNumber) if segment is not None else None
        """Its only one; None in a LABELMAP, whose pixels say it."""


def _affine(first: _Group, step: Vector) -> Affine:
    """Voxel index (x, y, z, 1) -> mm in RAS+, from DICOM's LPS."""
    spacing_y, spacing_x = first.spacing_yx
    columns = (first.axes[0] * spacing_x, first.axes[1] * spacing_y, step, first.position)
    matrix = np.vstack([np.stack(columns, axis=1) * [[-1], [-1], [1]], [0, 0, 0, 1]])
    rows: Sequence[Any] = [tuple(row) for row in matrix.tolist()]
    return Affine(matrix=tuple(rows), orientation=_orientation(matrix))


def _orientation(matrix: Vector) -> str:
    """The main direction of each of the array's axes: R or L, A or P, S or I."""
    letters = ("LR", "PA", "IS")
    largest = [int(np.argmax(np.abs(matrix[:3, axis]))) for axis in range(3)]
    return "".join(letters[at][int(matrix[at, axis] > 0)] for axis, at in enumerate(largest))


def _steps_along(image: SourceInfo, normal: Vector) -> list[float]:
    """The distance between the image's planes in mm, where they are parallel to the frames."""
    assert image.affine is not None
    step = np.array(image.affine.matrix)[:3, 2] * [-1, -1, 1]
    length = float(np.linalg.norm(step))
    is_parallel = len(plane_shape(image)) == 3 and abs(step @ normal) >= 0.999 * length
    return [length] if is_parallel else []


def _read_dataset(uri: str, limits: Limits) -> Any:
    """The whole object; its pixels stay packed.

    Raises:
        SourceError: if pydicom is missing, or the file is too large to be held.
    """
    try:
        import pydicom
    except ImportError as error:
        raise SourceError(f"{uri}: DICOM SEGs need the extra `dicom`: pip install 'segcore[dicom]'") from error
    file = SourceFile(uri)
    if file.num_bytes > limits.max_whole_px:
        raise SourceError(f"{uri}: {file.num_bytes} bytes are over the limit max_whole_px = {limits.max_whole_px}")
    with file.open() as opened:
        return pydicom.dcmread(opened)
