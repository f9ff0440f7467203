"""TIFF colours: what the stored samples of a pixel mean, and the channels that a user expects of them."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from segcore.errors import SourceError
from segcore.sources.base import Pixels

MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, TRANSPARENCY, INKS, YCBCR = 0, 1, 2, 3, 4, 5, 6
READ = (MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, TRANSPARENCY, INKS, YCBCR)
"""Photometric interpretations that are read; not CIELab, LogLuv, or the mosaic of a camera's sensor."""

JPEG = (6, 7, 34892, 33007)
"""Compressions whose decoder turns YCbCr into RGB."""

ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
ALPHA = (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA)
INK_SET, CMYK = 332, 1


@dataclass(frozen=True)
class Colors:
    """From stored samples to channels."""

    samples: tuple[int, ...]
    """Those that are channels."""
    alpha: int | None
    """The sample that says which pixels are usable."""
    premultiplied: bool
    """Channels are stored times alpha."""
    palette: Pixels | None
    """(entries, RGB) uint8 of a palette image."""
    indexed: bool
    """Palette images give their indices."""
    is_inverted: bool
    """0 is stored for white."""
    white: int
    """The highest value of whole numbers."""
    is_cmyk: bool
    """Four inks, which become RGB."""
    dtype: np.dtype[Any]
    """Of the channels."""

    @classmethod
    def of(cls, uri: str, page: Any, indexed: bool) -> Self:
        """What a page's samples mean.

        Args:
            uri: what errors name.
            page: tifffile's page.
            indexed: give what is stored, as masks need it.

        Raises:
            SourceError: for a colour space that is not read.
        """
        if page.dtype is None:
            raise SourceError(f"{uri}: samples of {page.bitspersample} bits, format {page.sampleformat}, are not read")
        _check_space(uri, page)
        samples, alpha = _samples(uri, page)
        palette = _palette(uri, page)
        is_cmyk = page.photometric == INKS
        if is_cmyk and (len(samples) != 4 or page.tags.valueof(INK_SET, CMYK) != CMYK or page.dtype.kind != "u"):
            raise SourceError(
                f"{uri}: of separated inks only CMYK in whole numbers is read, this one has {len(samples)} inks of "
                f"{page.dtype}; convert it to RGB"
            )
        kept = _kept_dtype(page.dtype)
        # A mask's ids are what is stored: tifffile, for one, writes boolean arrays as "0 is white".
        inverted = page.photometric == MIN_IS_WHITE and kept.kind == "u" and not indexed
        return cls(
            samples=samples,
            alpha=alpha,
            premultiplied=alpha is not None and page.extrasamples[alpha - page.samplesperpixel] == ASSOCIATED_ALPHA,
            palette=palette,
            indexed=indexed,
            is_inverted=inverted,
            white=2 ** int(page.bitspersample) - 1,
            is_cmyk=is_cmyk,
            dtype=np.dtype(np.uint8) if palette is not None and not indexed else kept,
        )

    @property
    def is_expanded(self) -> bool:
        """True if the channels are red, green and blue that are not stored as such."""
        return self.is_cmyk or (self.palette is not None and not self.indexed)

    @property
    def num_channels(self) -> int:
        """Channels of a page."""
        return 3 if self.is_expanded else len(self.samples)

    @property
    def wanted(self) -> tuple[int, ...]:
        """The samples that `channels` takes: alpha last."""
        return self.samples if self.alpha is None else (*self.samples, self.alpha)

    def channels(self, stored: Pixels) -> Pixels:
        """(Y, X, wanted samples) as decoded -> (Y, X, channels) of `dtype`."""
        if self.palette is not None and not self.indexed:
            return np.asarray(self.palette[np.minimum(stored[..., 0], len(self.palette) - 1)])
        pixels = stored if self.alpha is None else stored[..., :-1]
        if self.premultiplied:
            pixels = _divided(pixels, stored[..., -1:], self.white)
        if self.is_cmyk:
            pixels = _rgb_of_cmyk(pixels, self.white)
        elif self.is_inverted:
            pixels = self.white - pixels.astype(self.dtype, copy=False)
        return pixels.astype(self.dtype, copy=False)


def _kept_dtype(stored: np.dtype[Any]) -> np.dtype[Any]:
    """The type that pixels are given in: single bits as bytes, half floats as floats."""
    as_given = {"bool": np.uint8, "float16": np.float32}
    return np.dtype(as_given.get(stored.name, stored)).newbyteorder("=")


def _check_space(uri: str, page: Any) -> None:
    """Refuse colour spaces whose numbers would be taken for something else."""
    name = getattr(page.photometric, "name", str(page.photometric))
    if page.photometric not in READ:
        raise SourceError(f"{uri}: colour space {name} is not read; convert it to RGB")
    if page.photometric == YCBCR and page.compression not in JPEG:
        raise SourceError(f"{uri}: YCbCr is read in JPEG compression only; convert it to RGB")


def _samples(uri: str, page: Any) -> tuple[tuple[int, ...], int | None]:
    """Which samples of a pixel are channels, and which one is alpha."""
    extras = tuple(int(kind) for kind in page.extrasamples)
    first_extra = page.samplesperpixel - len(extras)
    if first_extra < 1:
        raise SourceError(f"{uri}: {len(extras)} extra samples of {page.samplesperpixel} per pixel leave no channel")
    alpha = None
    if page.photometric in (MIN_IS_WHITE, MIN_IS_BLACK, RGB, YCBCR, INKS) and first_extra in (1, 3, 4):
        alpha = next((first_extra + i for i, kind in enumerate(extras) if kind in ALPHA), None)
    return tuple(i for i in range(page.samplesperpixel) if i != alpha), alpha


def _palette(uri: str, page: Any) -> Pixels | None:
    """Colour table (entries, RGB) uint8 of a palette image."""
    if page.photometric != PALETTE:
        return None
    colormap = page.colormap
    if colormap is None or page.samplesperpixel != 1 or page.dtype not in (np.bool_, np.uint8, np.uint16):
        raise SourceError(
            f"{uri}: a palette image has one sample of up to 16 bits per pixel and a colour table, "
            f"this one {page.samplesperpixel} of {page.dtype} and {'a' if colormap is not None else 'no'} table"
        )
    table = np.asarray(colormap).T
    # Some writers fill the 16 bits of an entry with 8-bit values.
    return np.asarray(table >> 8 if table.max(initial=0) > 255 else table).astype(np.uint8)


def _divided(pixels: Pixels, alpha: Pixels, white: int) -> Pixels:
    """Colours out of premultiplied ones; 0 where alpha is 0. `white` is the alpha of opaque pixels."""
    if pixels.dtype.kind == "f":
        return np.asarray(np.where(alpha > 0, pixels / np.where(alpha > 0, alpha, 1), 0).astype(pixels.dtype))
    if pixels.dtype.kind != "u":
        return pixels
    straight = np.rint(pixels.astype(np.float64) * white / np.maximum(alpha, 1))
    return np.asarray(np.minimum(straight, white).astype(pixels.dtype))


def _rgb_of_cmyk(inks: Pixels, white: int) -> Pixels:
    """(Y, X, CMYK) -> (Y, X, RGB): each colour is what its ink and black leave of white, (1 - ink) (1 - black).

    No colour profile is applied: the file's own, where it has one, describes a press.
    """
    left = white - inks.astype(np.float64)
    return np.asarray(np.rint(left[..., :3] * left[..., 3:] / white).astype(inks.dtype))
