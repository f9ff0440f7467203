"""DICOM SEGs read back by pydicom, by highdicom and by our own reader of targets, over the source's own slices."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from highdicom.seg import segread

from segcore.classes import ClassInfo
from segcore.config import ExportConfig, IngestConfig
from segcore.export import dicom_headers, dicom_seg, export
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.results import ItemResult
from segcore.sources import open_source
from segcore.store import Workspace
from segcore.targets import TargetOpening
from segcore.targets.target import open_target
from tests.dicom_files import PLACES, enhanced, save, write_series
from tests.synthetic import put_image, put_label, put_objects

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's and highdicom's, of headers that lack much

CLASSES = (
    ClassInfo(id=0, name="background", color=(0, 0, 0)),
    ClassInfo(id=2, name="Läsion", color=(230, 159, 0)),
    ClassInfo(id=5, name="liver", color=(86, 180, 233)),
)
KINDS = ("binary", "labelmap")


def _ids(*shape: int) -> npt.NDArray[np.uint8]:
    """With an empty plane, and pixels that count as neither."""
    ids = np.random.default_rng(9).choice(np.array([0, 2, 5, 255], np.uint8), shape)
    if len(shape) == 3:
        ids[1] = 0
    return ids


def _numbers(ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The segments that these ids are: none for background and ignore."""
    return np.select([ids == 2, ids == 5], [np.uint8(1), np.uint8(2)], np.uint8(0))


def _ingested(tmp_path: Path, source: object, **options: Any) -> tuple[Workspace, str]:
    uri = str(tmp_path / "ws")
    (item,) = ingest(IngestConfig(workspace=uri, sources=(str(source),), processes=1, **options)).items
    assert item.image is not None, item.error
    return Workspace.open(uri), item.image


def _put(ws: Workspace, image_id: str, ids: npt.NDArray[np.uint8], **options: Any) -> None:
    put_label(ws, image_id, "m", ids, CLASSES, axes=("z", "y", "x")[-ids.ndim :], **options)


def _export(ws: Workspace, tmp_path: Path, **options: Any) -> ItemResult:
    config = {"workspace": ws.uri, "model": "m", "output": str(tmp_path / "out"), "format": "dicom-seg"} | options
    (item,) = export(ExportConfig.model_validate(config)).items
    return item


def _path(item: ItemResult) -> str:
    assert item.path is not None, item.error
    return item.path


def _assert_read_back(path: str, source: object, numbers: npt.NDArray[np.uint8]) -> None:
    """Our own reader finds the same segments on the source's grid (z, y, x)."""
    with open_source(str(source)) as opened:
        target = open_target([path], opened.info, TargetOpening())
        np.testing.assert_array_equal(target.read(Window.whole(numbers.shape)), numbers)
        target.close()


@pytest.mark.parametrize("kind", KINDS)
def test_segments_of_a_series(tmp_path: Path, kind: str) -> None:
    named = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"}
    source = write_series(tmp_path / "ct", np.ones((6, 8, 7), np.uint16), FrameOfReferenceUID="1.2.3.4", **named)
    ws, image_id = _ingested(tmp_path, source)
    ids = _ids(6, 8, 7)
    _put(ws, image_id, ids)
    path = _path(_export(ws, tmp_path, dicom_segmentation=kind))

    found = pydicom.dcmread(path)
    slices = sorted(map(pydicom.dcmread, Path(source).iterdir()), key=lambda one: one.ImagePositionPatient[2])
    for name in ("PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID"):
        assert found[name].value == slices[0][name].value, name
    assert (found.PatientName, found.Modality, found.SegmentationType) == ("Müller^Jörg", "SEG", kind.upper())
    referred = found.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == slices[0].SeriesInstanceUID
    named_slices = {one.ReferencedSOPInstanceUID for one in referred.ReferencedInstanceSequence}
    assert named_slices == {one.SOPInstanceUID for one in slices}
    segments = [item for item in found.SegmentSequence if item.SegmentNumber]
    assert [(item.SegmentNumber, item.SegmentLabel) for item in segments] == [(1, "Läsion"), (2, "liver")]

    read = segread(path)
    pixels = read.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in slices], combine_segments=True, ignore_spatial_locations=False,
        assert_missing_frames_are_empty=True,
    )  # fmt: skip
    np.testing.assert_array_equal(pixels, _numbers(ids))
    _assert_read_back(path, source, _numbers(ids))


