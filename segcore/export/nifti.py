"""NIfTI (.nii.gz): a mask in its source's own grid, affine and orientation, through nibabel (extra `volumes`).

Index (x, y, z) of the file is the transpose of the mask's (z, y, x), as the reader takes it: plane after plane, so that
it is written as it is read, and memory does not grow. A mask of one plane has z = 1. Source: NIfTI-1 and NIfTI-2 data
format (nifti1.h, nifti2.h).
"""

import gzip
import io
import itertools
import json
import re
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.export.source_grid import SourceGrid
from segcore.export.stamp import KEY, lineage, stamp
from segcore.spatial import METERS_PER_UNIT, Spacing
from segcore.store import Image, Label

GZIP_LEVEL = 4
"""Several times as fast as the default of 9; ids are packed well by any."""
MAX_SIDE_NIFTI1 = 32767
LABELS = 1002
"""NIFTI_INTENT_LABEL: the values are ids."""
SCANNER = 1
"""NIFTI_XFORM_SCANNER_ANAT: the space that an affine maps to, where the source does not tell."""
SPACES = range(SCANNER, 6)
"""The codes that there are: scanner, aligned, Talairach, MNI 152, another template."""
FAR_OFF = 0.05
"""How far the qform may put a voxel from where the sform puts it, in sides of the smallest voxel."""
HEAD_BYTES = 2**20
"""Of a file in which the stamp is looked for."""


def write_nifti(image: Image, mask: Label, path: Path, config: ExportConfig) -> dict[str, Any]:
    """Write the ids of a mask, or of its objects, on the pixels of its source; the nearest where it was made on others.

    Stamp, lineage and the names of the classes are in a header extension, as JSON.

    Raises:
        StoreError: if nibabel is missing.
    """
    grid = SourceGrid(image, mask)
    shape = [*grid.shape[::-1], 1][:3]
    head = _head(image, mask, grid, config)
    little = mask.dtype.newbyteorder("<")
    with path.open("wb") as raw, gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as sink:  # equal masks, equal bytes
        sink.write(head)
        for rows in grid.bands():
            sink.write(rows.astype(little, copy=False).tobytes())
    return {"shape": shape}


def _head(image: Image, mask: Label, grid: SourceGrid, config: ExportConfig) -> bytes:
    """Header and extension, up to the first voxel."""
    nibabel = _library(image)
    shape = [*grid.shape[::-1], 1][:3]
    header = nibabel.Nifti1Header() if max(shape) <= MAX_SIDE_NIFTI1 else nibabel.Nifti2Header()
    header.set_data_dtype(mask.dtype)
    header.set_data_shape(shape)
    header.set_slope_inter(1, 0)
    header["intent_code"] = LABELS
    header["descrip"] = f"segcore {mask.digest or ''}"[:79]
    if grid.affine is not None:
        header.set_xyzt_units("mm")
        space = image.attributes.get("details", {}).get("space_code")
        _place(header, np.array(grid.affine.matrix), space if space in SPACES else SCANNER)
    elif (sides := _sides_mm(grid.spacing)) is not None:
        header.set_xyzt_units("mm")
        header.set_zooms(sides)
    told = {
        KEY: stamp(mask, config),
        "lineage": lineage(image, mask),
        "classes": [info.model_dump(mode="json") for info in mask.classes],
    }
    header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", json.dumps(told).encode()))
    block = io.BytesIO()
    header.write_to(block)
    return block.getvalue().ljust(int(header["vox_offset"]), b"\0")


def _library(image: Image) -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise StoreError(
            f"image {image.image_id}: NIfTI needs the extra `volumes`: pip install 'segcore[volumes]'"
        ) from error
    return nibabel


def _place(header: Any, matrix: np.ndarray[Any, Any], space: int) -> None:
    """Sform, and qform where a rotation says the same of every voxel: it knows no shears."""
    header.set_sform(matrix, space)
    header.set_qform(matrix, space, strip_shears=True)
    last = [side - 1 for side in header.get_data_shape()]
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n) for n in last))])
    apart = corners @ (header.get_qform() - matrix).T
    if np.abs(apart).max() > FAR_OFF * min(header.get_zooms()):
        header.set_qform(None)


def _sides_mm(spacing: Spacing | None) -> tuple[float, float, float] | None:
    """Of a voxel, (x, y, z); an axis that has none is 1. None where nothing is known."""
    factor = METERS_PER_UNIT.get(spacing.unit) if spacing is not None else None
    if spacing is None or factor is None:
        return None
    x, y, z = (spacing.values[axis] * factor * 1e3 if axis in spacing.values else 1.0 for axis in "xyz")
    return (x, y, z)


def nifti_stamp(stream: IO[bytes]) -> str | None:
    """The stamp in a file that may be anything: it stands before the first voxel."""
    try:
        head = gzip.GzipFile(fileobj=stream).read(HEAD_BYTES)
    except (OSError, EOFError, zlib.error):
        return None
    found = re.search(rb'"%s": "([A-Za-z0-9-]+)"' % KEY.encode(), head)
    return found[1].decode() if found else None
