"""DICOM files of a few pixels: slices, series, enhanced frames."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless, generate_uid

RNG = np.random.default_rng(21)
CT = "1.2.840.10008.5.1.4.1.1.2"
PATIENT = {
    "PatientName": "Roe^Richarda",
    "PatientID": "PID-445566",
    "PatientBirthDate": "19470311",
    "StudyDate": "20191224",
    "InstitutionName": "Saint Elsewhere",
    "Manufacturer": "Acme Imaging",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.777",
    "StudyDescription": "KNEE OF ROE",
}


def dataset(pixels: Any, **fields: Any) -> Dataset:
    """A CT slice; grey (Y, X), frames (N, Y, X) or colours (Y, X, 3)."""
    made = Dataset()
    colored = fields.get("SamplesPerPixel") == 3
    frames = pixels.shape[0] if pixels.ndim - colored == 3 else None
    rows, columns = (pixels.shape[:-1] if colored else pixels.shape)[-2:]
    given = {
        "SOPClassUID": CT,
        "SOPInstanceUID": generate_uid(),
        "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.1",
        "Modality": "CT",
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": pixels.itemsize * 8,
        "BitsStored": pixels.itemsize * 8,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [-10, -20, 30],
        "PixelSpacing": [0.5, 0.25],
        "SliceThickness": 7,
    }
    if frames is not None:
        given["NumberOfFrames"] = frames
    for name, value in (given | PATIENT | fields).items():
        if value is not None:
            setattr(made, name, value)
    made.HighBit = fields.get("HighBit", made.BitsStored - 1)
    if "PixelData" not in made:
        made.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
        made["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    return made


def save(path: Path, made: Dataset, syntax: Any = ExplicitVRLittleEndian) -> str:
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    if syntax in (RLELossless, JPEGLSLossless) and not made["PixelData"].is_undefined_length:
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.compress(syntax)
    made.file_meta.TransferSyntaxUID = syntax
    made.save_as(path, enforce_file_format=True)
    return str(path)


def write_series(folder: Path, volume: Any, step: float = 2.0, **fields: Any) -> str:
    """One file per slice of (Z, Y, X), under names in any order."""
    folder.mkdir(exist_ok=True)
    for z, name in zip(range(len(volume)), RNG.permutation(len(volume)), strict=True):
        save(folder / f"IM{name:03}", dataset(volume[z], ImagePositionPatient=[-10, -20, 30 + z * step], **fields))
    return str(folder)


PLACES = [2, 0, 3, 1]
"""Of the frames, in steps."""


def enhanced(pixels: Any, places: Any = PLACES, **fields: Any) -> Dataset:
    """An enhanced CT: positions and scaling of each frame in functional groups."""
    made = dataset(pixels, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", **fields)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(made, name)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.25], 7
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([plane])
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    made.PerFrameFunctionalGroupsSequence = Sequence()
    for number, place in enumerate(places):
        group, position, scale = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, 3 * place]
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1, -number, "US"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = Sequence([position]), Sequence([scale])
        made.PerFrameFunctionalGroupsSequence.append(group)
    return made
