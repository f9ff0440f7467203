"""Slide files: which files are a whole slide, judged by their first bytes, and of which further files it consists.

SourceFile --> vendor_of --> SlideFiles (the file to open, and its parts) --> local_path, where OpenSlide finds them all
"""

import contextlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from segcore.errors import SourceError
from segcore.sources.files import SourceFile, copy_stream
from segcore.sources.tiff_header import TILE_WIDTH, TiffHeader

SOFTWARE, XML_PACKET, NDPI_MARK = 305, 700, 65420
"""TIFF tags."""

WSI = b"\x02\x00\x02\x00UI\x1e\x001.2.840.10008.5.1.4.1.1.77.1.6\x02\x00"
"""DICOM's element MediaStorageSOPClassUID with VL Whole Slide Microscopy, and the beginning of the element after it."""
IMAGE_TYPE = b"\x08\x00\x08\x00CS"
SERIES = re.compile(rb"\x20\x00\x0d\x00UI(.)\x00[0-9.\0]{1,64}?\x20\x00\x0e\x00UI(.)\x00([0-9.]{1,64})", re.DOTALL)
"""DICOM's StudyInstanceUID and, next to it, SeriesInstanceUID: the file's own, not one that it refers to."""
SERIES_BYTES = 2**16
"""Where they are looked for."""

MAX_INI_BYTES = 2**20
FILE_KEY = re.compile(r"^[ \t]*(\w*(?:File|Image)\b[^=\n]*|FILE_\d+|INDEXFILE)[ \t]*=[ \t]*([^\r\n]*)", re.MULTILINE)
"""Lines of an INI file that name another file: of Hamamatsu (VMS, VMU), and of MIRAX."""


def vendor_of(file: SourceFile) -> str | None:
    """What kind of whole slide a file or folder is, by its content, in OpenSlide's words; None if it is none.

    MIRAX and Sakura are judged by their names too: a `.mrxs` is a plain JPEG, a `.svslide` a plain database.
    """
    if file.is_folder:
        return "dicom" if _is_dicom_folder(file) else None
    head, name = file.head, file.name.lower()
    if is_whole_slide_dicom(head):
        return "dicom"
    if head.startswith(b"ZISRAWFILE"):
        return "zeiss"
    if re.search(rb"^\[(Uncompressed )?Virtual Microscope Specimen\]", head, re.MULTILINE):
        return "hamamatsu"
    if head.startswith(b"SQLite format 3\0") and name.endswith(".svslide"):
        return "sakura"
    if name.endswith(".mrxs"):
        return "mirax"
    return None if file.tiff is None else _tiff_vendor(file.tiff)


def is_whole_slide_dicom(head: bytes) -> bool:
    """True for the first bytes of a DICOM file that is part of a whole slide."""
    return head[128:132] == b"DICM" and WSI in head


def _tiff_vendor(tiff: TiffHeader) -> str | None:
    """Whose slide a TIFF is; None of any other TIFF, tiled pyramids included: they keep their bands and their type."""
    software, xml = _text(tiff, SOFTWARE), _text(tiff, XML_PACKET)
    tiled = TILE_WIDTH in tiff.tags
    if NDPI_MARK in tiff.tags:
        return "hamamatsu"
    if tiled and tiff.description.startswith(b"Aperio"):
        return "aperio"
    if tiled and b"http://www.leica-microsystems.com/scn/2010/" in tiff.description:
        return "leica"
    if tiled and software.startswith(b"Philips") and b"DPUfsImport" in tiff.description:
        return "philips"
    if tiled and software.startswith(b"MedScan") and tiff.description:
        return "trestle"
    return "ventana" if b"<iScan" in xml else None


def _text(tiff: TiffHeader, tag: int) -> bytes:
    """A text tag; some writers store text as numbers."""
    value = tiff.tags.get(tag, b"")
    if isinstance(value, bytes):
        return value
    return bytes(value) if all(0 <= number < 256 for number in value) else b""


def _is_dicom_folder(folder: SourceFile) -> bool:
    """True if the first DICOM file of a folder is part of a whole slide. A store of arrays is not looked through."""
    if folder.name.endswith(".zarr"):
        return False
    for name in folder.names()[:8]:  # what lies first may be an index or a note
        file = _child_or_none(folder, name)
        if file is not None and file.head[128:132] == b"DICM" and name.upper() != "DICOMDIR":
            return is_whole_slide_dicom(file.head)
    return False


def _child_or_none(folder: SourceFile, name: str) -> SourceFile | None:
    """A file of a folder; None of an empty one, which is no part of a slide."""
    with contextlib.suppress(SourceError):
        return folder.child(name)
    return None


