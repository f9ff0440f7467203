"""DICOM headers: those of a mask's source, read again for what no workspace keeps: patient, study, frame of reference.

    image.reopened --> the slices in the order of the image's planes --> one header per slice, or one of all frames

Only for DICOM SEG, which has to say to whom and to what it belongs; nothing of it is stored or logged.
"""

import uuid
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from segcore.errors import SourceError, StoreError
from segcore.sources import open_source
from segcore.sources.dicom import DicomSource
from segcore.sources.files import SourceFile
from segcore.sources.slide_files import SlideFiles, vendor_of
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


def volume_headers(image: Image, num_planes: int) -> tuple[list[Any], list[int]]:
    """The headers of a source that is no slide, and which plane of the image each of their frames shows.

    Args:
        image: whose source is read again; its planes are in the order of their positions.
        num_planes: that the mask has.

    Raises:
        StoreError: if the source is no DICOM, or no longer the one that was ingested.
    """
    with open_source(image.reopened) as source:
        if not isinstance(source, DicomSource):
            raise StoreError(_no_dicom(image))
        slices = source.slices
    if len(slices) != num_planes:
        raise StoreError(
            f"image {image.image_id}: its source has {len(slices)} slices now, its mask {num_planes}; ingest it again"
        )
    files = list(dict.fromkeys(part.file for part in slices))
    if all(part.frame is None for part in slices):
        return completed(image, [header(uri) for uri in files]), list(range(num_planes))
    if len(files) > 1:
        raise StoreError(f"image {image.image_id}: a DICOM SEG refers to one file of many frames, got {len(files)}")
    return completed(image, [header(files[0])]), sorted(range(num_planes), key=lambda z: slices[z].frame or 0)


def slide_header(image: Image, shape_yx: tuple[int, ...]) -> Any:
    """The header of that file of a slide which holds its finest level.

    Raises:
        StoreError: if the source is no slide in DICOM, or none of its files is of that size.
    """
    source = image.reopened
    file = SourceFile(source if isinstance(source, str) else source.uri)
    if vendor_of(file) != "dicom":
        raise StoreError(_no_dicom(image))
    files = SlideFiles.of(file, "dicom")
    for part in (files.main, *files.parts):
        found = header(part.uri)
        if (found.get("TotalPixelMatrixRows"), found.get("TotalPixelMatrixColumns")) == shape_yx:
            return completed(image, [found])[0]
    raise StoreError(
        f"image {image.image_id}: no file of its source has {shape_yx[0]} x {shape_yx[1]} px (y x x); "
        "ingest the folder that holds all files of the slide"
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
    return found


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
    name = PurePosixPath(image.source).name
    return f"image {image.image_id}: a DICOM SEG refers to DICOM files, its source is none ({name}); export it as nifti"
