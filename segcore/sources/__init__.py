"""Sources: the user's own files, all behind `open_source(uri) -> Source`.

    uri --> SourceFile (bytes) --> the first Reader that knows the content --> Source.read(window)

Adding a format is adding one module here with a `READER`, and naming it in MODULES. Only one module imports the
format's library, and only once such a file is opened: whoever lists files loads none.
Files come from outside: run this in a child of `segcore.isolation.ChildPool` wherever more than a header is read.
"""

import functools
import importlib
from pathlib import PurePosixPath

from segcore.errors import SourceError
from segcore.sources.base import DEFAULT_OPENING, Limits, Opening, Reader, Source, SourceInfo, decoding
from segcore.sources.files import MEMBER, SourceFile, split_member
from segcore.sources.joined import Joined
from segcore.sources.resampled import with_spacing

__all__ = [
    "DEFAULT_OPENING",
    "Joined",
    "Limits",
    "Opening",
    "Source",
    "SourceInfo",
    "companions",
    "members",
    "open_source",
    "readers",
    "suffixes",
    "uri_of",
]


MODULES = (
    "dicom",
    "geo_reader",
    "hdf5",
    "nifti",
    "npy",
    "nrrd",
    "omezarr",
    "picture_reader",
    "refused",
    "slides",
    "stac",
    "tiff_reader",
    "video",
)
"""Where the readers are."""


@functools.cache
def readers() -> tuple[Reader, ...]:
    """All readers, in the order in which they are asked."""
    found = [importlib.import_module(f"{__name__}.{name}").READER for name in MODULES]
    return tuple(sorted(found, key=lambda reader: reader.rank))


@functools.cache
def suffixes() -> frozenset[str]:
    """Suffixes of the names that are taken from a folder, lower case."""
    return frozenset(suffix for reader in readers() for suffix in reader.suffixes)


def members(uri: str, opening: Opening = DEFAULT_OPENING) -> tuple[str | Joined, ...]:
    """The images in a file or folder, as `open_source` takes them; itself where it is one image.

    Those that are made of some of a folder's files alone come as these files, joined under the name behind `::`.

    Raises:
        SourceError: one line that names it, if it cannot be read.
    """
    place, member = split_member(uri)
    if member is None:
        return _members_of(place, opening) or (uri,)
    try:
        found = _members_of(place, opening)
    except SourceError:  # of the part alone nothing is known yet: opening it will tell
        return (uri,)
    return tuple(part for part in found if uri_of(part) == uri) or (uri,)


def _members_of(place: str, opening: Opening) -> tuple[str | Joined, ...]:
    file = SourceFile(place)
    for reader in readers():
        if reader.members is not None and reader.matches(file):
            with decoding(place):
                found = reader.members(file, opening)
            return tuple(part if isinstance(part, Joined) else f"{place}{MEMBER}{part}" for part in found)
    return ()


def uri_of(source: str | Joined) -> str:
    """What a source is called."""
    return source.uri if isinstance(source, Joined) else source


def companions(uri: str) -> tuple[str, ...]:
    """The further files that are one image with a file: a STAC Item's assets, the parts of a slide; mostly none.

    Cheap: only a file that is called as such files are is looked into.

    Raises:
        SourceError: one line that names it, if it is damaged, or one of them is missing or must not be opened.
    """
    suffix = PurePosixPath(split_member(uri)[0].partition("?")[0]).suffix.lower()
    asked = [(reader, reader.companions) for reader in readers() if reader.companions is not None]
    asked = [(reader, found) for reader, found in asked if suffix in found.suffixes]
    if not asked:
        return ()
    file = SourceFile(uri)
    with decoding(uri):
        return next((tuple(found.of(file)) for reader, found in asked if reader.matches(file)), ())


def open_source(uri: str | Joined, opening: Opening = DEFAULT_OPENING) -> Source:
    """Open a user's image; which reader is decided by its content, not by its name.

    Args:
        uri: a local path or a URL (s3://, gs://, az://, https://) of a file or of a folder that is one image; behind
            `::` a part of it: `stack.h5::/volumes/raw`. Or several files that are one image together.
        opening: what it may ask for, and how its pixels are wanted; resampled, where a spacing is asked for that is
            not its own.

    Returns:
        The source, open; close it, or use it as a context manager.

    Raises:
        SourceError: one line that names the file: missing, damaged, over a limit, or of a format that is not read.
    """
    source = _open_joined(uri, opening) if isinstance(uri, Joined) else _open_file(uri, opening)
    if opening.spacing is None or opening.indexed:
        return source
    try:
        return with_spacing(source, opening.spacing, opening.limits)
    except BaseException:
        source.close()
        raise


def _open_joined(joined: Joined, opening: Opening) -> Source:
    with decoding(joined.uri):
        module = importlib.import_module(f"{__name__}.{joined.how}")
        source: Source = module.open_joined(joined, opening, open_source)
        return source


def _open_file(uri: str, opening: Opening) -> Source:
    """By the first reader that knows the content."""
    file = SourceFile(uri)
    for reader in readers():
        if reader.matches(file):
            try:
                with decoding(uri):
                    return reader.open(file, opening)
            except BaseException:
                file.discard()
                raise
    known = ", ".join(reader.name for reader in readers() if reader.rank > 0)
    found = "it is a folder of other things" if file.is_folder else f"the file begins with {file.head[:16]!r}"
    raise SourceError(f"{uri}: is no image that segcore reads; expected one of {known}; {found}")
