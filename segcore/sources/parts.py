"""Parts: the files of a joined image, a few of them open at a time; and what joining them asks of their headers."""

import contextlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.nodata import fitting_nodata, missing
from segcore.sources.base import Opening, Pixels, Source, SourceInfo, Valid
from segcore.sources.joined import OpenSource
from segcore.spatial import Georef

MAX_OPEN = 16
"""Sources that are open at once."""


class Parts:
    """The parts by their number; opened when they are asked for, the least recently used closed."""

    def __init__(self, uris: Sequence[str], opening: Opening, open_source: OpenSource) -> None:
        # The whole is resampled, never the parts.
        self._uris, self._opening, self._open_source = uris, opening.model_copy(update={"spacing": None}), open_source
        self._kept: OrderedDict[int, Source] = OrderedDict()
        self.infos: tuple[SourceInfo, ...] = ()
        try:
            self.infos = tuple(self[number].info for number in range(len(uris)))
        except BaseException:
            self.close()
            raise

    def __getitem__(self, number: int) -> Source:
        if number not in self._kept:
            if len(self._kept) >= MAX_OPEN:
                self._kept.popitem(last=False)[1].close()
            self._kept[number] = self._open_source(self._uris[number], self._opening)
        self._kept.move_to_end(number)
        return self._kept[number]

    def close(self) -> None:
        """Give back files and memory."""
        with contextlib.ExitStack() as closing:
            for source in self._kept.values():
                closing.callback(source.close)
        self._kept.clear()


def tells_missing(info: SourceInfo) -> bool:
    """True if pixels of this source can be missing: by alpha or mask, by nodata, or because they are floats."""
    return info.has_valid or fitting_nodata(info.nodata, info.dtype) is not None or np.dtype(info.dtype).kind == "f"


def has_value(source: Source, window: Window, pixels: Pixels) -> Valid:
    """Which pixels have a value, channel by channel: by alpha or mask, else where they are finite and not nodata.

    Args:
        source: one part, with the channel first.
        window: over all channels.
        pixels: what was read of it.

    Returns:
        Boolean, of the window's shape.
    """
    info = source.info
    known = ~missing(pixels, None if info.has_valid else fitting_nodata(info.nodata, info.dtype))
    return np.asarray(known & source.read_valid(Window(window.start[1:], window.shape[1:])))


def usable(source: Source, window: Window, pixels: Pixels) -> Valid:
    """Which pixels have a value in any channel; over the axes without c."""
    return np.asarray(has_value(source, window, pixels).any(axis=0))


def fill_value(info: SourceInfo) -> float:
    """What stands where there is no pixel: nodata, where the type can have it; else NaN in floats, and 0."""
    fill = fitting_nodata(info.nodata, info.dtype)
    return fill if fill is not None else float("nan") if np.dtype(info.dtype).kind == "f" else 0


def common_nodata(infos: Sequence[SourceInfo]) -> float | None:
    """The nodata value that all parts have; None if they differ."""
    values = [fitting_nodata(info.nodata, info.dtype) for info in infos]
    return values[0] if len({str(value) for value in values}) == 1 else None


def in_whole(pixels: Pixels, info: SourceInfo, nodata: float | None) -> Pixels:
    """A part's pixels: NaN for a nodata value of its own, which the whole does not tell and nobody could leave out.

    Whole numbers have no such value and stay; `read_valid` tells.
    """
    own = fitting_nodata(info.nodata, info.dtype)
    if pixels.dtype.kind != "f" or info.has_valid or own is None or own == nodata or np.isnan(own):
        return pixels
    return np.where(missing(pixels, own), pixels.dtype.type(np.nan), pixels)


def matrix_of(info: SourceInfo) -> npt.NDArray[np.float64]:
    """The transform as 3 x 3: (column, row, 1) -> (x, y, 1).

    Raises:
        SourceError: if its pixels have no area.
    """
    assert info.georef is not None, f"{info.uri} has no georeference"
    matrix = np.array([*info.georef.transform, 0.0, 0.0, 1.0]).reshape(3, 3)
    if not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
        raise SourceError(f"{info.uri}: its transform {info.georef.transform} gives pixels without an area")
    return matrix


def check_same_crs(infos: Sequence[SourceInfo]) -> None:
    """Refuse parts whose places cannot be compared.

    Raises:
        SourceError: naming a part that has none, or two that lie in different ones.
    """
    first = infos[0]
    for info in infos:
        if info.georef is None or first.georef is None:
            bare = info if info.georef is None else first
            raise SourceError(
                f"{bare.uri}: it has no georeference, so that its place beside the other files is unknown"
            )
        ours, other = info.georef, first.georef
        same_code = ours.epsg is not None and ours.epsg == other.epsg
        if not same_code and ours.crs_wkt != other.crs_wkt:
            raise SourceError(
                f"{info.uri}: expected the CRS of {first.uri} ({_crs_name(other)}), got {_crs_name(ours)}; "
                "warp it to that CRS first (gdalwarp -t_srs)"
            )


def _crs_name(georef: Georef) -> str:
    return f"EPSG:{georef.epsg}" if georef.epsg else " ".join((georef.crs_wkt or "no CRS")[:80].split())


def combined_details(infos: Sequence[SourceInfo], kind: str) -> dict[str, object]:
    """What `inspect` shows of the whole: the number of parts; what channels mean, where parts tell."""
    told: dict[str, object] = {"kind": kind, "parts": len(infos)}
    for name, default in (("scales", 1.0), ("offsets", 0.0)):
        if any(name in info.details for info in infos):
            told[name] = [value for info in infos for value in info.details.get(name, [default] * len(info.channels))]
    is_class = ["palette" in info.details for info in infos for _ in info.channels]
    if any(is_class):
        told["classes"] = [i for i, found in enumerate(is_class) if found]
    return told


def versions(infos: Sequence[SourceInfo]) -> str:
    """The libraries that read the parts."""
    return "; ".join(sorted({info.reader_version for info in infos}))
