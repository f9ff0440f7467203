"""TIFF: every way of storing pixels that we promise, against tifffile's own reading of the whole."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from werkzeug.serving import WSGIRequestHandler

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Limits, Opening, open_source
from segcore.sources.tiff_segments import SegmentReader
from tests.conftest import Bucket

RNG = np.random.default_rng(7)


def noise(shape: tuple[int, ...], dtype: Any = np.uint8) -> Any:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return RNG.normal(size=shape).astype(kind)
    limits = np.iinfo(kind)
    return RNG.integers(limits.min, limits.max, size=shape, dtype=kind, endpoint=True)


def save(folder: Path, *args: Any, **options: Any) -> str:
    path = folder / "written.tif"
    tifffile.imwrite(path, *args, **options)
    return str(path)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_every_type_in_both_byte_orders(tmp_path: Path, assert_reads: Any, dtype: str, byteorder: str) -> None:
    pixels = noise((61, 47), dtype)
    path = save(tmp_path, pixels, byteorder=byteorder, rowsperstrip=7)
    with open_source(path) as source:
        assert (source.info.reader, source.info.axes, source.info.channels) == ("tiff", ("c", "y", "x"), ("grey",))
        assert_reads(source, pixels[np.newaxis])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 10},
        {"tile": (16, 32)},
        {"tile": (64, 64), "bigtiff": True},
        {"compression": "zlib", "rowsperstrip": 9},
        {"compression": "lzw", "predictor": True, "tile": (32, 32)},
        {"compression": "zstd", "tile": (32, 48)},
        {"compression": "packbits", "rowsperstrip": 1},
        {"compression": "jpeg2000", "tile": (32, 48)},
        {"compression": "webp", "compressionargs": {"lossless": True}, "tile": (32, 48)},
        {"compression": "lerc", "tile": (32, 48)},
        {"compression": "lzma", "rowsperstrip": 20},
        {"planarconfig": "separate", "rowsperstrip": 11},
        {"planarconfig": "separate", "tile": (16, 16), "compression": "zlib"},
    ],
    ids=str,
)
def test_every_way_to_cut_and_compress(tmp_path: Path, assert_reads: Any, options: dict[str, Any]) -> None:
    pixels = noise((3, 90, 77))
    separate = options.get("planarconfig") == "separate"
    path = save(tmp_path, pixels if separate else np.moveaxis(pixels, 0, -1), photometric="rgb", **options)
    with open_source(path) as source:
        assert source.info.channels == ("red", "green", "blue")
        assert not source.info.has_valid
        assert_reads(source, pixels)


@pytest.mark.parametrize(
    ("dtype", "predictor"),
    [
        *((dtype, 2) for dtype in ("uint8", "int8", "uint16", "int16", "uint32", "int32")),
        ("float32", 3),
        ("float64", 3),
    ],
)
@pytest.mark.parametrize("options", [{"tile": (32, 32)}, {"rowsperstrip": 9, "byteorder": ">"}], ids=str)
def test_predictors(tmp_path: Path, assert_reads: Any, dtype: str, predictor: int, options: dict[str, Any]) -> None:
    pixels = noise((61, 47), dtype)
    with open_source(save(tmp_path, pixels, predictor=predictor, compression="zlib", **options)) as source:
        assert_reads(source, pixels[np.newaxis])


@pytest.mark.parametrize("compression", ["lerc", "zstd", "jpeg2000"])
def test_wide_pixels_in_modern_compressions(tmp_path: Path, assert_reads: Any, compression: str) -> None:
    pixels = noise((61, 47), "uint16" if compression == "jpeg2000" else "float32")
    with open_source(save(tmp_path, pixels, compression=compression, tile=(32, 32))) as source:
        assert_reads(source, pixels[np.newaxis])


@pytest.mark.parametrize("compression", ["jpeg", "webp", "jpeg2000", "jpegxl"])
def test_lossy_tiles_are_those_of_tifffile(tmp_path: Path, assert_reads: Any, compression: str) -> None:
    y, x = np.mgrid[0:100, 0:120]
    smooth = np.stack([y * 2, x * 2, y + x], -1).astype(np.uint8)
    path = save(
        tmp_path, smooth, photometric="rgb", compression=compression, compressionargs={"level": 60}, tile=(64, 64)
    )
    with open_source(path) as source:
        assert_reads(source, np.moveaxis(tifffile.imread(path), -1, 0))


@pytest.mark.parametrize(("kind", "premultiplied"), [("unassalpha", False), ("assocalpha", True)])
def test_alpha_says_what_is_usable(tmp_path: Path, assert_reads: Any, kind: str, premultiplied: bool) -> None:
    rgba = noise((40, 50, 4))
    rgba[..., 3] = RNG.choice([0, 128, 255], size=(40, 50))
    stored = rgba.copy()
    if premultiplied:
        stored[..., :3] = np.minimum(rgba[..., :3], rgba[..., 3:])
    path = save(tmp_path, stored, photometric="rgb", extrasamples=[kind], tile=(16, 16))
    colors = stored[..., :3]
    if premultiplied:
        divided = stored[..., :3].astype(float) * 255 / np.maximum(stored[..., 3:], 1)
        colors = np.minimum(np.rint(divided), 255).astype(np.uint8)
    with open_source(path) as source:
        assert source.info.has_valid
        assert_reads(source, np.moveaxis(colors, -1, 0), valid=rgba[..., 3] > 0)


def test_a_fourth_band_that_is_not_alpha_stays_a_channel(tmp_path: Path, assert_reads: Any) -> None:
    bands = noise((4, 40, 50), "uint16")
    path = save(tmp_path, np.moveaxis(bands, 0, -1), photometric="rgb", extrasamples=["unspecified"])
    with open_source(path) as source:
        assert not source.info.has_valid
        assert_reads(source, bands)


def test_a_palette_is_its_colours_or_its_indices(tmp_path: Path, assert_reads: Any) -> None:
    indices = noise((30, 40)) % 5
    colormap = noise((3, 256), "uint16")
    path = save(tmp_path, indices, photometric="palette", colormap=colormap)
    colors = (colormap >> 8).astype(np.uint8)
    with open_source(path) as source:
        assert source.info.channels == ("red", "green", "blue")
        assert_reads(source, colors[:, indices])
    with open_source(path, Opening(indexed=True)) as source:
        assert source.info.channels == ("index",)
        assert source.info.details["palette"][3] == colors[:, 3].tolist()
        assert_reads(source, indices[np.newaxis])


def test_one_bit_and_min_is_white(tmp_path: Path, assert_reads: Any) -> None:
    bits = RNG.integers(0, 2, (33, 45)).astype(bool)
    with open_source(save(tmp_path, bits, photometric="minisblack")) as source:
        assert_reads(source, bits[np.newaxis].astype(np.uint8))
    with open_source(save(tmp_path, bits, photometric="miniswhite")) as source:
        assert_reads(source, 1 - bits[np.newaxis].astype(np.uint8))
    with open_source(save(tmp_path, bits, photometric="miniswhite"), Opening(indexed=True)) as source:
        assert_reads(source, bits[np.newaxis].astype(np.uint8))
    grey = noise((33, 45), "uint16")
    with open_source(save(tmp_path, grey, photometric="miniswhite")) as source:
        assert_reads(source, 65535 - grey[np.newaxis])


@pytest.mark.parametrize(
    ("axes", "ours"),
    [
        ("CYX", ("c", "y", "x")),
        ("ZYX", ("c", "z", "y", "x")),
        ("TYX", ("t", "c", "y", "x")),
        ("CZYX", ("c", "z", "y", "x")),
        ("ZCYX", ("c", "z", "y", "x")),
        ("TCYX", ("t", "c", "y", "x")),
        ("CTYX", ("t", "c", "y", "x")),
    ],
)
@pytest.mark.parametrize("options", [{"tile": (16, 16), "compression": "zlib"}, {}], ids=["tiles", "plain"])
def test_ome_axes(tmp_path: Path, assert_reads: Any, axes: str, ours: tuple[str, ...], options: dict[str, Any]) -> None:
    sizes = {"C": 2, "Z": 4, "T": 3, "Y": 31, "X": 37}
    pixels = noise(tuple(sizes[axis] for axis in axes), "uint16")
    path = save(tmp_path, pixels, ome=True, metadata={"axes": axes}, photometric="minisblack", **options)
    named = axes if "C" in axes else f"C{axes}"
    whole = pixels.reshape([sizes[axis] if axis in axes else 1 for axis in named])
    with open_source(path) as source:
        assert source.info.axes == ours
        assert_reads(source, whole.transpose([named.index(axis.upper()) for axis in ours]))


def test_ome_pages_of_rgb_are_channels(tmp_path: Path, assert_reads: Any) -> None:
    pixels = noise((4, 20, 30, 3))
    path = save(tmp_path, pixels, ome=True, metadata={"axes": "ZYXS"}, photometric="rgb")
    with open_source(path) as source:
        assert source.info.axes == ("c", "z", "y", "x")
        assert source.info.channels == ("red", "green", "blue")
        assert_reads(source, pixels.transpose(3, 0, 1, 2))


def test_ome_spacing_and_channel_names(tmp_path: Path) -> None:
    metadata = {
        "axes": "CZYX",
        "Channel": {"Name": ["DAPI", "GFP"]},
        "PhysicalSizeX": 325.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.65,
        "PhysicalSizeYUnit": "µm",
        "PhysicalSizeZ": 0.002,
        "PhysicalSizeZUnit": "mm",
    }
    with open_source(save(tmp_path, noise((2, 3, 8, 9)), ome=True, metadata=metadata)) as source:
        assert source.info.channels == ("DAPI", "GFP")
        assert source.info.spacing is not None
        assert source.info.spacing.unit == "nanometer"
        assert source.info.spacing.values == pytest.approx({"z": 2000.0, "y": 650.0, "x": 325.0})


@pytest.mark.parametrize(
    ("resolution", "unit", "um"),
    [
        ((20000, 10000), "CENTIMETER", {"y": 1.0, "x": 0.5}),
        ((2540, 2540), "INCH", {"y": 10.0, "x": 10.0}),
        ((72, 72), "INCH", None),
        ((96, 96), "INCH", None),
        ((1, 1), "CENTIMETER", None),
        ((20000, 10000), "NONE", None),
    ],
)
def test_spacing_of_resolution_tags(tmp_path: Path, resolution: Any, unit: str, um: dict[str, float] | None) -> None:
    with open_source(save(tmp_path, noise((8, 9)), resolution=resolution, resolutionunit=unit)) as source:
        spacing = source.info.spacing
        assert (spacing is None) == (um is None)
        if spacing is not None:
            assert spacing.unit == "micrometer"
            assert spacing.values == pytest.approx(um)


def test_an_imagej_stack_without_directories_of_its_own(tmp_path: Path, assert_reads: Any) -> None:
    pixels = noise((5, 2, 31, 43), "uint16")
    metadata = {"axes": "ZCYX", "spacing": 3.0, "unit": "um"}
    path = save(tmp_path, pixels, imagej=True, metadata=metadata, resolution=(2, 4))
    data = Path(path).read_bytes()
    order = ">" if data[:2] == b"MM" else "<"
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    end = first + 2 + 12 * struct.unpack_from(f"{order}H", data, first)[0]
    # ImageJ writes one directory only when a stack is over 4 GB: cut the chain behind the first.
    Path(path).write_bytes(data[:end] + bytes(4) + data[end + 4 :])
    with tifffile.TiffFile(path) as cut:
        assert len(cut.pages) == 1
    with open_source(path) as source:
        assert source.info.axes == ("c", "z", "y", "x")
        assert source.info.spacing is not None
        assert source.info.spacing.values == pytest.approx({"z": 3.0, "y": 0.25, "x": 0.5})
        assert_reads(source, pixels.transpose(1, 0, 2, 3))


def test_pages_of_which_nothing_is_said_are_a_stack(tmp_path: Path, assert_reads: Any) -> None:
    pixels = noise((6, 20, 30))
    path = str(tmp_path / "pages.tif")
    with tifffile.TiffWriter(path) as writer:
        for page in pixels:
            writer.write(page, contiguous=False, metadata=None)
    with open_source(path) as source:
        assert source.info.axes == ("c", "z", "y", "x")
        assert_reads(source, pixels[np.newaxis])


def test_only_touched_tiles_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, noise((256, 256)), tile=(32, 32), compression="zlib")
    read: list[int] = []
    original = SegmentReader._decoded

    def spy(self: SegmentReader, page: int, cell: tuple[int, ...], index: int) -> Any:
        read.append(index)
        return original(self, page, cell, index)

    monkeypatch.setattr(SegmentReader, "_decoded", spy)
    with open_source(path) as source:
        source.read(Window((0, 33, 60), (1, 30, 40)))
        assert sorted(read) == [8 + 1, 8 + 2, 8 + 3]
        source.read(Window((0, 33, 60), (1, 30, 40)))
        assert len(read) == 3


def test_of_a_plain_strip_only_the_wanted_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, noise((1000, 100)), rowsperstrip=1000)
    asked: list[int] = []
    original = SegmentReader._bytes

    def spy(self: SegmentReader, offset: int, count: int) -> bytes:
        asked.append(count)
        return original(self, offset, count)

    monkeypatch.setattr(SegmentReader, "_bytes", spy)
    with open_source(path, Opening(limits=Limits(max_tile_bytes=10_000))) as source:
        source.read(Window((0, 500, 10), (1, 3, 5)))
    assert asked == [300]


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (Limits(max_px=99), "max_px = 99"),
        (Limits(max_channels=2), "max_channels = 2"),
        (Limits(max_tile_bytes=255), "max_tile_bytes = 255"),
    ],
)
def test_limits_are_checked_from_the_header(tmp_path: Path, limits: Limits, named: str) -> None:
    path = save(tmp_path, noise((10, 10, 3)), photometric="rgb", compression="zlib")
    with pytest.raises(SourceError, match=named) as caught:
        open_source(path, Opening(limits=limits))
    assert path in str(caught.value)


@pytest.mark.parametrize("declared", ['<!DOCTYPE x [<!ENTITY a "b">]>', "<!DOCTYPE OME>", "<!entity a 'b'>"])
def test_xml_that_declares_entities_is_refused(tmp_path: Path, declared: str) -> None:
    xml = f'<?xml version="1.0"?>{declared}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"></OME>'
    path = save(tmp_path, noise((8, 8)), description=xml, metadata=None)
    with pytest.raises(SourceError, match="DOCTYPE or ENTITY"):
        open_source(path)


def test_metadata_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, noise((8, 8)), description="x" * 2000, metadata=None)
    with pytest.raises(SourceError, match="max_metadata_bytes = 1000"):
        open_source(path, Opening(limits=Limits(max_metadata_bytes=1000)))


def test_ome_xml_that_names_other_files_is_refused_and_they_stay_closed(tmp_path: Path) -> None:
    other, path = tmp_path / "other.ome.tif", tmp_path / "first.ome.tif"
    tifffile.imwrite(other, noise((8, 8)))
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, noise((2, 8, 8)), ome=True, metadata={"axes": "ZYX"})
    buffer.seek(0)
    xml = tifffile.TiffFile(buffer).ome_metadata
    assert xml is not None
    block = '<TiffData IFD="0" FirstZ="1" PlaneCount="1"><UUID FileName="other.ome.tif">urn:uuid:1</UUID></TiffData>'
    start, end = xml.index("<TiffData"), xml.index("</Pixels>")
    own = '<TiffData IFD="0" FirstZ="0" PlaneCount="1"><UUID FileName="first.ome.tif">urn:uuid:0</UUID></TiffData>'
    tifffile.imwrite(path, noise((8, 8)), description=xml[:start] + own + block + xml[end:], metadata=None)
    with pytest.raises(SourceError, match="not in this file"):
        open_source(str(path))


def test_a_file_that_is_cut_off_fails_where_pixels_are_missing(tmp_path: Path) -> None:
    pixels = noise((64, 64), "uint16")
    path = Path(save(tmp_path, pixels, rowsperstrip=16))
    path.write_bytes(path.read_bytes()[:-1000])
    with open_source(str(path)) as source:
        np.testing.assert_array_equal(source.read(Window((0, 0, 0), (1, 32, 64)))[0], pixels[:32])
        with pytest.raises(SourceError, match="cut off"):
            source.read(Window((0, 48, 0), (1, 16, 64)))


def several(folder: Path, ome: bool) -> tuple[str, list[Any]]:
    """A TIFF of three images that differ in all."""
    path = folder / f"several{'.ome' if ome else ''}.tif"
    images = [noise((2, 3, 40, 50), "uint16"), noise((31, 37)), noise((2, 20, 30), "float32")]
    with tifffile.TiffWriter(path, ome=ome) as writer:
        for number, (pixels, axes) in enumerate(zip(images, ("CZYX", "YX", "CYX"), strict=True)):
            metadata = {"axes": axes, "PhysicalSizeX": number + 1.0, "PhysicalSizeY": number + 2.0}
            writer.write(pixels, metadata=metadata, photometric="minisblack", tile=(16, 16), compression="zlib")
    return str(path), [images[0], images[1][np.newaxis], images[2]]


@pytest.mark.parametrize("ome", [True, False])
def test_of_several_images_the_first_or_the_one_that_is_asked_for(tmp_path: Path, assert_reads: Any, ome: bool) -> None:
    path, images = several(tmp_path, ome)
    with open_source(path) as source:
        assert source.info.details["images"] == 3
        assert_reads(source, images[0])
    for number, pixels in enumerate(images):
        with open_source(f"{path}::{number}") as source:
            assert source.info.uri == f"{path}::{number}"
            assert_reads(source, pixels)
            if ome:
                assert source.info.spacing is not None
                values = source.info.spacing.values
                assert values == {"y": number + 2.0, "x": number + 1.0}


@pytest.mark.parametrize("member", ["3", "-1", "one", "", "²", "1.0"])
def test_an_image_that_is_not_there(tmp_path: Path, member: str) -> None:
    path = several(tmp_path, ome=True)[0]
    with pytest.raises(SourceError, match=r"it holds 3; expected ::0 to ::2") as caught:
        open_source(f"{path}::{member}")
    assert str(caught.value).startswith(f"{path}::{member}: has no image '{member}'")


@pytest.mark.parametrize("how", ["ome", "sub", "pages"])
def test_levels_are_read_without_the_finer_ones(
    tmp_path: Path, assert_reads: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pixels = noise((2, 3, 200, 170), "uint16") if how == "ome" else noise((200, 170))
    steps = [pixels[..., ::step, ::step] for step in (1, 2, 4)]
    path = str(tmp_path / "levels.tif")
    options = {"tile": (32, 32), "compression": "zlib", "photometric": "minisblack"}
    with tifffile.TiffWriter(path, ome=how == "ome") as writer:
        axes = {"axes": "CZYX"} if how == "ome" else None
        writer.write(pixels, subifds=0 if how == "pages" else 2, metadata=axes, **options)
        for step in steps[1:]:
            writer.write(step, subfiletype=1, metadata=None, **options)
    read: list[int] = []
    original = SegmentReader._bytes

    def spy(self: SegmentReader, offset: int, count: int) -> bytes:
        read.append(count)
        return original(self, offset, count)

    monkeypatch.setattr(SegmentReader, "_bytes", spy)
    with open_source(path) as source:
        assert source.info.levels == ((200, 170), (100, 85), (50, 43))
        for level, expected in reversed(list(enumerate(steps))):
            whole = Window.whole(source.shape(level))
            read.clear()
            np.testing.assert_array_equal(source.read(whole, level), expected.reshape(whole.shape))
            assert len(read) == -(-expected.shape[-2] // 32) * -(-expected.shape[-1] // 32) * (6 if how == "ome" else 1)
            inner = Window((*whole.start[:-2], 7, 9), (*whole.shape[:-2], 30, 31))
            np.testing.assert_array_equal(source.read(inner, level), expected.reshape(whole.shape)[inner.slices])


@pytest.mark.parametrize("odd", range(1, 9))
def test_a_page_of_another_size_is_an_image_of_its_own(tmp_path: Path, assert_reads: Any, odd: int) -> None:
    path = str(tmp_path / "pages.tif")
    pages = [noise((12 if page == odd else 10, 9)) for page in range(9)]
    with tifffile.TiffWriter(path) as writer:
        for page in pages:
            writer.write(page, metadata=None, contiguous=False)
    with open_source(path) as source:
        assert source.info.details["images"] == 2
        assert_reads(source, np.stack([page for page in pages if len(page) == 10])[np.newaxis])
    with open_source(f"{path}::1") as source:
        assert_reads(source, pages[odd][np.newaxis])


@pytest.mark.parametrize("odd", [1, 2, 5, 8])
@pytest.mark.parametrize("ome", [True, False])
@pytest.mark.parametrize("how", [{"compression": "zlib"}, {"compression": "lzw", "rowsperstrip": 3}], ids=str)
def test_planes_that_are_stored_in_another_way_are_refused(
    tmp_path: Path, odd: int, ome: bool, how: dict[str, Any]
) -> None:
    pages = noise((9, 10, 12))
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pages, ome=True, metadata={"axes": "ZYX"})
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as whole:
        xml = whole.ome_metadata
    path = str(tmp_path / "pages.tif")
    with tifffile.TiffWriter(path) as writer:
        for number, page in enumerate(pages):
            options = how if number == odd else {"compression": "lzw"}
            text = xml if ome and number == 0 else None
            writer.write(page, metadata=None, contiguous=False, description=text, **options)
    with pytest.raises(SourceError, match="pages are stored in different ways"):
        open_source(path)


def test_a_picture_of_a_part_is_no_level(tmp_path: Path) -> None:
    path = str(tmp_path / "levels.ome.tif")
    pixels = RNG.integers(0, 255, (3, 100, 120)).astype("uint8")
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, tile=(32, 32), subifds=2, metadata={"axes": "CYX"})
        writer.write(pixels[:, ::2, ::2], tile=(32, 32), subfiletype=1)
        writer.write(pixels[:, :20, :20], tile=(32, 32), subfiletype=1)
    with open_source(path) as source:
        assert source.info.levels == ((100, 120), (50, 60))


def test_levels_of_another_kind_are_left_out(tmp_path: Path) -> None:
    path = str(tmp_path / "levels.tif")
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise((64, 64)), metadata=None)
        writer.write(noise((32, 32), "uint16"), subfiletype=1, metadata=None)
    with open_source(path) as source:
        assert source.info.levels == ()


def test_a_big_tiff_of_planes_in_time(tmp_path: Path, assert_reads: Any) -> None:
    for planar, axes in (("separate", "TSYX"), ("contig", "TYXS")):
        pixels = noise((4, 3, 40, 50) if planar == "separate" else (4, 40, 50, 3))
        path = save(
            tmp_path, pixels, bigtiff=True, ome=True, metadata={"axes": axes}, photometric="rgb", planarconfig=planar,
            tile=(16, 16), compression="lzw",
        )  # fmt: skip
        with open_source(path) as source:
            assert source.info.axes == ("t", "c", "y", "x")
            assert_reads(source, pixels if planar == "separate" else np.moveaxis(pixels, -1, 1))


def test_a_volume_over_time_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, noise((2, 3, 8, 8)), ome=True, metadata={"axes": "TZYX"})
    with pytest.raises(SourceError, match="sequence of volumes"):
        open_source(path)


def test_real_files_are_those_of_tifffile(data_dir: Path, assert_reads: Any) -> None:
    ome = data_dir / "microscopy_nd" / "multi-channel-z-series.ome.tif"
    with open_source(str(ome)) as source:
        assert source.info.dtype == "int8"
        assert source.info.axes == ("c", "z", "y", "x")
        assert_reads(source, tifffile.imread(ome))
    for path in [*sorted((data_dir / "drive/training/images").iterdir())[:2], data_dir / "wsi/boxes_pyramid.tiff"]:
        with open_source(str(path)) as source:
            assert_reads(source, np.moveaxis(tifffile.imread(path), -1, 0))
    with open_source(str(data_dir / "wsi/boxes_pyramid.tiff")) as source, tifffile.TiffFile(source.uri) as tiff:
        assert source.info.levels == ((250, 300), (125, 150), (62, 75), (31, 37))
        for level in range(4):
            pixels = np.moveaxis(tiff.series[0].levels[level].asarray(), -1, 0)
            np.testing.assert_array_equal(source.read(Window.whole(pixels.shape), level), pixels)


def test_the_directories_of_a_remote_stack_are_fetched_once(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    pixels = np.random.default_rng(8).integers(0, 2**16, (10, 600, 600), dtype=np.uint16)
    path = tmp_path / "stack.ome.tif"
    axes = {"axes": "ZYX"}
    tifffile.imwrite(path, pixels, ome=True, metadata=axes, tile=(256, 256), compression="zlib")
    bucket.put(path, path.name)
    asked: list[str] = []
    monkeypatch.setattr(WSGIRequestHandler, "log_request", lambda handler, *_: asked.append(handler.command))
    with open_source(f"{bucket.uri}/{path.name}") as source:
        assert len(asked) <= 10 + 3
        np.testing.assert_array_equal(
            source.read(Window((0, 4, 100, 50), (1, 1, 300, 400)))[0, 0], pixels[4, 100:400, 50:450]
        )
