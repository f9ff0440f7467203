"""DICOM: pixels against pydicom, geometry against NIfTI and closed forms, and nothing of the patient in the store."""

import contextlib
import io
import json
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import imagecodecs
import nibabel
import numpy as np
import pytest

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Joined, Limits, Opening, members, open_source
from tests.dicom_files import PATIENT, PLACES, RNG, dataset, enhanced, save, write_series

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels import apply_color_lut, pixel_array  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)


@pytest.fixture
def volume() -> Any:
    return RNG.integers(0, 4096, (6, 8, 7)).astype(np.uint16)


def test_the_real_series_is_the_volume_of_its_nifti(data_dir: Path, assert_reads: Any) -> None:
    folder = data_dir / "dicom" / "ct_series_jp2k"
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    slices.sort(key=lambda found: found.ImagePositionPatient[2])
    pixels = np.stack([found.pixel_array.astype("i2") - 1024 for found in slices])
    with open_source(str(folder)) as source:
        info = source.info
        assert (info.axes, info.dtype) == (("c", "z", "y", "x"), "int16")
        assert info.spacing is not None
        assert info.spacing.values == {"z": 2.0, "y": 0.9765625, "x": 0.9765625}
        assert info.num_bytes == sum(path.stat().st_size for path in folder.iterdir())
        assert_reads(source, pixels[None], num_windows=3)
        assert info.affine is not None
        assert info.affine.orientation == "LPS"
        # The mask beside it was made from this series by others: the same place in the patient, voxel by voxel.
        mask = nibabel.load(data_dir / "dicom" / "ct_series_jp2k_seg_pseudolabel.nii.gz").affine
        turned = np.array(mask) @ [[1, 0, 0, 0], [0, -1, 0, 511], [0, 0, 1, 0], [0, 0, 0, 1]]
        np.testing.assert_allclose(info.affine.matrix, turned, atol=1e-3)
    (series,) = members(str(folder))
    assert isinstance(series, Joined)
    assert series.uri.startswith(f"{folder}::series-")
    assert set(series.parts) == {str(path) for path in folder.iterdir()}


SINGLE = {
    "CT_small.dcm": "int32",
    "MR_small.dcm": "int16",
    "MR_small_RLE.dcm": "int16",
    "MR_small_bigendian.dcm": "int16",
    "JPEG2000.dcm": "int16",
}


@pytest.mark.parametrize("name", SINGLE)
def test_real_single_images(data_dir: Path, name: str, assert_reads: Any) -> None:
    path = str(data_dir / "dicom" / "single" / name)
    header = pydicom.dcmread(path)
    values = header.pixel_array * int(header.get("RescaleSlope", 1)) + int(header.get("RescaleIntercept", 0))
    with open_source(path) as source:
        assert source.info.details["modality"] == header.Modality
        assert_reads(source, values.astype(SINGLE[name])[None])


def test_a_real_palette_is_its_colours_or_as_a_mask_its_indices(data_dir: Path, assert_reads: Any) -> None:
    path = str(data_dir / "dicom" / "single" / "examples_palette.dcm")
    header = pydicom.dcmread(path)
    colors = apply_color_lut(header.pixel_array, header)
    assert colors.dtype == np.uint16
    with open_source(path) as source:
        assert source.info.channels == ("red", "green", "blue")
        assert_reads(source, np.moveaxis(colors >> 8, -1, 0).astype(np.uint8))
    with open_source(path, Opening(indexed=True)) as source:
        assert_reads(source, header.pixel_array[None])


def test_real_colour_frames_are_a_sequence(data_dir: Path, assert_reads: Any) -> None:
    path = str(data_dir / "dicom" / "single" / "examples_ybr_color.dcm")
    with open_source(path) as source:
        assert source.info.axes == ("t", "c", "y", "x")
        assert source.info.details["notes"] == ["frames are along t: FrameTime"]
        assert_reads(source, np.moveaxis(pixel_array(path), -1, 1), num_windows=4)


