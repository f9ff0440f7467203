"""Pictures: PNG, JPEG, GIF, WebP and BMP, through Pillow. These formats are decoded whole, once, at the first read.

Those that move (GIF, WebP, PNG) are sequences, decoded frame by frame; as masks, their first frame alone.
"""

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
    Limits,
    Opening,
    Pixels,
    Source,
    SourceInfo,
    Valid,
    check_shape,
    default_channels,
)
from segcore.sources.files import SourceFile
from segcore.sources.picture_reader import PNG

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
"""Pillow's decoders that may run."""

PLAIN_MODES = {"L": "L", "RGB": "RGB", "1": "1", "I;16": "I;16", "I;16B": "I;16", "I;16L": "I;16"}
"""Modes whose pixels are taken as they are; LA and RGBA give alpha; all others become RGB."""

STILL = (b"\xff\xd8\xff", b"BM")
"""Beginnings of JPEG, whose further pictures are no frames (a second view, a gain map), and of BMP."""

PNG_RGB, PNG_GREY_ALPHA, PNG_RGB_ALPHA = 2, 4, 6
ORIENTATION = 274
PILLOW_LOCK = threading.Lock()


class PictureSource(Source):
    """A picture that stands still, or the first frame of one that moves.

    It is turned as its EXIF orientation says; alpha says which pixels are usable.
    """

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


class AnimationSource(Source):
    """A picture that moves, (T,C,Y,X): the frames as a viewer shows them. The last one that was decoded is kept.

    What its frames hold (colour, transparency) only they tell, so all are decoded once when it is opened.
    """

    def __init__(self, file: SourceFile, limits: Limits) -> None:
        self.uri = file.uri
        self._file, self._limits = file, limits
        self._opened = file.open()
        try:
            self._picture = _open_header(file, self._opened, limits)
            self._num_frames = _num_frames(file, self._picture, limits)
            self._last: tuple[int, Pixels] | None = None
            grey, has_valid = self._looked_through()
        except BaseException:
            self._opened.close()
            raise
        channels = default_channels(1 if grey else 3)
        shape = (self._num_frames, len(channels), *self._frame(0).shape[:2])
        self.info = SourceInfo(
            uri=file.uri,
            reader="picture",
            reader_version=f"Pillow {pillow_version}",
            axes=("t", "c", "y", "x"),
            shape=shape,
            dtype="uint8",
            channels=channels,
            has_valid=has_valid,
            num_bytes=file.num_bytes,
            details={"kind": f"{self._picture.format}, animated", "frames": self._num_frames},
        )

    def _looked_through(self) -> tuple[bool, bool]:
        """Whether all frames are grey, and whether any has transparent pixels."""
        grey, transparent = True, False
        for index in range(self._num_frames):
            frame = self._frame(index)
            grey = grey and bool((frame[..., 1:3] == frame[..., :1]).all())
            transparent = transparent or not frame[..., 3].all()
        return grey, transparent

    def _frame(self, index: int) -> Pixels:
        """(Y, X, RGBA); going on costs one frame, going back decodes from the first."""
        if self._last is None or self._last[0] != index:
            if self._last is not None and self._last[0] > index:  # Pillow cannot go back in every PNG
                self._opened.seek(0)
                self._picture = _open_header(self._file, self._opened, self._limits)
            self._picture.seek(_first_frame(self._picture) + index)
            self._last = index, np.asarray(ImageOps.exif_transpose(self._picture.convert("RGBA")))
        return self._last[1]

    def _read(self, window: Window) -> Pixels:
        times, plane = range(window.start[0], window.stop[0]), window.slices[1:]
        return np.stack([np.moveaxis(self._frame(t)[..., :3], -1, 0)[plane] for t in times])

    def _read_valid(self, window: Window) -> Valid:
        times, plane = range(window.start[0], window.stop[0]), window.slices[1:]
        return np.stack([self._frame(t)[..., 3][plane] > 0 for t in times])

    def close(self) -> None:
        self._last = None
        self._picture.close()
        self._opened.close()


def _first_frame(picture: Image.Image) -> int:
    """1 where the picture that stands first is none of the animation (PNG)."""
    return int(bool(picture.info.get("default_image")))


def _num_frames(file: SourceFile, picture: Image.Image, limits: Limits) -> int:
    """How many frames move; checked against the limits.

    Raises:
        SourceError: if they have more pixels in all than a picture may have.
    """
    count = getattr(picture, "n_frames", 1) - _first_frame(picture)
    width, height = picture.size
    if count > limits.max_pages or count * width * height > limits.max_whole_px:
        raise SourceError(
            f"{file.uri}: {count} frames of {width} x {height} px are over the limits max_pages = {limits.max_pages} "
            f"and max_whole_px = {limits.max_whole_px} for all of them; save it as a video"
        )
    return count


def _moves(file: SourceFile, limits: Limits) -> bool:
    """True for a picture of several frames."""
    if file.head.startswith(STILL):
        return False
    with file.open() as opened, _open_header(file, opened, limits) as picture:
        return getattr(picture, "n_frames", 1) - _first_frame(picture) > 1


def open_file(file: SourceFile, opening: Opening) -> Source:
    """A picture, or a sequence where it moves."""
    if not opening.indexed and _moves(file, opening.limits):
        return AnimationSource(file, opening.limits)
    return PictureSource(file, opening.limits, opening.indexed)


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
    if not file.head.startswith(PNG) or len(file.head) < 26:
        return None
    depth, color_type = file.head[24], file.head[25]
    return color_type if depth == 16 and color_type in (PNG_RGB, PNG_GREY_ALPHA, PNG_RGB_ALPHA) else None