def test_lineage_is_in_the_algorithm(tmp_path: Path) -> None:
    ws, image_id = _ingested(tmp_path, write_series(tmp_path / "ct", np.ones((6, 8, 7), np.uint16)))
    _put(ws, image_id, _ids(6, 8, 7), attributes={"model": {"id": "unet-12ab34cd", "digest": "d" * 64}})
    (algorithm,) = (
        pydicom.dcmread(_path(_export(ws, tmp_path))).SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    )
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("unet-12ab34cd", "d" * 64)
    told = dict(part.split("=") for part in algorithm.AlgorithmParameters.split(","))
    assert told["SEGCORE_STAMP"] == "m-0-binary"
    assert told["source_digest"] == ws.image(image_id).digest


def test_names_that_dicom_cannot_hold_stay_one(tmp_path: Path) -> None:
    ws, image_id = _ingested(tmp_path, write_series(tmp_path / "ct", np.ones((2, 8, 7), np.uint16)))
    odd = ClassInfo(id=1, name="lobe\\left\x07" + "x" * 80, color=(1, 2, 3))
    put_label(ws, image_id, "m", np.ones((2, 8, 7), np.uint8), (odd,), axes=("z", "y", "x"))
    (segment,) = pydicom.dcmread(_path(_export(ws, tmp_path))).SegmentSequence
    assert segment.SegmentLabel == f"lobe/left {'x' * 54}"


def test_frames_of_one_file_keep_their_order(tmp_path: Path) -> None:
    """Frame k of the file is plane PLACES[k] of the image."""
    made = enhanced(np.ones((4, 8, 6), np.int16), FrameOfReferenceUID="1.2.3.4", DimensionOrganizationType="3D")
    source = save(tmp_path / "frames.dcm", made)
    ws, image_id = _ingested(tmp_path, source)
    ids = _ids(4, 8, 6)
    _put(ws, image_id, ids)
    path = _path(_export(ws, tmp_path))
    pixels = segread(path).get_pixels_by_source_frame(
        made.SOPInstanceUID, [1, 2, 3, 4], combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels, _numbers(ids)[PLACES])
    _assert_read_back(path, source, _numbers(ids))


def test_mask_of_a_resampled_image_is_brought_back(tmp_path: Path) -> None:
    """The source has pixels of 0.5 x 0.25 mm (y x x), the image of 1 mm."""
    source = write_series(tmp_path / "ct", np.ones((4, 12, 16), np.uint16))
    ws, image_id = _ingested(tmp_path, source, spacing="1mm")
    ids = _ids(4, 6, 4)
    _put(ws, image_id, ids)
    _assert_read_back(_path(_export(ws, tmp_path)), source, _numbers(ids).repeat(2, axis=1).repeat(4, axis=2))


def test_an_empty_mask_keeps_all_frames(tmp_path: Path) -> None:
    source = write_series(tmp_path / "ct", np.ones((3, 8, 7), np.uint16))
    ws, image_id = _ingested(tmp_path, source)
    _put(ws, image_id, np.zeros((3, 8, 7), np.uint8))
    path = _path(_export(ws, tmp_path))
    assert pydicom.dcmread(path).NumberOfFrames == 6
    _assert_read_back(path, source, np.zeros((3, 8, 7), np.uint8))


def test_a_rerun_keeps_it_and_the_other_kind_is_another_file(tmp_path: Path) -> None:
    ws, image_id = _ingested(tmp_path, write_series(tmp_path / "ct", np.ones((3, 8, 7), np.uint16)))
    _put(ws, image_id, _ids(3, 8, 7))
    path = _path(_export(ws, tmp_path))
    uid = pydicom.dcmread(path).SOPInstanceUID
    assert _export(ws, tmp_path).state == "skipped"
    assert _export(ws, tmp_path, dicom_segmentation="labelmap").state == "failed"
    assert pydicom.dcmread(_path(_export(ws, tmp_path, overwrite=True))).SOPInstanceUID == uid
    other = _export(ws, tmp_path, output=str(tmp_path / "other"), dicom_segmentation="labelmap")
    assert pydicom.dcmread(_path(other)).SOPInstanceUID != uid
    for foreign in (b"", b"mine", Path(path).read_bytes()[:400]):
        Path(path).write_bytes(foreign)
        assert _export(ws, tmp_path).state == "failed"


def test_what_cannot_be_a_seg_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_series(tmp_path / "ct", np.ones((3, 8, 7), np.uint16))
    ws, image_id = _ingested(tmp_path, source)
    _put(ws, image_id, np.full((3, 8, 7), 4, np.uint8))
    assert _export(ws, tmp_path).error == f"image {image_id}: mask m holds 4, which is no class"
    _put(ws, image_id, _ids(3, 8, 7), version=1)
    (tmp_path / "ct").rename(tmp_path / "moved")
    assert f"{tmp_path / 'ct'}" in str(_export(ws, tmp_path).error)
    monkeypatch.setattr(dicom_seg, "MAX_PX", 100)
    expected = "168 px are too many for a DICOM SEG, expected at most 100; export it as ome-tiff or nifti"
    assert _export(ws, tmp_path).error == f"image {image_id}: {expected}"


