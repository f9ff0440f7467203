"""TIFF limits: what a header asks for is refused before a format library follows it; what is honest passes."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.transform import from_origin

from segcore.errors import SourceError
from segcore.sources import Limits, Opening, open_source
from segcore.sources.files import SourceFile
from segcore.sources.tiff_limits import check_directories

DOCTYPE = '<!DOCTYPE x [<!ENTITY a "b">]>'


def refused(path: Path, said: str, limits: Limits | None = None) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        open_source(str(path), Opening(limits=limits or Limits()))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def pages(path: Path, num_pages: int = 3, **options: Any) -> Path:
    with tifffile.TiffWriter(path, **options) as writer:
        for _ in range(num_pages):
            writer.write(np.zeros((8, 9), np.uint8), contiguous=False, metadata=None)
    return path


def next_at(path: Path, number: int) -> tuple[int, str]:
    """Where the offset of the directory behind a page's stands, and its struct code."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[number]
        if tiff.is_bigtiff:
            return page.offset + 8 + 20 * len(page.tags), "<Q"
        return page.offset + 2 + 12 * len(page.tags), "<I"


def patch(path: Path, at: int, code: str, value: int) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(code, data, at, value)
    path.write_bytes(data)


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}], ids=["classic", "big"])
@pytest.mark.parametrize(("last", "back_to"), [(2, 0), (2, 1), (0, 0)])
def test_directories_in_a_loop_are_named(tmp_path: Path, options: dict[str, Any], last: int, back_to: int) -> None:
    path = pages(tmp_path / "loop.tif", **options)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[back_to].offset
    patch(path, *next_at(path, last), offset)
    refused(path, rf"run in a loop \(the one at byte {offset} comes twice\)")


def test_a_loop_of_sub_directories_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sub.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((8, 8), np.uint8), subifds=1, metadata=None)
        writer.write(np.zeros((4, 4), np.uint8), metadata=None)
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages.first.tags[330]
        patch(path, found.valueoffset, "<I", tiff.pages.first.offset)
    refused(path, "run in a loop")


def test_more_pages_than_the_limit(tmp_path: Path) -> None:
    path = pages(tmp_path / "pages.tif", 5)
    check_directories(SourceFile(str(path)), Limits(max_pages=5))
    refused(path, "more pages than the limit max_pages = 4", Limits(max_pages=4))


def test_a_directory_behind_the_end_is_a_cut_file(tmp_path: Path) -> None:
    path = pages(tmp_path / "cut.tif")
    patch(path, *next_at(path, 2), 10**6)
    refused(path, "the file is cut off: a TIFF directory is at byte 1000000 of")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_xml_of_every_page_is_looked_at(tmp_path: Path, number: int) -> None:
    path = tmp_path / "xml.tif"
    with tifffile.TiffWriter(path) as writer:
        for page in range(3):
            text = f"<OME>{DOCTYPE}</OME>" if page == number else "plain"
            writer.write(np.zeros((8, 9), np.uint8), contiguous=False, metadata=None, description=text)
    refused(path, "DOCTYPE or ENTITY")
    if number == 2:
        refused(path, "max_metadata_bytes = 20", Limits(max_metadata_bytes=20))


def test_metadata_over_sixteen_mib_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.tif"
    tifffile.imwrite(path, np.zeros((8, 9), np.uint8), metadata=None, description="x" * (2**24 + 1))
    refused(path, r"its metadata \(TIFF tag 270\) is over 16 MiB")


@pytest.mark.parametrize("length", [0.5, 0.9, 0.99])
def test_ome_xml_that_was_cut_off_is_no_plain_stack(tmp_path: Path, length: float) -> None:
    path = tmp_path / "cut.ome.tif"
    tifffile.imwrite(path, np.zeros((2, 4, 8, 9), np.uint8), ome=True, metadata={"axes": "CZYX"})
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages.first.tags[270]
        assert found.valueoffset + found.count >= path.stat().st_size - 1, "the XML lies at the end of the file"
    path.write_bytes(path.read_bytes()[: found.valueoffset + int(found.count * length)])
    refused(path, "the file is cut off: a TIFF directory refers to byte")


def test_a_geotiff_has_no_parts(tmp_path: Path) -> None:
    path = tmp_path / "geo.tif"
    extra = [(33550, "d", 3, (1.0, 1.0, 0.0), True), (33922, "d", 6, (0.0,) * 6, True)]
    tifffile.imwrite(path, np.zeros((8, 9), np.uint8), metadata=None, extratags=extra)
    with pytest.raises(SourceError, match="read as one image; leave out '::1'"):
        open_source(f"{path}::1")


