"""DICOM headers: those of a mask's source, read again for what no workspace keeps: patient, study, frame of reference.

    image.reopened --child--> slices in the order of the image's planes --> one header per slice, or one of all frames

Only for DICOM SEG, which has to say to whom and to what it belongs; nothing of it is stored or logged. A file may have
taken the place of another since: only one of the same content is believed, or a mask would get another patient's name.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from segcore.errors import SourceError, StoreError
from segcore.export.source_grid import SourceGrid
from segcore.geometry import Ints
from segcore.isolation import Beat, ChildPool, Task
from segcore.sources import Joined, open_source, uri_of
from segcore.sources.dicom import DicomSource
from segcore.sources.dicom_series import Slice
from segcore.sources.files import SourceFile
from segcore.sources.slide_files import SlideFiles, vendor_of
from segcore.sources.stamps import content_digest
from segcore.store import Image

EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
"""Elements that have to be there, but may be empty (type 2)."""
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
"""Elements that may not (type 1), the same for a whole series."""
CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128"}
"""By modality, the SOP class of a file that does not tell its own."""
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def volume_headers(image: Image, grid: SourceGrid) -> tuple[list[Any], list[int]]:
    """The headers of a source that is no slide, and which plane of the image each of their frames shows.

    Raises:
        StoreError: if the source is no DICOM.
        SourceError: if it cannot be read, or is no longer what was ingested.
    """
    if image.attributes.get("reader") != "dicom":
        raise StoreError(_no_dicom(image))
    slices, headers = _in_child(read_volume, image)
    assert len(slices) == grid.num_planes, f"{len(slices)} slices, {grid.num_planes} planes"
    if all(part.frame is None for part in slices):
        return completed(image, headers), list(range(grid.num_planes))
    if len(headers) > 1:
        raise StoreError(f"image {image.image_id}: a DICOM SEG refers to one file of many frames, got {len(headers)}")
    return completed(image, headers), sorted(range(grid.num_planes), key=lambda z: slices[z].frame or 0)


def slide_header(image: Image, shape_yx: Ints) -> Any:
    """The header of that file of a slide which holds its finest level.

    Raises:
        StoreError: if the source is no slide in DICOM, or none of its files is of that size.
        SourceError: if it cannot be read, or is no longer what was ingested.
    """
    headers = _in_child(read_slide, image)
    if headers is None:
        raise StoreError(_no_dicom(image))
    series = headers[0].get("SeriesInstanceUID")
    for found in headers:
        if found.get("SeriesInstanceUID") != series:  # another slide of the folder
            continue
        if (found.get("TotalPixelMatrixRows"), found.get("TotalPixelMatrixColumns")) == shape_yx:
            return completed(image, [found])[0]
    raise StoreError(
        f"image {image.image_id}: no file of its source has {shape_yx[0]} x {shape_yx[1]} px (y x x); "
        "ingest the folder that holds all files of the slide"
    )


def _in_child(function: Callable[..., Any], image: Image) -> Any:
    """What a function makes of an image's source: files come from outside, also when they are read again."""
    source = image.reopened
    with ChildPool(1) as pool:
        (outcome,) = pool.run([Task(function, (source, image.digest), label=uri_of(source))])
    if outcome.error is not None:
        raise outcome.error
    return outcome.result


def read_volume(beat: Beat, source: str | Joined, digest: str) -> tuple[tuple[Slice, ...], list[Any]]:
    """In a child: the slices of a source, and the header of each of its files."""
    _check_content(beat, source, digest)
    with open_source(source) as opened:
        assert isinstance(opened, DicomSource), f"{opened.uri}: read by {opened.info.reader}, expected dicom"
        slices = opened.slices
    headers = []
    for uri in dict.fromkeys(part.file for part in slices):
        beat()
        headers.append(header(uri))
    return slices, headers


def read_slide(beat: Beat, source: str | Joined, digest: str) -> list[Any] | None:
    """In a child: the headers of a slide's files, and of others in its folder; None of what is no slide in DICOM."""
    file = SourceFile(uri_of(source))
    if vendor_of(file) != "dicom":
        return None
    _check_content(beat, source, digest)
    files = SlideFiles.of(file, "dicom")
    headers = []
    for part in (files.main, *files.parts):
        beat()
        headers.append(header(part.uri))
    return headers


def _check_content(beat: Beat, source: str | Joined, digest: str) -> None:
    """Refuse what was not ingested, whatever its name and its geometry are."""
    if content_digest(source, beat) != digest:
        raise SourceError(
            f"{uri_of(source)}: it has changed since it was ingested, so that its header may be another patient's; "
            "bring the old file back, or ingest it with --overwrite and predict again"
        )


def header(uri: str) -> Any:
    """All of a file but its pixels.

    Raises:
        SourceError: if it cannot be parsed.
    """
    import pydicom

    with SourceFile(uri).open() as opened:
        try:
            found = pydicom.dcmread(opened, stop_before_pixels=True, force=True)
            found.decode()  # names and texts: the SEG has another character set
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise SourceError(f"{uri}: its DICOM header cannot be read ({type(error).__name__}: {reason})") from error
    plain = pydicom.Dataset(found)  # without the open file
    plain.file_meta = found.file_meta
    return plain


def completed(image: Image, headers: Sequence[Any]) -> list[Any]:
    """Headers with all that a SEG takes over: what is missing is empty, or, of UIDs, made of the source's digest."""
    for number, found in enumerate(headers):
        for name in EMPTY:
            if name not in found:
                setattr(found, name, None)
        for name in UIDS:
            if not found.get(name):
                setattr(found, name, uid_of(f"{image.digest} {name}"))
        meta = found.file_meta
        if not found.get("SOPInstanceUID"):
            found.SOPInstanceUID = meta.get("MediaStorageSOPInstanceUID") or uid_of(f"{image.digest} {number}")
        if not found.get("SOPClassUID"):
            known = CLASSES.get(str(found.get("Modality")), SECONDARY_CAPTURE)
            found.SOPClassUID = meta.get("MediaStorageSOPClassUID") or known
    return list(headers)


def uid_of(text: str) -> str:
    """A UID that is the same for the same text (PS3.5, B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'segcore {text}').int}"


def _no_dicom(image: Image) -> str:
    what = f"a DICOM SEG refers to DICOM files, its source is none ({image.attributes.get('reader')})"
    return f"image {image.image_id}: {what}; export it as nifti"