def test_a_folder_of_several_series_is_asked_for_by_name(data_dir: Path) -> None:
    folder = str(data_dir / "dicom" / "single")
    names = members(folder)
    assert len(names) == 5
    with pytest.raises(SourceError, match=r"holds several series; name one behind ::, of series-[0-9a-f]{8} \("):
        open_source(folder)
    found = {}
    for series in names:
        assert isinstance(series, Joined)
        assert members(series.uri) == (series,)
        with contextlib.suppress(SourceError), open_source(series) as source, open_source(series.uri) as same:
            assert source.info == same.info
            found[series] = source.info.details["modality"]
    assert sorted(found.values()) == ["CT", "NM", "US", "US"]
    (other,) = set(names) - set(found)
    with pytest.raises(SourceError, match="lie at the same place"):  # one MR image, packed in three ways
        open_source(other)
    with pytest.raises(SourceError, match="has no 'series-00000000', but series-"):
        open_source(f"{folder}::series-00000000")


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
    ],
    ids=lambda uid: uid.name,
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
def test_packings(tmp_path: Path, assert_reads: Any, syntax: Any, dtype: str) -> None:
    pixels = RNG.integers(0, 100, (16, 12)).astype(dtype)
    stored = pixels.byteswap() if syntax == ExplicitVRBigEndian else pixels
    path = save(tmp_path / "a", dataset(stored), syntax)
    with open_source(path) as source:
        assert source.info.details["transfer_syntax"] == [syntax.name]
        assert_reads(source, pixels[None])


FOREIGN = {
    JPEG2000Lossless: lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, level=0),
    JPEGLosslessSV1: lambda pixels: imagecodecs.ljpeg_encode(pixels),
    JPEGLSLossless: lambda pixels: imagecodecs.jpegls_encode(pixels),
}
"""Syntaxes, and an encoder that is not the reader's."""


@pytest.mark.parametrize("syntax", FOREIGN, ids=lambda uid: uid.name)
def test_packings_of_another_encoder(tmp_path: Path, assert_reads: Any, syntax: Any) -> None:
    pixels = RNG.integers(0, 65536, (3, 16, 12)).astype(np.uint16)
    made = dataset(pixels)
    made.PixelData = encapsulate([FOREIGN[syntax](frame) for frame in pixels])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    with open_source(save(tmp_path / "a", made, syntax)) as source:
        assert_reads(source, pixels[None])


