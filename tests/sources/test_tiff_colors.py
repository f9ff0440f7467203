"""TIFF colours: every meaning of samples, against Pillow or the arithmetic of the specification."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Opening, open_source

RNG = np.random.default_rng(11)
Y, X = np.mgrid[0:90, 0:77]
SMOOTH = np.stack([Y * 2, X * 2, Y + X], -1).astype(np.uint8)


def save(folder: Path, pixels: Any, **options: Any) -> str:
    path = folder / "colors.tif"
    tifffile.imwrite(path, pixels, **options)
    return str(path)


@pytest.mark.parametrize("mode", ["RGB", "YCbCr", "CMYK"])
def test_jpeg_is_what_pillow_shows(tmp_path: Path, assert_reads: Any, mode: str) -> None:
    path = tmp_path / "jpeg.tif"
    Image.fromarray(SMOOTH).convert(mode).save(path, compression="jpeg")
    with Image.open(path) as picture:
        shown = np.asarray(picture.convert("RGB"))
    with open_source(str(path)) as source:
        assert source.info.channels == ("red", "green", "blue")
        assert_reads(source, np.moveaxis(shown, -1, 0))


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_subsampled_jpeg_tiles_are_those_of_tifffile(tmp_path: Path, assert_reads: Any, subsampling: str) -> None:
    how = {"subsampling": subsampling, "outcolorspace": "ycbcr"}
    path = save(tmp_path, SMOOTH, photometric="rgb", compression="jpeg", compressionargs=how, tile=(32, 48))
    with open_source(path) as source:
        assert source.info.details["photometric"] == "ycbcr"
        assert_reads(source, np.moveaxis(tifffile.imread(path), -1, 0))


def test_cmyk_is_what_pillow_makes_of_it(tmp_path: Path, assert_reads: Any) -> None:
    inks = RNG.integers(0, 256, (40, 50, 4), dtype=np.uint8)
    path = tmp_path / "cmyk.tif"
    Image.fromarray(inks, mode="CMYK").save(path)
    with Image.open(path) as picture:
        shown = np.asarray(picture.convert("RGB"))
    with open_source(str(path)) as source:
        assert source.info.channels == ("red", "green", "blue")
        pixels = np.moveaxis(source.read(Window.whole((3, 40, 50))), 0, -1)
    assert np.abs(pixels.astype(int) - shown).max() <= 1  # Pillow rounds twice
    np.testing.assert_array_equal(pixels, np.rint((255 - inks[..., :3]) * (255 - inks[..., 3:].astype(float)) / 255))
    deep = inks.astype(np.uint16) * 257
    with open_source(save(tmp_path, deep, photometric="separated")) as source:
        assert_reads(source, np.moveaxis(np.rint((65535 - deep[..., :3]) * (65535.0 - deep[..., 3:]) / 65535), -1, 0)
                     .astype(np.uint16))  # fmt: skip


@pytest.mark.parametrize(
    ("pixels", "options", "said"),
    [
        (SMOOTH, {"photometric": "cielab"}, "colour space CIELAB is not read; convert it to RGB"),
        (SMOOTH[..., 0], {"photometric": "cfa"}, "colour space CFA is not read"),
        (SMOOTH, {"photometric": "ycbcr"}, "YCbCr is read in JPEG compression only"),
        (np.dstack([SMOOTH, SMOOTH[..., :2]]), {"photometric": "separated"}, "only CMYK .* has 5 inks"),
        (SMOOTH[..., 0].astype(np.int64), {}, "type int64 are not read; expected one of uint8"),
        (SMOOTH[..., 0].astype(np.uint64), {}, "type uint64 are not read"),
        (SMOOTH[..., 0].astype(np.complex64), {}, "type complex64 are not read"),
    ],
)
def test_what_is_not_read_is_said(tmp_path: Path, pixels: Any, options: Any, said: str) -> None:
    path = save(tmp_path, pixels, **options)
    with pytest.raises(SourceError, match=said) as caught:
        open_source(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("bits", [2, 4, 12])
@pytest.mark.parametrize("channels", [1, 3])
def test_few_bits_keep_their_values(tmp_path: Path, assert_reads: Any, bits: int, channels: int) -> None:
    shape = (50, 61, 3) if channels == 3 else (50, 61)
    pixels = RNG.integers(0, 2**bits, shape).astype(np.uint8 if bits < 8 else np.uint16)
    path = save(tmp_path, pixels, bitspersample=bits, photometric="rgb" if channels == 3 else "minisblack")
    with open_source(path) as source:
        assert source.info.details["bits"] == bits
        assert_reads(source, np.moveaxis(pixels.reshape(50, 61, channels), -1, 0))
    if channels == 1:
        with open_source(save(tmp_path, pixels, bitspersample=bits, photometric="miniswhite")) as source:
            assert_reads(source, (2**bits - 1 - pixels)[np.newaxis])


@pytest.mark.parametrize("compression", ["raw", "group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw"])
def test_single_bits_are_those_of_pillow(tmp_path: Path, assert_reads: Any, compression: str) -> None:
    bits = RNG.integers(0, 2, (40, 51), dtype=np.uint8)
    path = tmp_path / "bits.tif"
    Image.fromarray(bits * 255).convert("1").save(path, compression=compression)
    with open_source(str(path)) as source:
        assert_reads(source, bits[np.newaxis])


def test_half_floats_become_floats(tmp_path: Path, assert_reads: Any) -> None:
    pixels = RNG.normal(size=(50, 60)).astype(np.float16)
    for options in ({}, {"predictor": 3, "compression": "zlib", "tile": (32, 32)}, {"byteorder": ">"}):
        with open_source(save(tmp_path, pixels, **options)) as source:
            assert_reads(source, pixels.astype(np.float32)[np.newaxis])


def test_premultiplied_floats_are_divided(tmp_path: Path, assert_reads: Any) -> None:
    rgba = RNG.uniform(0, 1, (40, 50, 4)).astype(np.float32)
    rgba[..., 3] = RNG.choice(np.float32([0, 0.5, 1]), size=(40, 50))
    rgba[..., :3] *= rgba[..., 3:]
    path = save(tmp_path, rgba, photometric="rgb", extrasamples=["assocalpha"], planarconfig="contig")
    colors = np.where(rgba[..., 3:] > 0, rgba[..., :3] / np.maximum(rgba[..., 3:], np.float32(0.5)), 0)
    with open_source(path) as source:
        assert_reads(source, np.moveaxis(colors.astype(np.float32), -1, 0), valid=rgba[..., 3] > 0)


def test_grey_with_alpha_and_planar_alpha(tmp_path: Path, assert_reads: Any) -> None:
    grey = RNG.integers(0, 2**16, (40, 50, 2), dtype=np.uint16)
    grey[..., 1] = RNG.choice([0, 65535], size=(40, 50))
    path = save(tmp_path, grey, photometric="minisblack", extrasamples=["unassalpha"], planarconfig="contig")
    with open_source(path) as source:
        assert source.info.channels == ("grey",)
        assert_reads(source, np.moveaxis(grey[..., :1], -1, 0), valid=grey[..., 1] > 0)
    rgba = RNG.integers(0, 256, (4, 40, 50), dtype=np.uint8)
    path = save(tmp_path, rgba, photometric="rgb", extrasamples=["unassalpha"], planarconfig="separate", tile=(16, 16))
    with open_source(path) as source:
        assert_reads(source, rgba[:3], valid=rgba[3] > 0)


def test_a_mask_of_sixteen_bit_indices_keeps_them(tmp_path: Path, assert_reads: Any) -> None:
    indices = RNG.integers(0, 300, (30, 40)).astype(np.uint16)
    colormap = RNG.integers(0, 2**16, (3, 65536), dtype=np.uint16)
    path = save(tmp_path, indices, photometric="palette", colormap=colormap)
    with open_source(path, Opening(indexed=True)) as source:
        assert_reads(source, indices[np.newaxis])
    with open_source(path) as source:
        assert_reads(source, (colormap >> 8).astype(np.uint8)[:, indices])
