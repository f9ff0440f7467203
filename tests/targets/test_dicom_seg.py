"""DICOM SEG: segments written by highdicom come back as classes, on the grid of their series and on others."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom.seg import Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from segcore.classes import ClassInfo
from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import SourceInfo
from segcore.targets import ClassTable, TargetOpening
from segcore.targets.dicom_seg import is_dicom_seg
from segcore.targets.target import open_target
from tests.targets.volumes import affine, rotation, source_info

SHAPE = (6, 19, 23)  # a frame of 437 bits: none begins with a byte
PLACE = rotation(10, 0) @ np.diag([0.8, 1.1, 2.5, 1.0]) + np.array(
    [[0, 0, 0, -30], [0, 0, 0, 7], [0, 0, 0, 100], [0] * 4]
)
"""Voxel index -> mm in LPS, as DICOM counts."""
TO_RAS = np.diag([-1, -1, 1, 1])
NAMES = ("liver", "lesion")


def image(place: Any = PLACE, shape: tuple[int, ...] = SHAPE) -> SourceInfo:
    return source_info((1, *shape), affine=affine(TO_RAS @ place))


def ct_slice(z: int, series: dict[str, str]) -> Dataset:
    """One slice of a series without a patient."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SOPClassUID, found.SOPInstanceUID = CTImageStorage, generate_uid()
    for name, value in series.items():
        setattr(found, name, value)
    for name in (
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
    ):
        setattr(found, name, "")
    found.Modality, found.SeriesNumber, found.InstanceNumber = "CT", 1, z + 1
    found.ReferringPhysicianName = ""
    found.Rows, found.Columns = SHAPE[1:]
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 16, 15, 0
    sizes = np.linalg.norm(PLACE[:3, :3], axis=0)
    found.PixelSpacing = [round(float(sizes[1]), 6), round(float(sizes[0]), 6)]
    found.SliceThickness = 2.5
    directions = PLACE[:3, :2] / sizes[:2]
    found.ImageOrientationPatient = [float(f"{value:.10g}") for value in directions.T.ravel()]
    found.ImagePositionPatient = [float(f"{value:.10g}") for value in (PLACE @ [0, 0, z, 1])[:3]]
    found.PixelData = np.zeros(SHAPE[1:], np.uint16).tobytes()
    return found


