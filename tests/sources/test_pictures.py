"""Pictures: every mode of every format that we promise, against Pillow's own conversion of the whole."""

import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Limits, Opening, Source, open_source

RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 256, (40, 57, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def oracle(path: Path, mode: str | None = None) -> Any:
    """Pillow's own pixels."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert(mode) if mode else picture)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_colour_in_every_format(tmp_path: Path, assert_reads: Any, suffix: str) -> None:
    path = tmp_path / f"colour.{suffix}"
    Image.fromarray(RGB).save(path)
    with open_source(str(path)) as source:
        assert (source.info.reader, source.info.channels) == ("picture", ("red", "green", "blue"))
        assert_reads(source, np.moveaxis(oracle(path), -1, 0))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif"])
def test_grey_in_every_format(tmp_path: Path, assert_reads: Any, suffix: str) -> None:
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(GREY).save(path)
    with open_source(str(path)) as source:
        assert source.info.channels == ("grey",)
        assert_reads(source, oracle(path, "L")[np.newaxis])


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_alpha_is_validity_unless_it_is_full_everywhere(tmp_path: Path, assert_reads: Any, suffix: str) -> None:
    alpha = RNG.choice([0, 100, 255], size=GREY.shape).astype(np.uint8)
    path = tmp_path / f"alpha.{suffix}"
    Image.fromarray(np.dstack([RGB, alpha])).save(path, lossless=True, exact=True)
    with open_source(str(path)) as source:
        assert source.info.has_valid
        assert_reads(source, np.moveaxis(RGB, -1, 0), valid=alpha > 0)
    Image.fromarray(np.dstack([RGB, np.full_like(alpha, 255)])).save(path, lossless=True)
    with open_source(str(path)) as source:
        assert not source.info.has_valid
        assert_reads(source, np.moveaxis(RGB, -1, 0))


def test_grey_with_alpha_and_one_bit(tmp_path: Path, assert_reads: Any) -> None:
    alpha = RNG.choice([0, 255], size=GREY.shape).astype(np.uint8)
    Image.fromarray(np.dstack([GREY, alpha])).save(tmp_path / "la.png")
    with open_source(str(tmp_path / "la.png")) as source:
        assert_reads(source, GREY[np.newaxis], valid=alpha > 0)
    bits = GREY > 127
    Image.fromarray(bits).save(tmp_path / "bits.png")
    with open_source(str(tmp_path / "bits.png")) as source:
        assert_reads(source, bits[np.newaxis].astype(np.uint8))


def test_a_palette_is_its_colours_or_its_indices(tmp_path: Path, assert_reads: Any) -> None:
    indices = GREY % 4
    picture = Image.fromarray(indices).convert("P")
    picture.putdata(indices.ravel().tolist())
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    picture.putpalette(palette.ravel().tolist())
    for suffix in ("png", "gif"):
        path = tmp_path / f"palette.{suffix}"
        picture.save(path)
        with open_source(str(path)) as source:
            assert_reads(source, np.moveaxis(palette[indices], -1, 0))
        with open_source(str(path), Opening(indexed=True)) as source:
            stored = source.read(_whole(source))[0]
            np.testing.assert_array_equal(np.asarray(source.info.details["palette"])[stored], palette[indices])
    with open_source(str(tmp_path / "palette.png"), Opening(indexed=True)) as source:
        assert_reads(source, indices[np.newaxis])


def test_a_transparent_palette_entry_is_not_usable(tmp_path: Path, assert_reads: Any) -> None:
    picture = Image.fromarray(GREY % 3).convert("P")
    picture.putdata((GREY % 3).ravel().tolist())
    picture.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200])
    path = tmp_path / "transparent.png"
    picture.save(path, transparency=2)
    colors = np.array([[200, 10, 10], [10, 200, 10], [10, 10, 200]], np.uint8)
    with open_source(str(path)) as source:
        assert_reads(source, np.moveaxis(colors[GREY % 3], -1, 0), valid=GREY % 3 != 2)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_kept(tmp_path: Path, assert_reads: Any, channels: int) -> None:
    deep = RNG.integers(0, 65536, (30, 41, channels), dtype=np.uint16)
    path = tmp_path / "deep.png"
    path.write_bytes(imagecodecs.png_encode(deep[..., 0] if channels == 1 else deep))
    colors = 1 if channels < 3 else 3
    valid = deep[..., -1] > 0 if channels in (2, 4) else None
    with open_source(str(path)) as source:
        assert source.info.dtype == "uint16"
        assert_reads(source, np.moveaxis(deep[..., :colors], -1, 0), valid=valid)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed(tmp_path: Path, assert_reads: Any, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "turned.jpg"
    Image.fromarray(RGB).save(path, exif=exif)
    with Image.open(path) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture))
    with open_source(str(path)) as source:
        assert_reads(source, np.moveaxis(upright, -1, 0))


def moving(path: Path, frames: Any, **options: Any) -> None:
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=100, **options)


COLOURS = np.zeros((5, 30, 40, 3), np.uint8)
for _index in range(5):
    COLOURS[_index, 3 * _index : 3 * _index + 9, 5 * _index :] = (40 * _index, 255, 90)
"""Few colours, so that a GIF holds them exactly."""


@pytest.mark.parametrize(
    ("suffix", "options"), [("gif", {}), ("gif", {"optimize": True}), ("webp", {"lossless": True}), ("png", {})]
)
def test_what_moves_is_a_sequence(tmp_path: Path, assert_reads: Any, suffix: str, options: dict[str, Any]) -> None:
    path = tmp_path / f"moving.{suffix}"
    moving(path, COLOURS, **options)
    with open_source(str(path)) as source:
        assert (source.info.axes, source.info.details["frames"]) == (("t", "c", "y", "x"), 5)
        assert_reads(source, np.moveaxis(COLOURS, -1, 1))


def test_a_grey_sequence_has_one_channel(tmp_path: Path, assert_reads: Any) -> None:
    moving(tmp_path / "grey.gif", COLOURS[..., 0])
    with open_source(str(tmp_path / "grey.gif")) as source:
        assert source.info.channels == ("grey",)
        assert_reads(source, COLOURS[:, np.newaxis, :, :, 0])


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_transparent_pixels_of_a_sequence_are_not_usable(tmp_path: Path, assert_reads: Any, suffix: str) -> None:
    alpha = np.where(COLOURS[..., 1] > 0, 255, 0).astype(np.uint8)
    path = tmp_path / f"alpha.{suffix}"
    options: dict[str, Any] = {"disposal": 1, "blend": 0} if suffix == "png" else {"lossless": True, "exact": True}
    moving(path, np.concatenate([COLOURS, alpha[..., np.newaxis]], axis=-1), **options)
    with open_source(str(path)) as source:
        assert_reads(source, np.moveaxis(COLOURS, -1, 1), valid=alpha > 0)


def test_the_default_image_of_a_moving_png_is_none_of_its_frames(tmp_path: Path, assert_reads: Any) -> None:
    path = tmp_path / "default.png"
    moving(path, COLOURS, default_image=True)
    with open_source(str(path)) as source:
        assert_reads(source, np.moveaxis(COLOURS[1:], -1, 1))


def test_of_a_mask_that_moves_the_first_frame(tmp_path: Path, assert_reads: Any) -> None:
    moving(tmp_path / "mask.gif", COLOURS[..., 0])
    with open_source(str(tmp_path / "mask.gif"), Opening(indexed=True)) as source:
        stored = source.read(_whole(source))[0]
        np.testing.assert_array_equal(np.asarray(source.info.details["palette"])[stored][..., 0], COLOURS[0, ..., 0])


def test_frames_count_against_the_limits(tmp_path: Path) -> None:
    moving(tmp_path / "long.gif", COLOURS)
    for limits in (Limits(max_whole_px=5999), Limits(max_pages=4)):
        with pytest.raises(SourceError, match="5 frames of 40 x 30 px are over the limits"):
            open_source(str(tmp_path / "long.gif"), Opening(limits=limits))


def test_cmyk_becomes_rgb(tmp_path: Path, assert_reads: Any) -> None:
    path = tmp_path / "print.jpg"
    Image.fromarray(RGB).convert("CMYK").save(path)
    with open_source(str(path)) as source:
        assert_reads(source, np.moveaxis(oracle(path, "RGB"), -1, 0))


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(100_000, 100_000) + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", 0x35AF061E))
    with pytest.raises(SourceError, match="100000 x 100000 px, over the limit max_whole_px"):
        open_source(str(path))
    Image.fromarray(RGB).save(path)
    with pytest.raises(SourceError, match="max_whole_px = 100 "):
        open_source(str(path), Opening(limits=Limits(max_whole_px=100)))


def test_a_cut_picture_fails_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with open_source(str(path)) as source, pytest.raises(SourceError, match="damaged") as caught:
        source.read(_whole(source))
    assert "\n" not in str(caught.value)


def test_real_files_are_those_of_pillow(data_dir: Path, assert_reads: Any) -> None:
    globs = ("dubai_aerial/image/*t2.jpg", "isbi2012_em/image/*.png", "magnetic_tile/MT_Free/*.jpg")
    paths = [path for pattern in globs for path in sorted(data_dir.glob(pattern))[:2]]
    paths += sorted(data_dir.glob("dsb2018/stage1_train/*/images/*.png"))[:3]
    paths += sorted(data_dir.glob("drive/training/*/*.gif"))[:2]
    assert len(paths) >= 9
    for path in paths:
        with open_source(str(path)) as source, Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB" if source.info.shape[0] == 3 else "L"))
            assert_reads(source, np.moveaxis(pixels.reshape(*pixels.shape[:2], -1), -1, 0), num_windows=2)


def _whole(source: Source) -> Window:
    return Window.whole(source.info.shape)