@dataclass(frozen=True)
class SlideFiles:
    """The files of one slide."""

    vendor: str
    main: SourceFile
    """The one that OpenSlide is given."""
    parts: tuple[SourceFile, ...] = ()
    """Those that it needs beside it, or, of MIRAX, in the folder of its name."""

    @classmethod
    def of(cls, file: SourceFile, vendor: str) -> "SlideFiles":
        """Find them.

        Raises:
            SourceError: if one is missing or lies anywhere but beside the slide, or if it is not clear which they are.
        """
        if file.is_folder:
            return _dicom_folder(file)
        if file.member is not None:
            raise SourceError(f"{file.uri}: a slide is one image, it has no part '{file.member}'; give the file alone")
        if vendor == "mirax":
            return cls(vendor, file, _mirax_parts(file))
        if vendor == "hamamatsu" and file.tiff is None:
            return cls(vendor, file, _hamamatsu_parts(file))
        if vendor == "dicom" and file.local_path is None:  # its neighbours may hold other levels
            raise SourceError(f"{file.uri}: of a slide in DICOM behind a URL, give the folder that holds all its files")
        return cls(vendor, file)

    @property
    def num_bytes(self) -> int:
        return self.main.num_bytes + sum(part.num_bytes for part in self.parts)

    def local_path(self, max_bytes: int, kept: contextlib.ExitStack) -> Path:
        """Where OpenSlide can open it: where it lies, or a copy of a remote slide, which `kept` removes.

        Raises:
            SourceError: if a copy would be larger than `max_bytes`.
        """
        if self.main.local_path is not None:
            return self.main.local_path
        if not self.parts:
            kept.callback(self.main.discard)
            return self.main.fetched(max_bytes)
        if self.num_bytes > max_bytes:
            raise SourceError(
                f"{self.main.uri}: {self.num_bytes} bytes are over the limit max_download_bytes = {max_bytes}"
            )
        folder = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="segcore-source-")))
        below = folder / "slide" if self.vendor == "mirax" else folder
        below.mkdir(exist_ok=True)
        for part in self.parts:
            _copy(part, below)
        return _copy(self.main, folder, "slide.mrxs" if self.vendor == "mirax" else None)


def _copy(file: SourceFile, folder: Path, name: str | None = None) -> Path:
    place = folder / Path(name or file.name).name
    with place.open("xb") as copy, file.open() as opened:
        copy_stream(opened, copy)
    return place


def slides_in(folder: SourceFile) -> dict[bytes, list[str]]:
    """The DICOM files that hold levels of slides, not labels, overviews or thumbnails: names, by slide (series)."""
    slides: dict[bytes, list[str]] = {}
    for name in folder.names():
        file = _child_or_none(folder, name)
        if file is not None and is_whole_slide_dicom(file.head) and _is_volume(file.head):
            with file.open() as opened:
                found = SERIES.search(opened.read(SERIES_BYTES))
            slides.setdefault(found[3] if found else b"", []).append(name)
    return slides


def _is_volume(head: bytes) -> bool:
    """True unless the file says in its ImageType that it is something else."""
    at = head.find(IMAGE_TYPE)
    if at < 0:
        return True
    start = at + len(IMAGE_TYPE) + 2
    length = int.from_bytes(head[start - 2 : start], "little")
    return b"VOLUME" in head[start : start + length]


def _dicom_folder(folder: SourceFile) -> SlideFiles:
    """The slide in a folder, or, of several, the one that a member names by one of its files."""
    slides = slides_in(folder)
    names = [name for files in slides.values() for name in files]
    if not names:
        raise SourceError(f"{folder.uri}: its DICOM files hold labels or overviews, but no level of a slide")
    if folder.member is None and len(slides) > 1:
        first = next(iter(slides.values()))[0]
        raise SourceError(f"{folder.uri}: holds {len(slides)} slides; name one by a file of it: {folder.uri}::{first}")
    if folder.member is not None and folder.member not in names:
        raise SourceError(f"{folder.uri}: no file of that name holds a level of a slide; expected one of {names[:8]}")
    main = folder.member or names[0]
    return SlideFiles("dicom", folder.child(main), tuple(folder.child(name) for name in names if name != main))


def _mirax_parts(file: SourceFile) -> tuple[SourceFile, ...]:
    name = file.name[: -len(".mrxs")]
    missing = f"{file.uri}: a MIRAX slide is this file and the folder '{name}' beside it; copy both"
    folder = _beside(file, name, missing)
    if not folder.is_folder or not folder.has("Slidedat.ini"):
        raise SourceError(missing)
    _named_files(folder.child("Slidedat.ini"))
    return tuple(folder.child(part) for part in folder.names() if part.lower().endswith((".ini", ".dat")))


def _hamamatsu_parts(file: SourceFile) -> tuple[SourceFile, ...]:
    """The JPEGs or NGRs of a VMS or VMU, and its map; without an optimisation file it is slower, and reads the same."""
    names = {name for key, name in _named_files(file) if name and not key.startswith("Optimisation")}
    said = f"{file.uri}: it is one of several files of a slide, and '%s' is not beside it; copy them all"
    return tuple(_beside(file, name, said % name) for name in sorted(names))


def _beside(file: SourceFile, name: str, missing: str) -> SourceFile:
    try:
        return file.beside(name)
    except SourceError as error:
        raise SourceError(missing) from error


def _named_files(ini: SourceFile) -> list[tuple[str, str]]:
    """(key, name) of the files that a slide's INI file names.

    Raises:
        SourceError: if one of them is not a plain name: a slide must not make us open what lies elsewhere.
    """
    if ini.num_bytes > MAX_INI_BYTES:
        raise SourceError(f"{ini.uri}: {ini.num_bytes} bytes of text, expected at most {MAX_INI_BYTES}; it is damaged")
    with ini.open() as opened:
        text = opened.read().decode("latin-1")
    named = [(key.strip(), name.strip()) for key, name in FILE_KEY.findall(text)]
    for key, name in named:
        if "/" in name or "\\" in name or name == "..":
            raise SourceError(f"{ini.uri}: its {key} names '{name[:100]}', which is not beside it; refused for safety")
    return named
