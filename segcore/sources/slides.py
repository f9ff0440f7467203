"""Slides: whole-slide images of all vendors that OpenSlide reads (extra `slides`). Never the label or macro image."""

import contextlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from segcore.errors import SourceError
from segcore.geometry import Grid, Window
from segcore.sources.base import (
    Companions,
    Format,
    Limits,
    Opening,
    Pixels,
    Reader,
    Source,
    SourceInfo,
    Valid,
    check_shape,
    decoding,
    default_channels,
)
from segcore.sources.files import SourceFile
from segcore.sources.slide_files import SlideFiles, slides_in, vendor_of
from segcore.sources.tiff_header import TILE_BYTE_COUNTS
from segcore.sources.tiff_limits import check_directories
from segcore.spatial import Spacing

if TYPE_CHECKING:
    import openslide

AXES = ("c", "y", "x")

CELL_PX = 1024
"""Side of the cells in which a level is read whose downsample is not a whole number."""


class SlideSource(Source):
    """A slide as RGB, at all levels that it stores. Not usable (`read_valid`): where the scanner stored nothing.

    OpenSlide's first error is final for its handle; so a source that failed once stays failed.
    """

    levels_have_valid = True

    def __init__(self, file: SourceFile, opening: Opening) -> None:
        openslide = _library(file.uri)
        vendor = vendor_of(file)
        assert vendor is not None, "asked to open what is no slide"
        if not file.is_folder and file.tiff is not None and vendor != "hamamatsu":  # a page of NDPI is one huge strip
            check_directories(file, opening.limits)  # OpenSlide takes room for tiles of whatever size the header tells
        files = SlideFiles.of(file, vendor)
        self.uri = file.uri
        self._last: tuple[Window, int, Pixels] | None = None
        with contextlib.ExitStack() as kept:
            path = files.local_path(opening.limits.max_download_bytes, kept)
            self._slide = kept.enter_context(openslide.OpenSlide(str(path)))
            levels = tuple((height, width) for width, height in self._slide.level_dimensions)
            _check(file.uri, self._slide, opening.limits)
            spacing = _spacing(self._slide.properties)
            if spacing is None and opening.spacing is None:
                raise SourceError(f"{file.uri}: the slide does not tell its µm per pixel; give it: --spacing 0.5um")
            self._kept = kept.pop_all()
        self.info = SourceInfo(
            uri=file.uri,
            reader="slide",
            reader_version=f"openslide-python {openslide.__version__}, OpenSlide {openslide.__library_version__}",
            axes=AXES,
            shape=(3, *levels[0]),
            dtype="uint8",
            channels=default_channels(3),
            spacing=spacing,
            has_valid=_may_have_gaps(files, self._slide),
            levels=levels if len(levels) > 1 else (),
            num_bytes=files.num_bytes,
            details=_details(self._slide),
        )

    def _rgba(self, window: Window, level: int) -> Pixels:
        """(Y, X, RGBA) of a window over (y, x); the last one is kept, as pixels and validity are asked in turn.

        OpenSlide takes a place in pixels of level 0. Where that has no whole number for a pixel of the level, it
        interpolates between the stored pixels, by less than half a pixel of level 0; so the level is read in cells of
        one grid, each from its own corner, and a pixel is the same in whatever window it is asked for.
        """
        if self._last is None or self._last[:2] != (window, level):
            factor = self._slide.level_downsamples[level]
            cells = Grid(self.shape(level)[-2:], (CELL_PX, CELL_PX))
            out = np.empty((*window.shape, 4), dtype=np.uint8)
            if float(factor).is_integer():
                out = self._region(window, level)
            else:
                for index in cells.touching(window):
                    cell = cells.window(index)
                    wanted = cell.intersected(window)
                    sides = tuple(b - a for a, b in zip(cell.start, wanted.stop, strict=True))
                    pixels = self._region(Window(cell.start, sides), level)
                    out[wanted.relative_to(window.start).slices] = pixels[wanted.relative_to(cell.start).slices]
            self._last = window, level, out
        return self._last[2]

    def _region(self, window: Window, level: int) -> Pixels:
        """What OpenSlide gives for a window of a level, from the pixel of level 0 that is nearest to its corner."""
        factor = self._slide.level_downsamples[level]
        y, x = (round(start * factor) for start in window.start)
        # OpenSlide holds premultiplied pixels; its Python layer divides by alpha.
        return np.asarray(self._slide.read_region((x, y), level, (window.shape[1], window.shape[0])))

    def _read(self, window: Window) -> Pixels:
        return self._read_level(window, 0)

    def _read_level(self, window: Window, level: int) -> Pixels:
        rgba = self._rgba(Window(window.start[1:], window.shape[1:]), level)
        return np.moveaxis(rgba[..., window.start[0] : window.stop[0]], -1, 0)

    def _read_valid(self, window: Window) -> Valid:
        return self._read_valid_level(window, 0)

    def _read_valid_level(self, window: Window, level: int) -> Valid:
        return np.asarray(self._rgba(window, level)[..., 3] > 0)

    def close(self) -> None:
        self._last = None
        self._kept.close()


