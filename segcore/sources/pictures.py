"""Pictures: PNG, JPEG, GIF, WebP and BMP, through Pillow. These formats are decoded whole, once, at the first read."""

import threading
from functools import cached_property
from typing import IO

import imagecodecs
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL import __version__ as pillow_version

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources.base import (
    Format,
    Limits,
    Pixels,
    Reader,
    Source,
    SourceInfo,
    Valid,
    check_shape,
    default_channels,
)
from segcore.sources.files import SourceFile

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
"""Pillow's decoders that may run."""

MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")

PLAIN_MODES = {"L": "L", "RGB": "RGB", "1": "1", "I;16": "I;16", "I;16B": "I;16", "I;16L": "I;16"}
"""Modes whose pixels are taken as they are; LA and RGBA give alpha; all others become RGB."""

PNG_RGB, PNG_GREY_ALPHA, PNG_RGB_ALPHA = 2, 4, 6
ORIENTATION = 274
PILLOW_LOCK = threading.Lock()


class PictureSource(Source):
    """A picture. Its first frame only; turned as its EXIF orientation says; alpha says which pixels are usable."""

    def __init__(self, file: SourceFile, limits: Limits, indexed: bool) -> None:
        self.uri = file.uri
        self._file = file
        self._opened = file.open()
        try:
            self._prepare(file, limits, indexed)
        except BaseException:
            self._opened.close()
            raise

    def _prepare(self, file: SourceFile, limits: Limits, indexed: bool) -> None:
        """Everything that the header tells; of pictures with alpha the pixels too, as only they tell if it matters."""
        self._picture = _open_header(file, self._opened, limits)
        self._indexed = indexed and self._picture.mode == "P"
        self._deep = _deep_png(file)
        channels, dtype = self._layout()
        height, width = self._size()
        check_shape(file.uri, ("c", "y", "x"), (len(channels), height, width), dtype, limits)
        self.info = SourceInfo(
            uri=file.uri,
            reader="picture",
            reader_version=f"Pillow {pillow_version}",
            axes=("c", "y", "x"),
            shape=(len(channels), height, width),
            dtype=dtype.name,
            channels=channels,
            has_valid=self._has_alpha() and not bool(self._alpha.all()),
            num_bytes=file.num_bytes,
            details=self._details(),
        )

    def _has_alpha(self) -> bool:
        return not self._indexed and self._picture.has_transparency_data

    def _size(self) -> tuple[int, int]:
        """Height and width after turning."""
        width, height = self._picture.size
        return (width, height) if self._orientation >= 5 else (height, width)

    @property
    def _orientation(self) -> int:
        """EXIF orientation: 1 upright; 5 to 8 swap height and width."""
        value = self._picture.getexif().get(ORIENTATION, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1

    def _layout(self) -> tuple[tuple[str, ...], np.dtype[np.generic]]:
        """Channel names and pixel type, from the header."""
        mode = self._picture.mode
        if self._indexed:
            return ("index",), np.dtype("uint8")
        grey = mode in ("1", "L", "LA", "I;16", "I;16B", "I;16L") or self._grey_palette
        if self._deep is not None:
            grey = self._deep == PNG_GREY_ALPHA  # Pillow shows it as RGBA
        deep = self._deep is not None or mode.startswith("I;16")
        return default_channels(1 if grey else 3), np.dtype("uint16" if deep else "uint8")

    @cached_property
    def _grey_palette(self) -> bool:
        """True for a palette of greys only."""
        if self._picture.mode not in ("P", "PA"):
            return False
        table = np.asarray(self._picture.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
        return bool((table == table[:, :1]).all())

    def _details(self) -> dict[str, object]:
        details: dict[str, object] = {
            "kind": self._picture.format or "",
            "mode": self._picture.mode,
            "frames": getattr(self._picture, "n_frames", 1),
            "orientation": self._orientation,
        }
        if self._indexed:
            table = np.asarray(self._picture.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
            details["palette"] = table.tolist()
        return details

    @cached_property
    def _decoded(self) -> tuple[Pixels, Pixels | None]:
        """All pixels (Y, X, C), and alpha (Y, X) where the picture has it."""
        if self._deep is not None:
            return self._decode_deep()
        picture = self._picture
        picture.load()
        if picture.mode == "P" and self._indexed:
            return np.asarray(ImageOps.exif_transpose(picture))[..., np.newaxis], None
        grey = len(self._channels) == 1
        wanted = PLAIN_MODES.get(picture.mode, "L" if grey else "RGB")
        if self._has_alpha():
            wanted = "LA" if grey else "RGBA"
        if picture.mode != wanted:
            picture = picture.convert(wanted)
        pixels = np.asarray(ImageOps.exif_transpose(picture))
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if pixels.dtype == np.bool_:
            pixels = pixels.astype(np.uint8)
        if self._has_alpha():
            return pixels[..., :-1], pixels[..., -1]
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False), None

    @property
    def _channels(self) -> tuple[str, ...]:
        """Channel names; known before `info` is."""
        return self._layout()[0]

    def _decode_deep(self) -> tuple[Pixels, Pixels | None]:
        """A PNG of 16 bits and several channels: Pillow would drop its lower eight bits."""
        with self._file.open() as opened:
            pixels = np.asarray(imagecodecs.png_decode(opened.read()))
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if pixels.shape[-1] > len(self._channels):
            return pixels[..., :-1], pixels[..., -1]
        return pixels, None

    @property
    def _alpha(self) -> Pixels:
        alpha = self._decoded[1]
        assert alpha is not None, "asked for the alpha of a picture without"
        return alpha

    def _read(self, window: Window) -> Pixels:
        return np.moveaxis(self._decoded[0], -1, 0)[window.slices]

    def _read_valid(self, window: Window) -> Valid:
        return np.asarray(self._alpha[window.slices] > 0)

    def close(self) -> None:
        self._picture.close()
        self._opened.close()
        self.__dict__.pop("_decoded", None)


def _open_header(file: SourceFile, opened: IO[bytes], limits: Limits) -> Image.Image:
    """Open with Pillow, which reads the header only, and keep to our own limit of pixels instead of Pillow's."""
    with PILLOW_LOCK:
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(opened, formats=FORMATS)
        except UnidentifiedImageError as error:
            raise SourceError(f"{file.uri}: begins like a picture, but its header is damaged") from error
        finally:
            Image.MAX_IMAGE_PIXELS = theirs
    width, height = picture.size
    if width * height > limits.max_whole_px:
        raise SourceError(
            f"{file.uri}: its header asks for {width} x {height} px, over the limit max_whole_px = "
            f"{limits.max_whole_px} of formats that are decoded whole; save it as a tiled TIFF"
        )
    return picture


def _deep_png(file: SourceFile) -> int | None:
    """The colour type of a PNG of 16 bits with several channels; None for all else. Both stand in its IHDR."""
    if not file.head.startswith(MAGIC[0]) or len(file.head) < 26:
        return None
    depth, color_type = file.head[24], file.head[25]
    return color_type if depth == 16 and color_type in (PNG_RGB, PNG_GREY_ALPHA, PNG_RGB_ALPHA) else None


def _matches(file: SourceFile) -> bool:
    is_webp = file.head[:4] == b"RIFF" and file.head[8:12] == b"WEBP"
    return is_webp or any(file.head.startswith(magic) for magic in MAGIC)


READER = Reader(
    name="PNG, JPEG, GIF, WebP, BMP",
    rank=40,
    matches=_matches,
    open=lambda file, opening: PictureSource(file, opening.limits, opening.indexed),
    formats=(Format("PNG, JPEG, GIF, WebP, BMP", (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp")),),
)
