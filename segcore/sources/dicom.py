"""DICOM: a file, or a folder that holds a series, as one image; the slices in the order of their positions.

Coordinates of the patient are LPS in DICOM, RAS in `info.affine`. Values are rescaled (CT: Hounsfield units), never
windowed for display. Nothing of the header is kept but what `_details` lists: no patient, no dates, no UIDs.
"""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from segcore.config import escaped
from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources.anatomy import affine_of, sides_of, spacing_of
from segcore.sources.base import (
    Format,
    Opening,
    Pixels,
    Reader,
    Source,
    SourceInfo,
    check_shape,
    decoding,
    default_channels,
)
from segcore.sources.dicom_files import MAGIC, PREAMBLE_BYTES, DicomFile, is_plain_code, library
from segcore.sources.dicom_pixels import rescaled, result_dtype
from segcore.sources.dicom_series import Slice, Stack, stacked
from segcore.sources.files import MEMBER, SourceFile
from segcore.sources.joined import Joined, OpenSource

BARE = (b"\x02\x00\x00\x00UL", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00", b"\x08\x00\x16\x00")
"""Tags near the beginning of a file that lacks its preamble; only believed under a .dcm name."""
BARE_SUFFIXES = (".dcm", ".dicom")

SLIDE_CLASS = b"\x02\x00\x02\x00UI\x1e\x001.2.840.10008.5.1.4.1.1.77.1.6"
"""MediaStorageSOPClassUID of whole-slide images, which another reader takes."""
MAX_PROBED = 64
"""Files of a folder that are looked at until one is DICOM."""
CACHE_BYTES = 2**26
"""Decoded slices that are kept."""


class DicomSource(Source):
    """An image, a volume or a sequence; each slice is decoded when a window first touches it."""

    def __init__(self, uri: str, found: Sequence[DicomFile], opening: Opening, ignored: int = 0) -> None:
        self.uri = uri
        self._indexed = opening.indexed
        self._files = {one.file.uri: one for one in found}
        self._cache: OrderedDict[int, Pixels] = OrderedDict()
        stack = stacked(uri, [part for one in found for part in one.slices])
        first = found[0]
        _check_same_kind(uri, found)
        axis, why = (stack.axis, "") if stack.axis or len(stack.slices) == 1 else first.frame_axis
        channels = default_channels(3 if first.is_colored and not self._is_index(first) else 1)
        plane = (first.rows, first.columns)
        count = len(stack.slices)
        axes, shape = {
            None: (("c", "y", "x"), (len(channels), *plane)),
            "z": (("c", "z", "y", "x"), (len(channels), count, *plane)),
            "t": (("t", "c", "y", "x"), (count, len(channels), *plane)),
        }[axis]
        self._dtype = self._find_dtype(stack)
        check_shape(uri, axes, shape, self._dtype, opening.limits)
        self._slices = stack.slices
        affine = None if stack.matrix is None else affine_of(stack.matrix)
        sides = sides_of(affine) if affine else (first.slices[0].spacing or ())[::-1]
        self.info = SourceInfo(
            uri=uri,
            reader="dicom",
            reader_version=f"pydicom {library(uri).__version__}",
            axes=axes,
            shape=shape,
            dtype=self._dtype.name,
            channels=("index",) if self._is_index(first) else channels,
            spacing=spacing_of(sides, axes if affine else ("y", "x")) if sides else None,
            affine=affine,
            num_bytes=sum(one.file.num_bytes for one in found),
            details=_details(found, stack, ignored, why and f"frames are along {axis}: {why}"),
        )

    @property
    def slices(self) -> tuple[Slice, ...]:
        """The planes in the order of the image's: which file and frame each one is."""
        return self._slices

    def _is_index(self, found: DicomFile) -> bool:
        return self._indexed and found.photometric == "PALETTE COLOR"

    def _find_dtype(self, stack: Stack) -> np.dtype[np.generic]:
        first = self._files[stack.slices[0].file]
        if first.photometric == "PALETTE COLOR" and not self._indexed:
            return first.palette_dtype
        return result_dtype(self._files[part.file].values(part) for part in stack.slices)

    def _slice(self, number: int) -> Pixels:
        """(C, Y, X) of a slice."""
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        part = self._slices[number]
        found = self._files[part.file]
        with decoding(found.file.uri, f"(frame {part.frame + 1})" if part.frame is not None else ""):
            stored = found.decode(part.frame or 0, self._indexed)
            pixels = stored[np.newaxis] if stored.ndim == 2 else np.moveaxis(stored, -1, 0)
            if found.is_colored:
                pixels = pixels.astype(self._dtype, copy=False)
            else:
                inverted = found.is_inverted and not self._indexed
                pixels = rescaled(pixels, found.values(part), self._dtype, inverted)
        size = found.rows, found.columns
        if pixels.shape[1:] != size:
            raise SourceError(f"{found.file.uri}: its header says {size} px, its pixels are {pixels.shape[1:]}")
        while self._cache and sum(kept.nbytes for kept in self._cache.values()) + pixels.nbytes > CACHE_BYTES:
            self._cache.popitem(last=False)
        self._cache[number] = pixels
        return pixels

    def _read(self, window: Window) -> Pixels:
        axes = self.info.axes
        box = dict(zip(axes, window.slices, strict=True))
        plane = box["c"], box["y"], box["x"]
        if len(axes) == 3:
            return self._slice(0)[plane]
        numbers = range(len(self._slices))[box["t" if "t" in axes else "z"]]
        return np.stack([self._slice(number)[plane] for number in numbers], axis=0 if "t" in axes else 1)

    def close(self) -> None:
        self._cache.clear()
        self._files.clear()


def _picked(file: SourceFile, opening: Opening) -> tuple[list[DicomFile], int]:
    """The files of the series that is meant, and how many others of the folder hold no image."""
    if not file.is_folder:
        if file.member is not None:
            raise SourceError(f"{file.uri}: a DICOM file is one image; name it without {MEMBER}{file.member}")
        found = _parsed(file, opening)
        if found.modality == "SEG":
            raise SourceError(f"{file.uri}: is a segmentation (SEG); give it as the target of its image (--targets)")
        if not found.is_image:
            raise SourceError(f"{file.uri}: this DICOM file holds no image that is read")
        return [found], 0
    series, ignored = _series(file, opening)
    if not series:
        raise SourceError(f"{file.uri}: none of its DICOM files holds an image that is read")
    name = file.member or (next(iter(series)) if len(series) == 1 else None)
    if name not in series:
        listed = ", ".join(f"{key} ({found[0].modality}, {len(found)} files)" for key, found in sorted(series.items()))
        asked = f"has no '{name}', but" if name else "holds several series; name one behind ::, of"
        raise SourceError(f"{file.uri}: {asked} {listed}")
    return series[name], ignored


def _series(folder: SourceFile, opening: Opening) -> tuple[dict[str, list[DicomFile]], int]:
    """The images of a folder by series; and how many DICOM files of it are none (reports, plans, masks)."""
    series: dict[str, list[DicomFile]] = {}
    ignored = 0
    names = [name for name in folder.names() if not name.startswith(".")]
    _check_count(folder.uri, len(names), opening)
    for name in names:
        file = folder.child(name)
        if not _is_dicom(file) or SLIDE_CLASS in file.head:
            continue
        found = _parsed(file, opening)
        if found.lacks_image:
            raise SourceError(f"{file.uri}: this DICOM file holds no image, but should; it is damaged or cut off")
        if not found.is_image or found.modality == "SEG":
            ignored += 1
            continue
        series.setdefault(found.series, []).append(found)
    return series, ignored


def _check_count(uri: str, num_files: int, opening: Opening) -> None:
    if num_files > opening.limits.max_pages:
        raise SourceError(f"{uri}: its {num_files} files are over the limit max_pages = {opening.limits.max_pages}")


def _parsed(file: SourceFile, opening: Opening) -> DicomFile:
    with decoding(file.uri):
        return DicomFile(file, opening.limits)


def _check_same_kind(uri: str, found: Sequence[DicomFile]) -> None:
    """Refuse a series whose files mean their values differently."""
    first = found[0]
    for other in found[1:]:
        if (other.photometric, other.is_colored) != (first.photometric, first.is_colored):
            said = f"{first.photometric} and {other.photometric}"
            raise SourceError(f"{uri}: {first.name} and {other.name}, of one series, differ in their colours: {said}")


def _details(found: Sequence[DicomFile], stack: Stack, ignored: int, why: str) -> dict[str, object]:
    """What `inspect` shows besides: an allow-list."""
    first = found[0]
    notes = [*stack.notes, *first.notes, *([why] if why else [])]
    if ignored:
        notes.append(f"{ignored} DICOM files without an image are not read")
    details: dict[str, object] = {
        "kind": "DICOM",
        "modality": first.modality,
        "transfer_syntax": sorted({one.syntax_name for one in found}),
        "files": len(found),
        "photometric": first.photometric if is_plain_code(first.photometric.replace(" ", "").replace("_", "")) else "",
        "bits_stored": first.stored,
    }
    return details | ({"notes": notes} if notes else {})


def _is_dicom(file: SourceFile) -> bool:
    """True for a DICOM file, by its magic; one without a preamble must be called so."""
    if file.head[PREAMBLE_BYTES:][: len(MAGIC)] == MAGIC:
        return True
    return file.name.lower().endswith(BARE_SUFFIXES) and any(tag in file.head[:16] for tag in BARE)


def _matches(file: SourceFile) -> bool:
    if not file.is_folder:
        return _is_dicom(file) and SLIDE_CLASS not in file.head
    if file.name.endswith(".zarr"):  # a web server does not list it
        return False
    with decoding(file.uri):
        names = [name for name in file.names() if not name.startswith(".")]
    for name in names[:MAX_PROBED]:
        try:
            found = file.child(name)
        except SourceError:  # empty, or not ours to read: another file may tell
            continue
        if _is_dicom(found):
            return SLIDE_CLASS not in found.head
    return False


def _members(file: SourceFile, opening: Opening) -> Sequence[Joined]:
    """The series of a folder, also a single one: what it is called must not depend on what else arrives."""
    found = sorted(_series(file, opening)[0].items()) if file.is_folder else ()
    return [
        Joined(uri=f"{file.uri}{MEMBER}{name}", how="dicom", parts=tuple(escaped(one.file.uri) for one in files))
        for name, files in found
    ]


def open_joined(joined: Joined, opening: Opening, open_source: OpenSource) -> Source:
    """Open the files of one series; see `Joined`."""
    _check_count(joined.uri, len(joined.parts), opening)
    found = [_parsed(SourceFile(part), opening) for part in joined.parts]
    for one in found:
        if not one.is_image or one.series != found[0].series:
            raise SourceError(f"{one.file.uri}: is no longer a slice of {joined.uri}; ingest its folder again")
    return DicomSource(joined.uri, found, opening)


def _open(file: SourceFile, opening: Opening) -> Source:
    found, ignored = _picked(file, opening)
    return DicomSource(file.uri, found, opening, ignored)


READER = Reader(
    name="DICOM",
    rank=5,  # before TIFF: the preamble of a DICOM file may look like one
    matches=_matches,
    open=_open,
    members=_members,
    formats=(
        # No suffixes: in a folder it is the folder that is taken, as its files are slices.
        Format(
            "DICOM",
            (),
            "a file, or a folder with a series (`::series-1a2b3c4d` where it has several); rescaled, not windowed",
        ),
    ),
    extra="dicom",
)