def write_seg(path: Path, pixels: Any, kind: str, names: tuple[str, ...] = NAMES, **options: Any) -> str:
    """A SEG of pixels (z, y, x) or, segment by segment, (z, y, x, segment)."""
    series = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    described = [
        SegmentDescription(
            segment_number=number, segment_label=name, segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver, algorithm_type="MANUAL",
        )
        for number, name in enumerate(names, 1)
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Segmentation(
            source_images=[ct_slice(z, series) for z in range(SHAPE[0])], pixel_array=pixels,
            segmentation_type=SegmentationTypeValues(kind), segment_descriptions=described,
            series_instance_uid=generate_uid(), series_number=2, sop_instance_uid=generate_uid(), instance_number=1,
            manufacturer="-", manufacturer_model_name="-", software_versions="-", device_serial_number="-", **options,
        )  # fmt: skip
        found.save_as(path)
    return str(path)


def two_segments(rng: np.random.Generator) -> Any:
    """(z, y, x, segment), overlapping, with empty planes."""
    found = np.zeros((*SHAPE, 2), np.uint8)
    found[1:4, 3:15, 4:20, 0] = 1
    found[3:5, 8:18, 10:22, 1] = rng.integers(0, 2, (2, 10, 12))
    return found


def laid(segments: Any) -> Any:
    return np.where(segments[..., 1] > 0, 2, np.where(segments[..., 0] > 0, 1, 0))


def test_compressed_frames(tmp_path: Path, rng: np.random.Generator) -> None:
    ids = laid(two_segments(rng)).astype(np.uint8)
    path = write_seg(tmp_path / "rle.dcm", ids, "LABELMAP")
    dataset = dcmread(path)
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    dataset.save_as(path)
    np.testing.assert_array_equal(open_target([path], image(), TargetOpening()).read(Window.whole(SHAPE)), ids)


@pytest.mark.parametrize("omit", [True, False])
def test_binary_segments_overlap_and_the_later_one_wins(tmp_path: Path, rng: np.random.Generator, omit: bool) -> None:
    segments = two_segments(rng)
    path = write_seg(tmp_path / "seg.dcm", segments, "BINARY", omit_empty_frames=omit)
    assert is_dicom_seg(path)
    target = open_target([path], image(), TargetOpening())
    assert (target.kind, target.dtype) == ("segments", np.dtype(np.uint8))
    assert [(info.id, info.name) for info in target.classes] == [(0, "background"), (1, "liver"), (2, "lesion")]
    for window in (Window.whole(SHAPE), Window((3, 5, 9), (1, 9, 10))):
        np.testing.assert_array_equal(target.read(window), laid(segments)[window.slices])
    num_shared = int((segments.sum(axis=-1) > 1).sum())
    assert num_shared > 0
    assert target.notes == (f"'liver' and 'lesion' overlap on {num_shared} px; 'lesion', the later one, has them",)
    target.close()


def test_a_table_gives_ids_by_name(tmp_path: Path, rng: np.random.Generator) -> None:
    segments = two_segments(rng)
    path = write_seg(tmp_path / "seg.dcm", segments, "BINARY")
    classes = tuple(
        ClassInfo(id=i, name=name, color=(i, 0, 0)) for i, name in ((0, "none"), (3, "Lesion"), (9, "LIVER"))
    )
    target = open_target([path], image(), TargetOpening(table=ClassTable(classes=classes)))
    np.testing.assert_array_equal(target.read(Window.whole(SHAPE)), np.array([0, 9, 3])[laid(segments)])
    with pytest.raises(SourceError, match=r"has no 'lesion'; its classes are none, LIVER"):
        open_target([path], image(), TargetOpening(table=ClassTable(classes=(classes[0], classes[2]))))


def test_labelmaps_and_fractions(tmp_path: Path, rng: np.random.Generator) -> None:
    ids = laid(two_segments(rng)).astype(np.uint8)
    target = open_target([write_seg(tmp_path / "map.dcm", ids, "LABELMAP")], image(), TargetOpening())
    assert [info.name for info in target.classes] == ["background", *NAMES]
    np.testing.assert_array_equal(target.read(Window.whole(SHAPE)), ids)
    shares = rng.random(SHAPE).astype(np.float32)
    path = write_seg(tmp_path / "part.dcm", shares, "FRACTIONAL", NAMES[:1], max_fractional_value=200)
    target = open_target([path], image(), TargetOpening())
    np.testing.assert_array_equal(target.read(Window.whole(SHAPE)), np.round(shares * 200) > 100)


def test_a_series_in_another_order_or_resolution_has_the_same_labels(tmp_path: Path, rng: np.random.Generator) -> None:
    segments = two_segments(rng)
    path = write_seg(tmp_path / "seg.dcm", segments, "BINARY")
    upside_down = PLACE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, SHAPE[0] - 1], [0, 0, 0, 1]])
    target = open_target([path], image(upside_down), TargetOpening())
    np.testing.assert_array_equal(target.read(Window.whole(SHAPE)), laid(segments)[::-1])
    half = PLACE @ np.array([[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 1, 0], [0, 0, 0, 1]])
    finer = (SHAPE[0], SHAPE[1] * 2, SHAPE[2] * 2)
    target = open_target([path], image(half, finer), TargetOpening())
    expected = laid(segments).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(target.read(Window.whole(finer)), expected)


def test_what_lies_outside_is_background_and_counted(tmp_path: Path, rng: np.random.Generator) -> None:
    segments = two_segments(rng)
    path = write_seg(tmp_path / "seg.dcm", segments, "BINARY")
    shifted = PLACE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]])
    target = open_target([path], image(shifted), TargetOpening())
    expected = np.zeros(SHAPE, int)
    expected[:4] = laid(segments)[2:]
    np.testing.assert_array_equal(target.read(Window.whole(SHAPE)), expected)
    assert target.notes[-1] == f"{path}: {(laid(segments)[:2] > 0).sum()} labelled px lie outside the image"


def test_what_cannot_be_placed_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write_seg(tmp_path / "seg.dcm", two_segments(rng), "BINARY")
    with pytest.raises(SourceError, match=r"placed by patient positions, which image\.nii does not have"):
        open_target([path], source_info((1, *SHAPE)), TargetOpening())
    far = PLACE.copy()
    far[0, 3] += 500
    with pytest.raises(SourceError, match=r"lie beside their image: they reach over .* \(mm, x y z, RAS\+\)"):
        open_target([path], image(far), TargetOpening())
    broken = Path(path).read_bytes()
    (tmp_path / "broken.dcm").write_bytes(broken[: len(broken) - 300])
    with pytest.raises(SourceError, match=r"broken\.dcm"):
        open_target([str(tmp_path / "broken.dcm")], image(), TargetOpening())
