"""SVS: Aperio's whole-slide images, through OpenSlide (extra `slides`). Never the label, never the macro image."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

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
from segcore.sources.tiff_header import TILE_BYTE_COUNTS
from segcore.sources.tiff_limits import check_directories
from segcore.spatial import Spacing

if TYPE_CHECKING:
    import openslide

AXES = ("c", "y", "x")


class SlideSource(Source):
    """Level 0 of a slide as RGB. Not usable (`read_valid`): where the scanner stored no tile.

    OpenSlide's first error is final for its handle; so a source that failed once stays failed.
    """

    def __init__(self, file: SourceFile, limits: Limits) -> None:
        assert file.tiff is not None, "asked to open what is no TIFF"
        openslide = _library(file.uri)
        check_directories(file, limits)  # OpenSlide takes room for a tile of whatever size the header tells
        self.uri = file.uri
        self._file = file
        self._slide = openslide.OpenSlide(str(file.fetched(limits.max_download_bytes)))
        width, height = self._slide.dimensions
        check_shape(file.uri, AXES, (3, height, width), np.dtype("uint8"), limits)
        self._last: tuple[Window, Pixels] | None = None
        self.info = SourceInfo(
            uri=file.uri,
            reader="svs",
            reader_version=f"openslide-python {openslide.__version__}, OpenSlide {openslide.__library_version__}",
            axes=AXES,
            shape=(3, height, width),
            dtype="uint8",
            channels=default_channels(3),
            spacing=_spacing(self._slide.properties),
            has_valid=0 in file.tiff.integers(TILE_BYTE_COUNTS),
            num_bytes=file.num_bytes,
            details=_details(self._slide),
        )

    def _rgba(self, window: Window) -> Pixels:
        """(Y, X, RGBA) of a window over (y, x); the last one is kept, as pixels and validity are asked in turn."""
        if self._last is None or self._last[0] != window:
            (y, x), (height, width) = window.start, window.shape
            # OpenSlide holds premultiplied pixels; its Python layer divides by alpha.
            self._last = window, np.asarray(self._slide.read_region((x, y), 0, (width, height)))
        return self._last[1]

    def _read(self, window: Window) -> Pixels:
        rgba = self._rgba(Window(window.start[1:], window.shape[1:]))
        return np.moveaxis(rgba[..., window.start[0] : window.stop[0]], -1, 0)

    def _read_valid(self, window: Window) -> Valid:
        return np.asarray(self._rgba(window)[..., 3] > 0)

    def close(self) -> None:
        self._last = None
        self._slide.close()
        self._file.discard()


def _library(uri: str) -> Any:
    """OpenSlide, or the line that says what to install."""
    try:
        import openslide
    except ImportError as error:
        raise SourceError(f"{uri}: slides need the extra `slides`: pip install 'segcore[slides]'") from error
    return openslide


def _spacing(properties: Any) -> Spacing | None:
    """Microns per pixel, if the slide tells both; a missing or absurd value is unknown, not an error."""
    try:
        x, y = (float(properties[f"openslide.mpp-{axis}"]) for axis in "xy")
    except (KeyError, ValueError):
        return None
    if not (math.isfinite(x) and math.isfinite(y) and x > 0 and y > 0):
        return None
    return Spacing(values={"y": y, "x": x}, unit="micrometer", origin="file")


def _details(slide: "openslide.OpenSlide") -> dict[str, Any]:
    """What `inspect` shows besides; of the slide's own properties only the harmless ones."""
    properties = slide.properties
    return {
        "kind": f"slide ({properties.get('openslide.vendor', 'unknown')})",
        "levels": [[height, width] for width, height in slide.level_dimensions],
        "tile": [int(properties.get(f"openslide.level[0].tile-{side}", 0)) for side in ("height", "width")],
        "objective_power": properties.get("openslide.objective-power"),
    }


READER = Reader(
    name="SVS",
    rank=10,
    matches=lambda file: file.tiff is not None and file.tiff.description.startswith(b"Aperio"),
    open=lambda file, opening: SlideSource(file, opening.limits),
    formats=(Format("Aperio SVS", (".svs",)),),
    extra="slides",
)
