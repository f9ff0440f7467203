"""Sources: the user's own files, all behind `open_source(uri) -> Source`.

    uri --> SourceFile (bytes) --> the first Reader that knows the content --> Source.read(window)

Adding a format is adding one module here with a `READER`; only that module imports the format's library.
Files come from outside: run this in a child of `segcore.isolation.ChildPool` wherever more than a header is read.
"""

import functools
import importlib
import pkgutil

from segcore.errors import SourceError
from segcore.sources.base import DEFAULT_LIMITS, Limits, Reader, Source, SourceInfo, decoding
from segcore.sources.files import SourceFile

__all__ = ["DEFAULT_LIMITS", "Limits", "Source", "SourceInfo", "open_source", "readers"]


@functools.cache
def readers() -> tuple[Reader, ...]:
    """All readers, in the order in which they are asked."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    found = [module.READER for module in modules if hasattr(module, "READER")]
    return tuple(sorted(found, key=lambda reader: reader.rank))


def open_source(uri: str, limits: Limits = DEFAULT_LIMITS, *, indexed: bool = False) -> Source:
    """Open a user's image; which reader is decided by its content, not by its name.

    Args:
        uri: a local path or a URL (s3://, gs://, az://, https://).
        limits: what the file may ask for.
        indexed: give what is stored, as masks need it: a palette picture as its indices (one channel), with the
            palette as RGB triples in `info.details["palette"]`, and a TIFF in which 0 is white as it is. Otherwise
            palettes come as their colours, and 0 is dark.

    Returns:
        The source, open; close it, or use it as a context manager.

    Raises:
        SourceError: one line that names the file: missing, damaged, over a limit, or of a format that is not read.
    """
    file = SourceFile(uri)
    for reader in readers():
        if reader.matches(file):
            try:
                with decoding(uri):
                    return reader.open(file, limits, indexed)
            except BaseException:
                file.discard()
                raise
    known = ", ".join(reader.name for reader in readers() if reader.rank > 0)
    raise SourceError(
        f"{uri}: is no image that segcore reads; expected one of {known}; the file begins with {file.head[:16]!r}"
    )