def test_another_patient_in_its_place_is_refused(tmp_path: Path) -> None:
    """Of the same size at the same place, under the same names: only the content tells."""
    source = write_series(tmp_path / "ct", np.ones((3, 8, 7), np.uint16))
    ws, image_id = _ingested(tmp_path, source)
    _put(ws, image_id, _ids(3, 8, 7))
    kept = {path: path.read_bytes() for path in Path(source).iterdir()}
    for path, content in kept.items():
        path.write_bytes(content.replace(b"Roe^Richarda", b"Doe^Jonathan"))
    assert "it has changed since it was ingested" in str(_export(ws, tmp_path).error)
    for path, content in kept.items():
        path.write_bytes(content)
    (tmp_path / "ct" / "note.txt").write_text("what lies beside a series is not part of it")
    assert pydicom.dcmread(_path(_export(ws, tmp_path))).PatientName == "Roe^Richarda"


def test_a_copy_in_the_workspace_stands_for_the_source(tmp_path: Path) -> None:
    source = write_series(tmp_path / "ct", np.ones((3, 8, 7), np.uint16))
    ws, image_id = _ingested(tmp_path, source, copy_source=True)
    _put(ws, image_id, _ids(3, 8, 7))
    (tmp_path / "ct").rename(tmp_path / "gone")
    path = _path(_export(ws, tmp_path))
    assert pydicom.dcmread(path).PatientName == "Roe^Richarda"
    _assert_read_back(path, tmp_path / "gone", _numbers(_ids(3, 8, 7)))


def test_of_two_slides_in_a_folder_each_keeps_its_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that is named first is a coarse level; the finest of the other slide has the same size."""
    named = [("mine", (4, 6)), ("other", (8, 12)), ("mine", (8, 12))]
    headers = []
    for series, (rows, columns) in named:
        made = pydicom.Dataset()
        made.SeriesInstanceUID, made.PatientID = f"1.2.{len(series)}", series
        made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = rows, columns
        made.file_meta = pydicom.dataset.FileMetaDataset()
        headers.append(made)
    monkeypatch.setattr(dicom_headers, "_in_child", lambda *_: headers)
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "i", np.ones((1, 8, 12), np.uint8))
    assert dicom_headers.slide_header(ws.image("i"), (8, 12)).PatientID == "mine"


def test_sources_that_are_no_dicom_are_refused(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    np.save(tmp_path / "a.npy", np.ones((8, 7), np.uint8))
    ws, image_id = _ingested(tmp_path, tmp_path / "a.npy")
    _put(ws, image_id, _ids(8, 7))
    expected = f"image {image_id}: a DICOM SEG refers to DICOM files, its source is none (npy); export it as nifti"
    assert _export(ws, tmp_path).error == expected
    put_image(ws, "i", np.ones((1, 8, 7), np.uint8))
    put_objects(ws, "i", "m_instances", np.ones((8, 7), np.uint32), {"mask": "m", "mask_digest": "m-0"})
    put_label(ws, "i", "m", _ids(8, 7))
    error = _export(ws, tmp_path, model="m_instances", images=("i",)).error
    assert error == "image i: a DICOM SEG holds classes, not objects; export them as nifti"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["ct_series_jp2k", "single/MR_small.dcm", "single/CT_small.dcm"])
def test_real_files(data_dir: Path, tmp_path: Path, name: str, kind: str) -> None:
    source = data_dir / "dicom" / name
    ws, image_id = _ingested(tmp_path, source)
    ids = _ids(*ws.image(image_id).shape()[1:])
    _put(ws, image_id, ids)
    path = _path(_export(ws, tmp_path, dicom_segmentation=kind))
    assert list(segread(path).segment_numbers) == [1, 2]
    _assert_read_back(path, ws.image(image_id).source, _numbers(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_slide(data_dir: Path, tmp_path: Path, kind: str) -> None:
    ws, image_id = _ingested(tmp_path, data_dir / "wsi" / "dicom_wsi_tiny")
    ids = _ids(*ws.image(image_id).shape()[1:])
    _put(ws, image_id, ids)
    found = segread(_path(_export(ws, tmp_path, dicom_segmentation=kind)))
    matrix = found.get_total_pixel_matrix(combine_segments=True)
    np.testing.assert_array_equal(matrix, _numbers(ids))