def test_jpeg_of_eight_bits_grey_and_colour(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(16), np.arange(24)).astype(np.uint8) * 5
    for name, pixels, fields in (
        ("grey", ramp, {}),
        ("colour", np.stack([ramp, 255 - ramp, ramp // 2], -1), {"SamplesPerPixel": 3, "PlanarConfiguration": 0}),
    ):
        packed = imagecodecs.jpeg8_encode(pixels, level=95)
        kind = "YBR_FULL_422" if fields else "MONOCHROME2"
        made = dataset(pixels, PhotometricInterpretation=kind, **fields)
        made.PixelData = encapsulate([packed])
        made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
        with open_source(save(tmp_path / name, made, JPEGBaseline8Bit)) as source:
            found = source.read(Window.whole(source.info.shape))
        expected = imagecodecs.jpeg8_decode(packed).reshape(16, 24, -1).transpose(2, 0, 1)
        assert np.abs(found.astype(int) - expected).max() <= 3  # decoders round colours their own way


def test_bits_beside_the_stored_ones_are_not_read(tmp_path: Path, assert_reads: Any) -> None:
    pixels = RNG.integers(0, 4096, (8, 7)).astype(np.uint16)
    with open_source(save(tmp_path / "a", dataset(pixels | 0xA000, BitsStored=12))) as source:
        assert_reads(source, pixels[None])
    signed = RNG.integers(-2048, 2048, (8, 7)).astype(np.int16)
    with open_source(save(tmp_path / "b", dataset(signed & 0xFFF, BitsStored=12))) as source:
        assert_reads(source, signed[None])
    with pytest.raises(SourceError, match="lower bits, got HighBit 15"):
        open_source(save(tmp_path / "c", dataset(pixels, BitsStored=12, HighBit=15)))


def test_zero_that_is_white_is_turned_round_but_not_in_masks(tmp_path: Path, assert_reads: Any) -> None:
    pixels = RNG.integers(0, 4096, (8, 7)).astype(np.uint16)
    path = save(tmp_path / "a", dataset(pixels, BitsStored=12, PhotometricInterpretation="MONOCHROME1"))
    with open_source(path) as source:
        assert_reads(source, (4095 - pixels)[None])
    with open_source(path, Opening(indexed=True)) as source:
        assert_reads(source, pixels[None])


@pytest.mark.parametrize("planar", [0, 1])
def test_colours(tmp_path: Path, assert_reads: Any, planar: int) -> None:
    pixels = RNG.integers(0, 255, (8, 6, 3), dtype=np.uint8)
    stored = np.ascontiguousarray(np.moveaxis(pixels, -1, 0)) if planar else pixels
    made = dataset(pixels, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=planar)
    made.PixelData = stored.tobytes()
    with open_source(save(tmp_path / "a", made)) as source:
        assert source.info.channels == ("red", "green", "blue")
        assert_reads(source, np.moveaxis(pixels, -1, 0))


def test_floats(tmp_path: Path, assert_reads: Any) -> None:
    pixels = RNG.normal(size=(8, 7)).astype(np.float32)
    made = dataset(pixels.view(np.uint32), PixelData=b"")
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(made, name)
    made.FloatPixelData = pixels.tobytes()
    with open_source(save(tmp_path / "a", made)) as source:
        assert_reads(source, pixels[None])


def test_files_in_any_order_under_any_name(tmp_path: Path, volume: Any, assert_reads: Any) -> None:
    folder = write_series(tmp_path / "ct", volume, RescaleSlope=1, RescaleIntercept=-1024, BitsStored=12)
    (Path(folder) / "README.txt").write_text("not an image")
    (Path(folder) / ".DS_Store").touch()
    with open_source(folder) as source:
        assert source.info.spacing is not None
        assert source.info.spacing.values == {"z": 2.0, "y": 0.5, "x": 0.25}  # SliceThickness says 7
        assert source.info.affine is not None
        np.testing.assert_allclose(
            source.info.affine.matrix, [[-0.25, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]]
        )
        assert_reads(source, volume[None].astype(np.int16) - 1024)


def test_every_slice_has_its_own_scaling(tmp_path: Path, volume: Any, assert_reads: Any) -> None:
    (tmp_path / "pet").mkdir()
    slopes = [1.0, 0.5, 0.25, 2.0, 1.0, 3.7]
    for z, slope in enumerate(slopes):
        made = dataset(volume[z], ImagePositionPatient=[0, 0, -z], RescaleSlope=slope, RescaleIntercept=z)
        save(tmp_path / "pet" / f"{z}.dcm", made)
    expected = np.stack([(volume[z] * slope + z).astype(np.float32) for z, slope in enumerate(slopes)])[::-1]
    with open_source(str(tmp_path / "pet")) as source:
        assert_reads(source, expected[None])


def test_only_the_slices_of_a_window_are_decoded(tmp_path: Path, volume: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from segcore.sources.dicom_files import DicomFile

    taken = []
    decode = DicomFile.decode
    monkeypatch.setattr(DicomFile, "decode", lambda self, *args: taken.append(self.name) or decode(self, *args))
    with open_source(write_series(tmp_path / "ct", volume)) as source:
        assert taken == []
        for _ in range(2):
            source.read(Window((0, 2, 0, 0), (1, 2, 3, 3)))
        assert len(taken) == 2


def test_a_url_is_read_like_a_folder(tmp_path: Path, volume: Any, assert_reads: Any) -> None:
    for path in Path(write_series(tmp_path / "ct", volume)).iterdir():
        fsspec.filesystem("memory").pipe(f"/dicom/ct/{path.name}", path.read_bytes())
    with open_source("memory://dicom/ct") as source:
        assert_reads(source, volume[None])
    with open_source("memory://dicom/ct/IM000") as source:
        assert source.info.axes == ("c", "y", "x")


@pytest.mark.parametrize("uid", [None, ""])
def test_without_a_series_uid_what_slices_share_tells_them_apart(
    tmp_path: Path, volume: Any, assert_reads: Any, uid: str | None
) -> None:
    folder = write_series(tmp_path / "ct", volume, SeriesInstanceUID=uid)
    with open_source(folder) as source:
        assert_reads(source, volume[None])
    save(
        tmp_path / "ct" / "scout",
        dataset(volume[0], SeriesInstanceUID=uid, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
    )
    names = members(folder)
    assert len(names) == 2
    shapes = []
    for name in names:
        with open_source(name) as source:
            shapes.append(source.info.shape)
    assert sorted(shapes) == [(1, 6, 8, 7), (1, 8, 7)]


def directory() -> bytes:
    """A DICOMDIR without records."""
    made = Dataset()
    made.FileSetID, made.DirectoryRecordSequence = "", Sequence()
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    written = io.BytesIO()
    made.save_as(written, enforce_file_format=True)
    return written.getvalue()


def test_what_is_no_image_of_the_series_is_left_out_and_said(tmp_path: Path, volume: Any, assert_reads: Any) -> None:
    folder = write_series(tmp_path / "ct", volume)
    report = dataset(volume[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR", Rows=None, Columns=None)
    del report.PixelData
    save(tmp_path / "ct" / "report", report)
    save(tmp_path / "ct" / "mask", dataset(volume[0], Modality="SEG", SeriesInstanceUID="1.2.3"))
    (tmp_path / "ct" / "DICOMDIR").write_bytes(directory())
    with open_source(folder) as source:
        assert source.info.details["notes"] == ["3 DICOM files without an image are not read"]
        assert_reads(source, volume[None])
    with pytest.raises(SourceError, match="give it as the target"):
        open_source(str(tmp_path / "ct" / "mask"))
    with pytest.raises(SourceError, match="holds no image"):
        open_source(str(tmp_path / "ct" / "report"))


def test_missing_and_double_slices_are_named(tmp_path: Path, volume: Any) -> None:
    folder = Path(write_series(tmp_path / "ct", volume))
    by_place = sorted(folder.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])
    content = by_place[2].read_bytes()
    (folder / "copy").write_bytes(content)
    with pytest.raises(SourceError, match=f"{by_place[2].name} and copy|copy and {by_place[2].name}"):
        open_source(str(folder))
    (folder / "copy").unlink()
    by_place[2].unlink()
    with pytest.raises(SourceError, match=f"from {by_place[1].name} to {by_place[3].name} it is 4 mm"):
        open_source(str(folder))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless], ids=lambda uid: uid.name)
def test_enhanced_frames_lie_where_their_groups_say(tmp_path: Path, assert_reads: Any, syntax: Any) -> None:
    pixels = RNG.integers(0, 999, (4, 8, 6)).astype(np.int16)
    scaled = pixels - np.arange(4)[:, None, None]
    with open_source(save(tmp_path / "a", enhanced(pixels), syntax)) as source:
        assert source.info.spacing is not None
        assert source.info.spacing.values == {"z": 3.0, "y": 0.5, "x": 0.25}
        assert_reads(source, scaled[np.argsort(PLACES)][None].astype(np.int32))


def test_enhanced_frames_at_one_place_and_too_few_of_them(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 6), np.int16)
    with pytest.raises(SourceError, match=r"a \(frame 1\) and a \(frame 3\) lie at the same place"):
        open_source(save(tmp_path / "a", enhanced(pixels, [0, 1, 0, 2])))
    with pytest.raises(SourceError, match="says 4 frames and describes 3"):
        open_source(save(tmp_path / "b", enhanced(pixels, [0, 1, 2])))


def test_frames_that_nothing_places_are_slices_or_times(tmp_path: Path, assert_reads: Any) -> None:
    pixels = RNG.integers(0, 255, (4, 8, 6), dtype=np.uint8)
    with open_source(save(tmp_path / "nm", dataset(pixels, Modality="NM"))) as source:
        assert (source.info.axes, source.info.affine) == (("c", "z", "y", "x"), None)
        assert source.info.spacing is not None
        assert source.info.spacing.values == {"y": 0.5, "x": 0.25}
        assert source.info.details["notes"] == ["frames are along z: nothing says what they are"]
        assert_reads(source, pixels[None])
    with open_source(save(tmp_path / "xa", dataset(pixels, Modality="XA"))) as source:
        assert source.info.axes == ("t", "c", "y", "x")
        assert_reads(source, pixels[:, None])


def test_a_dose_grid(tmp_path: Path, assert_reads: Any) -> None:
    pixels = RNG.integers(0, 2**31, (4, 8, 6)).astype(np.uint32)
    given = {"Modality": "RTDOSE", "DoseGridScaling": 1e-6, "GridFrameOffsetVector": [0, 2.5, 5, 7.5]}
    with open_source(save(tmp_path / "dose", dataset(pixels, **given))) as source:
        assert source.info.affine is not None
        np.testing.assert_allclose(np.array(source.info.affine.matrix)[:3, 2:], [[0, 10], [0, 20], [2.5, 30]])
        assert_reads(source, (pixels * 1e-6).astype(np.float32)[None])


def test_the_spacing_of_a_detector_is_said_to_be_one(tmp_path: Path) -> None:
    made = dataset(np.zeros((8, 6), np.uint16), Modality="DX", PixelSpacing=None, ImagerPixelSpacing=[0.2, 0.1])
    with open_source(save(tmp_path / "dx", made)) as source:
        assert source.info.spacing is not None
        assert source.info.spacing.values == {"y": 0.2, "x": 0.1}
        assert source.info.details["notes"] == ["the spacing is that at the detector, not in the patient"]


@pytest.mark.parametrize("kind", ["series", "enhanced"])
def test_nothing_of_the_patient_is_in_the_info(tmp_path: Path, volume: Any, kind: str) -> None:
    if kind == "series":
        path = write_series(tmp_path / "images", volume, SeriesDescription="KNEE OF ROE", ImageComments="Roe")
    else:
        path = save(tmp_path / "image", enhanced(volume[:4].astype(np.int16)))
    headers = [pydicom.dcmread(found) for found in (Path(path).iterdir() if kind == "series" else [path])]
    secrets = {str(value) for value in PATIENT.values()} | {"Roe", "KNEE"}
    for header in headers:
        secrets |= {str(element.value) for element in header.iterall() if element.VR in ("UI", "PN", "DA", "TM", "LO")}
    secrets |= {value for header in headers for value in map(str, header.file_meta.values()) if "UID" in value}
    assert len(secrets) > 10
    with open_source(path) as source:
        said = json.dumps(source.info.model_dump(mode="json") | {"uri": ""})
    assert [secret for secret in secrets if secret and secret in said] == []


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_a_name_for_a_modality_is_not_repeated(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = save(tmp_path / "a", dataset(np.zeros((8, 6), np.uint16), Modality="Roe^Richarda"))
    recwarn.clear()
    with open_source(path) as source:
        assert not recwarn.list
        assert source.info.details["modality"] == ""


def test_limits_come_before_pixels(tmp_path: Path, volume: Any) -> None:
    folder = write_series(tmp_path / "ct", volume)
    for name, limit in (("max_px", 55), ("max_pages", 5), ("max_tile_bytes", 111)):
        with pytest.raises(SourceError, match=f"limit {name} = {limit}"):
            open_source(folder, Opening(limits=Limits.model_validate({name: limit})))
    frames = save(tmp_path / "frames", dataset(volume))
    with pytest.raises(SourceError, match="6 frames are over the limit max_pages = 5"):
        open_source(frames, Opening(limits=Limits(max_pages=5)))
    with pytest.raises(SourceError, match=r"asks for 8589934\d+ bytes, the file has \d+; it is cut off|over the limit"):
        open_source(save(tmp_path / "huge", dataset(np.zeros((8, 6), np.uint16), Rows=65535, Columns=65535)))


def test_more_packed_frames_than_the_file_can_hold(tmp_path: Path) -> None:
    made = dataset(np.zeros((8, 6), np.uint16))
    made.PixelData = encapsulate([imagecodecs.jpegls_encode(np.zeros((8, 6), np.uint16))])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    made.NumberOfFrames = 99999
    with pytest.raises(SourceError, match=r"asks for 80\d+ bytes, the file has \d+; it is cut off"):
        open_source(save(tmp_path / "a", made, JPEGLSLossless))


def test_a_length_in_a_header_takes_no_memory(tmp_path: Path) -> None:
    made = dataset(np.zeros((8, 6), np.uint16), RedPaletteColorLookupTableData=b"12345678")
    path = Path(save(tmp_path / "a", made))
    content = path.read_bytes()
    at = content.index(b"\x28\x00\x01\x12OW\0\0")
    path.write_bytes(content[: at + 8] + b"\xf0\xff\xff\x7f" + content[at + 12 :])
    tracemalloc.start()
    with pytest.raises(SourceError, match="holds no image"):
        open_source(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_a_deflated_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = Path(save(tmp_path / "a", dataset(np.zeros((8, 6), np.uint16)), DeflatedExplicitVRLittleEndian))
    content = path.read_bytes()
    begin = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(content[:begin] + packer.compress(bytes(50_000_000)) + packer.flush())
    with pytest.raises(SourceError, match="over the limit max_tile_bytes = 1000000"):
        open_source(str(path), Opening(limits=Limits(max_tile_bytes=1_000_000)))


def cut(content: bytes) -> bytes:
    return content[:-20]


def emptied(content: bytes) -> bytes:
    return content[:132] + b"\xff" * 200


def cut_before_the_pixels(content: bytes) -> bytes:
    return content[: content.index(b"\x28\x00\x10\x00US")]


def scaled_by_nothing(content: bytes) -> bytes:
    return content.replace(b"DS\x04\x001.0 ", b"DS\x04\x000.0 ")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "it is cut off"),
        (cut_before_the_pixels, "holds no image"),
        (emptied, "holds no image|cannot be read"),
        (scaled_by_nothing, "slope other than 0"),
    ],
)
def test_a_damaged_file_is_named_alone_and_in_a_series(
    tmp_path: Path, volume: Any, damage: Callable[[bytes], bytes], said: str
) -> None:
    folder = Path(write_series(tmp_path / "ct", volume, RescaleSlope=1, RescaleIntercept=0))
    path = folder / "IM003"
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    with pytest.raises(SourceError, match=said) as caught:
        open_source(str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match="IM003: "):
        open_source(str(folder))


def test_damaged_pixels_name_their_slice(tmp_path: Path, volume: Any) -> None:
    folder = tmp_path / "ct"
    folder.mkdir()
    for z, plane in enumerate(volume):
        save(folder / f"{z}.dcm", dataset(plane, ImagePositionPatient=[0, 0, z]), RLELossless)
    content = bytearray((folder / "4.dcm").read_bytes())
    content[-60:] = b"\x7f" * 60
    (folder / "4.dcm").write_bytes(content)
    with open_source(str(folder)) as source:
        source.read(Window((0, 0, 0, 0), (1, 4, 8, 7)))
        with pytest.raises(SourceError, match=r"4\.dcm: cannot be read"):
            source.read(Window((0, 4, 0, 0), (1, 1, 8, 7)))


def test_an_empty_file_in_a_series_is_named(tmp_path: Path, volume: Any) -> None:
    folder = Path(write_series(tmp_path / "ct", volume))
    (folder / "IM999").touch()
    with pytest.raises(SourceError, match="IM999: the file is empty"):
        open_source(str(folder))


def test_without_preamble_the_name_has_to_say_it(tmp_path: Path, assert_reads: Any) -> None:
    pixels = RNG.integers(0, 999, (8, 6)).astype(np.int16)
    made = dataset(pixels)
    del made.SOPInstanceUID
    bare = tmp_path / "bare.dcm"
    made.save_as(bare, implicit_vr=True, little_endian=True, enforce_file_format=False)
    with open_source(str(bare)) as source:
        assert_reads(source, pixels[None])
    bare.rename(tmp_path / "bare")
    with pytest.raises(SourceError, match="is no image that segcore reads"):
        open_source(str(tmp_path / "bare"))


def test_slides_are_left_to_their_reader(data_dir: Path) -> None:
    folder = data_dir / "wsi" / "dicom_wsi_tiny"
    from segcore.sources.dicom import READER
    from segcore.sources.files import SourceFile

    assert not READER.matches(SourceFile(str(folder)))
    assert not READER.matches(SourceFile(str(folder / "boxes_0.dcm")))


def test_a_member_of_a_single_file_is_refused(data_dir: Path) -> None:
    with pytest.raises(SourceError, match="a DICOM file is one image"):
        open_source(f"{data_dir / 'dicom' / 'single' / 'CT_small.dcm'}::series-00000000")
