"""OME-Zarr 0.4: a mask as a folder of its own, which needs no image beside it; written chunk by chunk.

One multiscale of the mask's axes, with the colours and names of its classes (`image-label`), in Zarr v2 as QuPath and
Bio-Formats read it. Source: OME-NGFF 0.4.
"""

import re
from pathlib import Path
from typing import IO, Any

from segcore.config import ExportConfig
from segcore.export.stamp import KEY, lineage, stamp
from segcore.store import Image, Label, standalone_label

MARK = ".zattrs"
"""The file that holds the attributes, written last."""
HEAD_BYTES = 2**24
"""Of the attributes in which the stamp is looked for."""


def write_ome_zarr(image: Image, mask: Label, path: Path, config: ExportConfig) -> dict[str, Any]:
    """Write the ids of a mask, or of its objects, with all levels, to a new folder."""
    more = {"segcore": {KEY: stamp(mask, config), "lineage": lineage(image, mask)}}
    num_files = 0
    for key, data in standalone_label(image, mask, more):
        place = path / key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        num_files += 1
    return {"files": num_files}


def ome_zarr_stamp(stream: IO[bytes]) -> str | None:
    """The stamp in attributes that may be anything."""
    found = re.search(rb'"%s": "([A-Za-z0-9-]+)"' % KEY.encode(), stream.read(HEAD_BYTES))
    return found[1].decode() if found else None