@pytest.mark.parametrize("tag", [42112, 700])
def test_xml_of_gdal_and_xmp_is_looked_at_before_gdal_is(tmp_path: Path, tag: int) -> None:
    path = tmp_path / "geo.tif"
    scale, tie = (33550, "d", 3, (1.0, 1.0, 0.0), True), (33922, "d", 6, (0.0,) * 6, True)
    text = f"<GDALMetadata>{DOCTYPE}</GDALMetadata>".encode()
    code = "s" if tag == 42112 else "B"
    tifffile.imwrite(
        path, np.zeros((8, 9), np.uint8), metadata=None, extratags=[scale, tie, (tag, code, len(text), text, True)]
    )
    assert (SourceFile(str(path)).tiff or pytest.fail("no TIFF")).is_geo
    refused(path, "DOCTYPE or ENTITY")


@pytest.mark.parametrize("geo", [False, True])
def test_pixels_that_the_file_cannot_hold_are_refused(tmp_path: Path, geo: bool) -> None:
    path = tmp_path / "bomb.tif"
    extra = [(33550, "d", 3, (1.0, 1.0, 0.0), True), (33922, "d", 6, (0.0,) * 6, True)] if geo else []
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), tile=(16, 16), compression="zlib", extratags=extra)
    with tifffile.TiffFile(path) as tiff:
        places = [tiff.pages.first.tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
    for place in places:
        patch(path, place, "<H", 60000)
    refused(path, "3600000000 bytes of pixels from a file of .* limit max_ratio = 50000")


def test_honest_compression_passes(tmp_path: Path, data_dir: Path) -> None:
    check_directories(SourceFile(str(data_dir / "geotiff/scale/cog_world_36000x18000.tif")), Limits())
    blank = tmp_path / "blank.tif"
    tifffile.imwrite(blank, np.zeros((4096, 4096), np.uint8), tile=(1024, 1024), compression="zstd")
    check_directories(SourceFile(str(blank)), Limits())
    sparse = tmp_path / "sparse.tif"
    with rasterio.open(
        sparse, "w", driver="GTiff", width=200_000, height=200_000, count=1, dtype="uint8", tiled=True, sparse_ok=True,
        blockxsize=1024, blockysize=1024, compress="deflate", transform=from_origin(5e5, 4e6, 10, 10), crs="EPSG:32631",
    ) as dataset:  # fmt: skip
        dataset.write(np.ones((1, 1024, 1024), np.uint8), window=((0, 1024), (0, 1024)))
    with open_source(str(sparse)) as source:
        assert source.info.shape == (1, 200_000, 200_000)


@pytest.mark.parametrize("page", [0, 1])
def test_tiles_of_every_page_keep_to_the_limit(tmp_path: Path, page: int) -> None:
    path = tmp_path / "tiles.tif"
    with tifffile.TiffWriter(path) as writer:
        for number in range(2):
            tile = (64, 64) if number == page else (16, 16)
            writer.write(np.zeros((64, 64), np.uint8), tile=tile, compression="zlib", metadata=None)
    refused(path, "a tile of 64 x 64 px takes 4096 bytes, over the limit max_tile_bytes = 1000", Limits(
        max_tile_bytes=1000
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [('PlaneCount="4"', 'PlaneCount="900000000"'), ('SizeZ="4"', 'SizeZ="900000000"'), ('IFD="0"', 'IFD="900000000"')],
)
def test_ome_xml_that_tells_of_too_many_planes(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "planes.ome.tif"
    tifffile.imwrite(path, np.zeros((4, 8, 9), np.uint8), ome=True, metadata={"axes": "ZYX"})
    xml = tifffile.tiffcomment(path)
    assert old in xml
    tifffile.tiffcomment(path, xml.replace(old, new))
    refused(path, "tells of 900000000 planes, over the limit max_pages = 100000")


def test_damaged_ome_xml_is_said(tmp_path: Path) -> None:
    path = tmp_path / "damaged.ome.tif"
    tifffile.imwrite(path, np.zeros((4, 8, 9), np.uint8), ome=True, metadata={"axes": "ZYX"})
    tifffile.tiffcomment(path, tifffile.tiffcomment(path).replace("<Pixels", "<<ixels"))
    refused(path, "its OME-XML is damaged")
