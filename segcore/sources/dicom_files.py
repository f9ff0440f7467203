"""DICOM files: one file's header as plain values, and its frames decoded, through pydicom (extra `dicom`).

Only the elements of `TAGS` are ever read: no patient, no dates, no free text. The SeriesInstanceUID is looked at to
tell series apart and leaves this package only as a digest. Source: DICOM PS3.3, PS3.5, PS3.10.
"""

import contextlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from functools import cached_property
from typing import IO, Any, BinaryIO, cast

import numpy as np

from segcore.errors import SourceError
from segcore.sources.base import Limits, Pixels
from segcore.sources.dicom_frames import frame_axis, is_at_detector, num_frames, slices_of, text, whole
from segcore.sources.dicom_pixels import Values, values_of
from segcore.sources.dicom_series import Slice, series_name
from segcore.sources.files import SourceFile

TAGS = [
    *("SOPClassUID", "Modality", "SeriesInstanceUID", "SeriesNumber", "FrameTime", "FrameTimeVector"),
    *("SliceThickness", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "ImagePositionPatient"),
    *("ImageOrientationPatient", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("NumberOfFrames", "FrameIncrementPointer", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored"),
    *("HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"),
    *(f"{color}PaletteColorLookupTable{part}" for color in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
    *("GridFrameOffsetVector", "DoseGridScaling", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
]
"""All that is read of a header, besides the file meta information."""

PREAMBLE_BYTES = 128
MAGIC = b"DICM"
META_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_LITTLE, EXPLICIT_BIG, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2"
NATIVE = (EXPLICIT_LITTLE, EXPLICIT_BIG, IMPLICIT)

ITEM_BYTES = 8
"""What a packed frame takes at least: the head of its item."""

PIXEL_KEYWORDS = {0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData", 0x0010: "PixelData"}
FLOATS = {"FloatPixelData": "float32", "DoubleFloatPixelData": "float64"}
GREYS = ("MONOCHROME1", "MONOCHROME2")


def library(uri: str) -> Any:
    """pydicom, or the line that says what to install."""
    try:
        import pydicom
    except ImportError as error:
        raise SourceError(f"{uri}: DICOM needs the extra `dicom`: pip install 'segcore[dicom]'") from error
    return pydicom


class DicomFile:
    """One file: what its header says, as plain values.

    Raises:
        SourceError: naming it, if it cannot be parsed, is cut off or asks for too much.
    """

    def __init__(self, file: SourceFile, limits: Limits) -> None:
        self.file = file
        self.name = file.name
        with _quiet():
            self._read_header(limits)
            header = self._header
            modality = text(header, "Modality")
            self.modality = modality if is_plain_code(modality) else ""
            self.rows, self.columns = whole(header, "Rows"), whole(header, "Columns")
            self.is_image = self.rows > 0 and self.columns > 0 and self._keyword is not None
            if not self.is_image:
                return
            self.samples = whole(header, "SamplesPerPixel", 1)
            self.frames = num_frames(header)
            self.photometric = text(header, "PhotometricInterpretation")
            self.allocated = whole(header, "BitsAllocated")
            self.stored = whole(header, "BitsStored", self.allocated)
            self._check(limits)
            size = (self.rows, self.columns, 3 if self.is_colored else 1)
            self.slices = slices_of(header, self.file.uri, size)

    def _read_header(self, limits: Limits) -> None:
        """The elements of `TAGS`, and where the pixels begin."""
        pydicom = library(self.file.uri)
        self._inflated: bytes | None = None
        if DEFLATED.encode() in _meta(self.file, limits):
            self._inflated = _inflate(self.file, limits)
        with self._open() as opened:
            header = pydicom.dcmread(opened, stop_before_pixels=True, force=True, specific_tags=list(TAGS))
            at = opened.tell()
            element = opened.read(12)
        implicit, little = header.original_encoding
        self._header = header
        self._vr = None if implicit else element[4:6].decode("ascii", "replace")
        self._begin = at + (8 if implicit else 12)
        self._keyword: str | None = None
        if len(element) >= 8:
            group, number = struct.unpack("<HH" if little else ">HH", element[:4])
            self._keyword = PIXEL_KEYWORDS.get(number) if group == 0x7FE0 else None
        plain = IMPLICIT if implicit else EXPLICIT_LITTLE if little else EXPLICIT_BIG
        given = str(getattr(header, "file_meta", {}).get("TransferSyntaxUID", "") or "")
        self.syntax = plain if not given or self._inflated is not None else given
        self.syntax_name = str(pydicom.uid.UID(DEFLATED if self._inflated is not None else self.syntax).name)

    def _open(self) -> BinaryIO:
        if self._inflated is not None:
            return io.BytesIO(self._inflated)
        return cast(BinaryIO, _Bounded(self.file.open(), self.file.num_bytes))

    def _check(self, limits: Limits) -> None:
        """Refuse what is too large, cut off, or of a kind that is not read; before any pixel is."""
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.uid import UID

        uri = self.file.uri
        if self.frames > limits.max_pages:
            raise SourceError(f"{uri}: {self.frames} frames are over the limit max_pages = {limits.max_pages}")
        size = self.rows * self.columns * self.samples * -(-self.allocated // 8)
        if size > limits.max_tile_bytes:
            limit = f"max_tile_bytes = {limits.max_tile_bytes}"
            raise SourceError(f"{uri}: a slice of {self.rows} x {self.columns} px is over the limit {limit}")
        if self.samples not in (1, 3) or self.allocated not in (8, 16, 32, 64) or not 0 < self.stored <= self.allocated:
            got = f"{self.samples} samples of {self.stored} in {self.allocated} bits"
            raise SourceError(f"{uri}: pixels of {got} are not read; expected 1 or 3 samples of whole bytes")
        if whole(self._header, "HighBit", self.stored - 1) != self.stored - 1:
            raise SourceError(f"{uri}: expected pixels in the lower bits, got HighBit {self._header.HighBit}")
        held = self.file.num_bytes if self._inflated is None else len(self._inflated)
        asked = self._begin + ITEM_BYTES * self.frames
        if self.syntax in NATIVE:
            asked = self._begin + size * self.frames * (2 if self.photometric == "YBR_FULL_422" else 3) // 3
        if asked > held:
            raise SourceError(f"{uri}: its header asks for {asked} bytes, the file has {held}; it is cut off")
        try:
            known = get_decoder(UID(self.syntax)).is_available
        except NotImplementedError:
            known = False
        if not known:
            raise SourceError(f"{uri}: pixels packed as '{self.syntax_name}' are not read; save it uncompressed")

    @property
    def lacks_image(self) -> bool:
        """True where pixels are missing that should be there; reports, plans, DICOMDIR have none by their nature."""
        meta = getattr(self._header, "file_meta", {})
        kind = text(self._header, "SOPClassUID") or text(meta, "MediaStorageSOPClassUID")
        return not self.is_image and (not kind or "Image" in library(self.file.uri).uid.UID(kind).name)

    @property
    def series(self) -> str:
        """Name of its series: of the UID, or else of what slices of one series share."""
        first = self.slices[0]
        rounded = tuple(round(v, 3) for v in (*(first.orientation or ()), *(first.spacing or ())))
        number = whole(self._header, "SeriesNumber")
        return series_name(text(self._header, "SeriesInstanceUID"), (self.modality, number, first.size, rounded))

    @property
    def is_colored(self) -> bool:
        return self.photometric == "PALETTE COLOR" or self.samples == 3

    @property
    def is_inverted(self) -> bool:
        """True where 0 is white; of floats the standard knows no such thing."""
        return self.photometric == "MONOCHROME1" and self._keyword not in FLOATS

    @property
    def frame_axis(self) -> tuple[str, str]:
        """What the frames are along, if the file does not place them; and what says so."""
        return frame_axis(self._header)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not as one may think."""
        notes = []
        if "ModalityLUTSequence" in self._header:
            notes.append("its modality lookup table is not applied: values are as stored")
        if is_at_detector(self._header):
            notes.append("the spacing is that at the detector, not in the patient")
        return tuple(notes)

    def values(self, found: Slice) -> Values:
        """What the stored values of a slice can be, and how they are scaled."""
        assert self._keyword is not None, f"{self.name} has no pixels"
        if self._keyword in FLOATS:
            return Values(FLOATS[self._keyword], 0, 0, found.slope, found.intercept)
        is_signed = bool(whole(self._header, "PixelRepresentation"))
        slope, intercept = (1.0, 0.0) if self.is_colored else (found.slope, found.intercept)
        return values_of(self.stored, is_signed, self.allocated, slope, intercept)

    @cached_property
    def palette_dtype(self) -> np.dtype[Any]:
        """Type of the colours of a palette: 8 bits too where 16 hold no more (v x 256, or v x 257)."""
        bits = int(self._header.RedPaletteColorLookupTableDescriptor[2])
        tables = [self._header.get(f"{color}PaletteColorLookupTableData") for color in ("Red", "Green", "Blue")]
        if bits == 8 or any(table is None for table in tables):
            return np.dtype(f"uint{bits}")
        table = np.frombuffer(b"".join(tables), dtype=np.uint16)
        low, high = table & 0xFF, table >> 8
        return np.dtype("uint8" if (low == 0).all() or (low == high).all() else "uint16")

    def decode(self, frame: int, indexed: bool) -> Pixels:
        """Stored values (Y, X) of a frame, or colours (Y, X, 3); a palette's indices where `indexed`.

        Raises:
            SourceError: naming the file, if it is damaged.
        """
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.pixels.processing import apply_color_lut
        from pydicom.pixels.utils import as_pixel_options
        from pydicom.uid import UID

        with _quiet(), self._open() as opened:
            options = as_pixel_options(self._header, pixel_keyword=self._keyword, transfer_syntax_uid=UID(self.syntax))
            if self._vr is not None:
                options["pixel_vr"] = self._vr
            opened.seek(self._begin)
            pixels, _ = get_decoder(UID(self.syntax)).as_array(opened, index=frame, **options)
            if self.photometric == "PALETTE COLOR" and not indexed:
                pixels = apply_color_lut(pixels, self._header)[..., :3]
                if pixels.itemsize > self.palette_dtype.itemsize:
                    pixels = (pixels >> 8).astype(self.palette_dtype)
        return np.asarray(pixels)


class _Bounded(contextlib.AbstractContextManager["_Bounded"]):
    """A file that is never asked for more than it has: pydicom asks for what a header says, however much that is."""

    def __init__(self, opened: IO[bytes], num_bytes: int) -> None:
        self._opened, self._num_bytes = opened, num_bytes
        self.seek, self.tell, self.close = opened.seek, opened.tell, opened.close

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._num_bytes - self._opened.tell())
        return self._opened.read(left if count < 0 else min(count, left))

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps warnings back: pydicom warns of values that are not as the standard wants them, and quotes them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _meta(file: SourceFile, limits: Limits) -> bytes:
    """The file meta information, whose length its first element tells; b"" where there is none."""
    begin = PREAMBLE_BYTES + len(MAGIC)
    if file.head[PREAMBLE_BYTES:begin] != MAGIC:
        return b""
    length = 2**16
    if file.head[begin : begin + 8] == META_LENGTH:
        length = 12 + int.from_bytes(file.head[begin + 8 : begin + 12], "little")
    if length > limits.max_metadata_bytes:
        raise SourceError(f"{file.uri}: its file meta information of {length} bytes is over max_metadata_bytes")
    with file.open() as opened:
        opened.seek(begin)
        return opened.read(length)


def _inflate(file: SourceFile, limits: Limits) -> bytes:
    """The data set of a deflated file, without its meta information; never more than a tile may take."""
    meta = _meta(file, limits)
    if not meta.startswith(META_LENGTH):
        raise SourceError(f"{file.uri}: its file meta information does not tell its length; save it uncompressed")
    with file.open() as opened:
        opened.seek(PREAMBLE_BYTES + len(MAGIC) + len(meta))
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        data = stream.decompress(opened.read(limits.max_tile_bytes), limits.max_tile_bytes)
    if stream.unconsumed_tail or not stream.eof:
        limit = f"max_tile_bytes = {limits.max_tile_bytes}"
        raise SourceError(f"{file.uri}: the deflated data is cut off, or over the limit {limit}; save it uncompressed")
    return data


def is_plain_code(text: str) -> bool:
    """True for a word as the standard writes its codes."""
    return re.fullmatch(r"[A-Z][A-Z0-9]{1,15}", text) is not None
