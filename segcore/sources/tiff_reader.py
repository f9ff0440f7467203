"""What is read as a TIFF: `tiff` opens it, and tifffile is loaded with the first of them."""

from segcore.sources.base import Format, Reader, opened_by

READER = Reader(
    name="TIFF, OME-TIFF",
    rank=30,
    matches=lambda file: file.tiff is not None,
    open=opened_by("tiff"),
    formats=(
        Format(
            "TIFF, BigTIFF, OME-TIFF, ImageJ TIFF",
            (".tif", ".tiff"),
            "z stacks, time series, channels; `::1` is the second image",
        ),
    ),
)