def _library(uri: str) -> Any:
    """OpenSlide, or the line that says what to install."""
    try:
        import openslide
    except ImportError as error:
        raise SourceError(f"{uri}: slides need the extra `slides`: pip install 'segcore[slides]'") from error
    return openslide


def _check(uri: str, slide: "openslide.OpenSlide", limits: Limits) -> None:
    """Refuse slides and tiles over the limits."""
    for level, (width, height) in enumerate(slide.level_dimensions):
        check_shape(uri, AXES, (3, height, width), np.dtype("uint8"), limits)
        tile = _tile(slide.properties, level)
        if math.prod(tile) * 4 > limits.max_tile_bytes:
            raise SourceError(
                f"{uri}: a tile of {tile[0]} x {tile[1]} px takes {math.prod(tile) * 4} bytes, over the limit "
                f"max_tile_bytes = {limits.max_tile_bytes}"
            )


def _spacing(properties: Any) -> Spacing | None:
    """Microns per pixel, if the slide tells both; a missing or absurd value is unknown, not an error."""
    try:
        x, y = (float(properties[f"openslide.mpp-{axis}"]) for axis in "xy")
    except (KeyError, ValueError):
        return None
    if not (math.isfinite(x) and math.isfinite(y) and x > 0 and y > 0):
        return None
    return Spacing(values={"y": y, "x": x}, unit="micrometer", origin="file")


def _may_have_gaps(files: SlideFiles, slide: "openslide.OpenSlide") -> bool:
    """False only where the header tells that the scanner stored every pixel."""
    if files.vendor == "hamamatsu":
        return False
    if files.vendor == "dicom":
        return bool(slide.properties.get("dicom.DimensionOrganizationType") != "TILED_FULL")
    if files.vendor in ("aperio", "philips"):
        return files.main.tiff is None or 0 in files.main.tiff.integers(TILE_BYTE_COUNTS)
    return True


def _details(slide: "openslide.OpenSlide") -> dict[str, Any]:
    """What `inspect` shows besides; of the slide's own properties only the harmless ones."""
    properties = slide.properties
    return {
        "kind": f"slide ({properties.get('openslide.vendor', 'unknown')})",
        "levels": [[height, width] for width, height in slide.level_dimensions],
        "tile": list(_tile(properties, 0)),
        "objective_power": properties.get("openslide.objective-power"),
    }


def _tile(properties: Any, level: int) -> tuple[int, int]:
    """(y, x) of a level's tiles; 0 where the slide does not tell."""
    height, width = (int(properties.get(f"openslide.level[{level}].tile-{side}", 0)) for side in ("height", "width"))
    return height, width


def _matches(file: SourceFile) -> bool:
    with decoding(file.uri):
        return vendor_of(file) is not None


def _members(file: SourceFile, opening: Opening) -> Sequence[str]:
    """Of a folder of DICOM files with several slides: the first file of each."""
    slides = slides_in(file) if file.is_folder else {}
    return [names[0] for names in slides.values()] if len(slides) > 1 else []


def _companions(file: SourceFile) -> Sequence[str]:
    """Of a slide that is several files beside each other: all but the one that is given."""
    vendor = vendor_of(file)
    return [part.uri for part in SlideFiles.of(file, vendor).parts] if vendor in ("hamamatsu", "mirax") else []


THROUGH = "through OpenSlide"

READER = Reader(
    name="whole slides",
    rank=10,
    matches=_matches,
    open=SlideSource,
    members=_members,
    companions=Companions((".vms", ".vmu", ".mrxs"), _companions),
    formats=(
        Format("Aperio SVS", (".svs",), "all levels"),
        Format(
            "DICOM whole slide", (), "a folder of its files, or one of them; several slides in a folder are members"
        ),
        Format("Hamamatsu NDPI, VMS, VMU", (".ndpi", ".vms", ".vmu"), THROUGH, tested=False),
        Format("MIRAX", (".mrxs",), f"{THROUGH}; with the folder of its name beside it", tested=False),
        Format("Leica SCN", (".scn",), THROUGH, tested=False),
        Format("Ventana BIF", (".bif", ".tif"), THROUGH, tested=False),
        Format("Philips TIFF", (".tiff",), THROUGH, tested=False),
        Format("Trestle", (".tif",), THROUGH, tested=False),
        Format("Sakura", (".svslide",), THROUGH, tested=False),
        Format("Zeiss CZI", (".czi",), f"{THROUGH}: brightfield slides", tested=False),
    ),
    extra="slides",
)
