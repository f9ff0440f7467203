"""What is read as a GeoTIFF or JPEG 2000: `geo` opens it, and GDAL is loaded with the first of them."""

from segcore.sources.base import Format, Reader, opened_by
from segcore.sources.jpeg2000_header import is_jpeg2000

READER = Reader(
    name="GeoTIFF, JPEG 2000",
    rank=20,
    matches=lambda file: is_jpeg2000(file.head) or (file.tiff is not None and file.tiff.is_geo),
    open=opened_by("geo"),
    formats=(
        Format(
            "GeoTIFF, COG",
            (".tif", ".tiff"),
            "all bands; CRS, transform, nodata, mask, alpha, overviews; scale and offset are kept beside the pixels",
        ),
        Format("JPEG 2000", (".jp2", ".j2k"), "as GeoTIFF, with GeoJP2 and GMLJP2; also without a georeference"),
    ),
)
