"""DICOM SEG: a mask as a Segmentation object that refers to its source's files, through highdicom (extra `dicom`).

    mask --source grid--> segment numbers (z, y, x) + headers of the source --highdicom--> one file

Segments are the classes but the background, numbered from 1 in the order of their ids; `ignore` is in none. Stamp and
lineage are parameters of the segmentation algorithm. Of the same mask comes the same SOP Instance UID.
Source: DICOM PS3.3, A.51 and C.8.20 (Segmentation IOD).
"""

import json
import re
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

import segcore
from segcore.classes import ClassInfo
from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.export.dicom_headers import slide_header, uid_of, volume_headers
from segcore.export.source_grid import SourceGrid
from segcore.export.stamp import KEY, lineage, plain, stamp
from segcore.scoring.counts import foreground_rows
from segcore.store import Image, Label

MAX_PX = 2**28
"""highdicom makes the object in memory, of all pixels at once; so do those who read it."""
SERIES_NUMBER = 1000
"""Far from those of scanners."""
MAX_NAME = 64
"""Characters of a text of the type LO."""
TILE_PX = 512
"""Of a slide's SEG."""


def write_dicom_seg(image: Image, mask: Label, path: Path, config: ExportConfig) -> dict[str, Any]:
    """Write the classes of a mask, on its source's own pixels, as segments.

    Raises:
        StoreError: if the source is no DICOM or changed, the mask is one of objects or too large, or highdicom is
            missing or finds the source's header wanting.
    """
    highdicom = _library(image)
    grid = SourceGrid(image, mask)
    num_px = int(np.prod(grid.shape, dtype=np.int64))
    if num_px > MAX_PX:
        raise StoreError(
            f"image {image.image_id}: {num_px} px are too many for a DICOM SEG, expected at most {MAX_PX}; "
            "export it as ome-tiff or nifti"
        )
    if mask.tells_objects:
        raise StoreError(f"image {image.image_id}: a DICOM SEG holds classes, not objects; export them as nifti")
    classes = sorted((mask.classes[row] for row in foreground_rows(mask.classes)), key=lambda info: info.id)
    if image.attributes.get("reader") == "slide":
        headers, order = [slide_header(image, grid.shape)], [0]
        tiled = {"tile_pixel_array": True, "tile_size": (TILE_PX, TILE_PX)}
    else:
        (headers, order), tiled = volume_headers(image, grid), {}
    numbers = _numbers(image, mask, grid, classes)
    if order != sorted(order):
        numbers = numbers[order]
    described = [_description(n, info, image, mask, config) for n, info in enumerate(classes, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that break the standard a little
        try:
            made = highdicom.seg.Segmentation(
                headers,
                numbers,
                config.dicom_segmentation.upper(),
                described,
                **_identity(mask, config),
                **tiled,
                transfer_syntax_uid=_syntax(config),
                omit_empty_frames=bool(numbers.any()),
            )
            made.save_as(path)
        except (ValueError, TypeError, AttributeError, LookupError) as error:  # what it raises for a header that lacks
            reason = " ".join(str(error).split())[:200]
            raise StoreError(
                f"image {image.image_id}: its source's header does not suffice for a DICOM SEG ({reason}); "
                "export it as nifti"
            ) from error
    return {"segments": len(classes), "frames": int(made.NumberOfFrames)}


def _library(image: Image) -> Any:
    try:
        import highdicom
        import highdicom.seg
    except ImportError as error:
        raise StoreError(
            f"image {image.image_id}: a DICOM SEG needs the extra `dicom`: pip install 'segcore[dicom]'"
        ) from error
    return highdicom


def _numbers(image: Image, mask: Label, grid: SourceGrid, classes: list[ClassInfo]) -> npt.NDArray[Any]:
    """The segment of every pixel of the source (z, y, x); 0 = none."""
    table = np.zeros(np.iinfo(mask.dtype).max + 1, np.uint8 if len(classes) < 256 else np.uint16)
    table[[info.id for info in classes]] = np.arange(1, len(classes) + 1)
    known = np.zeros(len(table), np.bool_)
    known[[info.id for info in mask.classes]] = known[mask.ignore] = True
    numbers = np.empty(int(np.prod(grid.shape)), table.dtype)
    at = 0
    for ids in grid.bands():
        if not known[ids].all():
            unknown = int(ids[~known[ids]][0])
            raise StoreError(f"image {image.image_id}: mask {mask.name} holds {unknown}, which is no class")
        numbers[at : at + ids.size] = table[ids].ravel()
        at += ids.size
    return numbers.reshape(grid.num_planes, *grid.shape[-2:])


def _description(number: int, info: ClassInfo, image: Image, mask: Label, config: ExportConfig) -> Any:
    """A class, with a code of our own: what it is in SNOMED's words nobody told us."""
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    told = lineage(image, mask)
    name = plain(info.name).replace("\\", "/")[:MAX_NAME]  # a backslash would make it two
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=told.get("model", mask.name)[:MAX_NAME],
        family=codes.DCM.ArtificialIntelligence,
        version=told.get("model_digest", stamp(mask, config))[:MAX_NAME],
        source="segcore",
        parameters={KEY: stamp(mask, config), **told},
    )
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=Code(f"class-{info.id}", "99SEGCORE", name),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        display_color=highdicom.color.CIELabColor.from_rgb(*info.color),
    )


def _identity(mask: Label, config: ExportConfig) -> dict[str, Any]:
    """What the object is called: UIDs and versions."""
    whole = json.dumps([stamp(mask, config), mask.image_id, segcore.__version__])
    return {
        "series_instance_uid": uid_of(f"series {whole}"),
        "series_number": SERIES_NUMBER,
        "sop_instance_uid": uid_of(f"instance {whole}"),
        "instance_number": 1,
        "manufacturer": "segcore",
        "manufacturer_model_name": "segcore",
        "software_versions": segcore.__version__,
        "device_serial_number": stamp(mask, config)[:MAX_NAME],
        "content_description": f"mask {mask.name}"[:MAX_NAME],
        "series_description": f"segcore {mask.name}"[:MAX_NAME],
        "specific_character_set": "ISO_IR 192",
    }


def _syntax(config: ExportConfig) -> Any:
    """Single bits stay as they are, which everybody reads; label maps are packed."""
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    return ExplicitVRLittleEndian if config.dicom_segmentation == "binary" else RLELossless


def dicom_seg_stamp(stream: IO[bytes]) -> str | None:
    """The stamp in a file that may be anything; its pixels are not read."""
    try:
        import pydicom

        found = pydicom.dcmread(stream, stop_before_pixels=True)
        segments = found.SegmentSequence
        kept = [item.get("SegmentationAlgorithmIdentificationSequence") for item in segments]
        text = next(str(item[0].AlgorithmParameters) for item in kept if item)
    except Exception:  # noqa: BLE001 - pydicom raises anything on a damaged file: there is no stamp in it
        return None
    matched = re.match(rf"{KEY}=([A-Za-z0-9-]+)", text)
    return matched[1] if matched else None
