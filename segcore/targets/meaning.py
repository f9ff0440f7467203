"""Meaning: from the pixel values or colours of a mask to class ids; strict about what nobody named."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segcore.classes import IGNORE, ClassInfo, default_classes
from segcore.errors import SourceError
from segcore.sources.base import Pixels
from segcore.targets.class_table import IGNORE_16, MAX_NAMED, MAX_UNNAMED_ID, ClassTable, hex_of
from segcore.targets.colors import UNKNOWN, code_of, ids_of_colors, packed, rgb_of
from segcore.targets.scan import NUM_VALUES, Counts, Values, whole_numbers

MIN_RUN_PX = 2.0
"""Of the values of a mask with ids over MAX_UNNAMED_ID, half or more form runs along x at least so long on average."""
MAX_UNNAMED_WIDE = 20
"""More values in a picture of more than 8 bits are rather objects, one by one, than so many classes."""
OBJECTS_HINT = "if they are object numbers, say so (--target-values objects)"


@dataclass(frozen=True, eq=False)
class Meaning:
    """How pixels become class ids: by a table over values, or over colours; or by a threshold."""

    uri: str
    kind: Literal["index", "rgb", "binary"]
    classes: tuple[ClassInfo, ...]
    ignore: int
    dtype: str
    nodata: float | None
    by_value: Pixels | None = None
    """Class id of every value 0..65535, for masks of one channel, or grey ones of three."""
    codes: Pixels | None = None
    """Colours 0xRRGGBB in rising order; the ids they mean are in `by_code`."""
    by_code: Pixels | None = None
    threshold: float | None = None
    """Above it is class 1, for grey values."""

    def ids(self, pixels: Pixels) -> Pixels:
        """Class ids (...) of mask pixels (C, ...).

        Raises:
            SourceError: if they cannot be ids, are of no grey, or not what the scan found.
        """
        if self.threshold is not None:
            return self._above(self.threshold, pixels)
        if self.by_value is not None:
            return np.asarray(self.by_value[whole_numbers(self.uri, pixels[0], self.nodata)])
        assert self.codes is not None
        assert self.by_code is not None
        found = packed(self.uri, pixels)
        at = np.minimum(np.searchsorted(self.codes, found), len(self.codes) - 1)
        if not np.array_equal(self.codes[at], found):
            raise SourceError(f"{self.uri}: the mask changed while it was read; try again when it is at rest")
        return np.asarray(self.by_code[at])

    def id_of(self, code: int) -> int:
        """What one value, or colour 0xRRGGBB, of the scan means."""
        if self.by_value is not None:
            return int(self.by_value[code & 0xFF if code > IGNORE_16 else code])
        assert self.codes is not None
        assert self.by_code is not None
        return int(self.by_code[np.searchsorted(self.codes, code)])

    def _above(self, threshold: float, pixels: Pixels) -> Pixels:
        grey = pixels[0]
        if (pixels[1:] != grey).any():
            raise SourceError(f"{self.uri}: a threshold is for grey values, this mask has colours; give a class table")
        ids = (grey > threshold).astype(self.dtype)
        missing = np.isnan(grey) if np.issubdtype(grey.dtype, np.floating) else np.zeros(grey.shape, dtype=np.bool_)
        if self.nodata:  # 0 is below most thresholds, and means so
            missing |= grey == self.nodata
        return np.asarray(np.where(missing, ids.dtype.type(self.ignore), ids))


def by_threshold(uri: str, threshold: float, table: ClassTable | None, nodata: float | None) -> Meaning:
    """The meaning of a mask of greys: above the threshold is class 1."""
    known = two_classes(uri, table)
    return Meaning(uri, "binary", known.classes, known.ignore, known.dtype, nodata, threshold=threshold)


def by_colors(uri: str, counts: dict[int, int], table: ClassTable | None, tolerance: int = 0) -> Meaning:
    """The meaning of a mask of three channels.

    Args:
        uri: what errors name.
        counts: pixels per colour 0xRRGGBB, over the whole mask.
        table: class table.
        tolerance: how far a colour may be from the table's, per channel.

    Raises:
        SourceError: if a colour is in no row of the table, with the colours and their counts.
    """
    codes = np.array(sorted(counts), dtype=np.uint32)
    ids = np.full(len(codes), UNKNOWN) if table is None else ids_of_colors(codes, table, tolerance)
    if table is not None and (ids != UNKNOWN).all():
        by_code = ids.astype(table.dtype)
        return Meaning(uri, "rgb", table.classes, table.ignore, table.dtype, None, codes=codes, by_code=by_code)
    named = {code_of(color) for color, _ in table.colors} if table is not None else set()
    is_grey = all(code % 0x10101 == 0 for code in counts)
    is_black_white = table is not None and table.ids == {0, 1} and set(counts) <= {0, 0xFFFFFF} - named
    if is_grey and (not named or is_black_white):
        values = Values()
        for code, count in counts.items():
            values.counts[code & 0xFF] = values.runs[code & 0xFF] = count
        return by_values(uri, values, table, None, None)
    if not named:
        raise SourceError(
            f"{uri}: the mask is coded by {len(counts)} colours; give a class table with a color per class (--classes)"
        )
    raise _unknown_colors(uri, {code: counts[code] for code in codes[ids == UNKNOWN].tolist()})


def by_values(
    uri: str,
    values: Values,
    table: ClassTable | None,
    palette: Sequence[Sequence[int]] | None,
    nodata: float | None,
    tolerance: int = 0,
) -> Meaning:
    """The meaning of a mask of one channel.

    Args:
        uri: what errors name.
        values: of the whole mask.
        table: class table.
        palette: RGB per value, where the file is a palette picture.
        nodata: the file's own fill value.
        tolerance: how far a colour or grey may be from the table's, per channel.

    Raises:
        SourceError: if a value is in no row of the table, or, without a table, does not look like a class id.
    """
    counts, present = values.counts, values.present
    if table is None:
        return _unnamed(uri, values, palette, nodata)
    colored = _by_table_colors(uri, counts, present, table, palette, tolerance)
    if colored is not None:
        return _of_table(uri, "rgb", table, colored, nodata)
    white = _white(present, nodata)
    if white is not None and not table.values and table.ids == {0, 1} and white not in table.ignored_values:
        return _of_table(uri, "binary", table, {0: 0, white: 1}, nodata)
    by_value = table.id_by_value
    ignored = {*table.ignored_values, table.ignore, IGNORE_16} | _ignored_nodata(nodata, by_value)
    unknown = present - set(by_value) - ignored
    if unknown:
        shown = [(f"{v} ({hex_of(palette[v])})" if palette and v < len(palette) else str(v)) for v in sorted(unknown)]
        raise SourceError(
            f"{uri}: values that the class table does not name: "
            f"{_listed(zip(shown, (int(counts[v]) for v in sorted(unknown)), strict=True))}; "
            f"its {'values' if table.values else 'ids'} are {', '.join(map(str, sorted(by_value)))}"
            + (f"; {OBJECTS_HINT}" if len(unknown) > MAX_UNNAMED_WIDE else "")
        )
    return _of_table(uri, "index", table, by_value, nodata)


def _unnamed(uri: str, values: Values, palette: Sequence[Sequence[int]] | None, nodata: float | None) -> Meaning:
    """Without a class table: 0/1, 0/255, small ids, or larger ones that form regions."""
    present = values.present
    white = _white(present, nodata)
    ignored = {IGNORE, IGNORE_16} | (_ignored_nodata(nodata, ()) - {0})
    ids = {0, 1} if white is not None else present - ignored
    highest = max(ids, default=0)
    if highest > MAX_UNNAMED_ID and not _form_regions(values, ids):
        raise SourceError(
            f"{uri}: the mask holds {len(present)} values up to {max(present)}, which do not look like class ids; "
            "say from where on they are foreground (--threshold 127), or give a class table (--classes); "
            f"{OBJECTS_HINT}"
        )
    classes = default_classes(max(2, highest + 1))
    if palette is not None and white is None and highest < len(palette):
        classes = tuple(_colored(found, palette) for found in classes)
    table = ClassTable(classes=classes)
    pairs = {0: 0, white: 1} if white is not None else table.id_by_value
    kind: Literal["index", "binary"] = "binary" if white is not None else "index"
    return _of_table(uri, kind, table, pairs, nodata)


def refuse_object_numbers(uri: str, values: Values, dtype: str) -> None:
    """Refuse a picture without a class table that holds more values than pictures have classes, each in regions.

    Raises:
        SourceError: with how to say which of the two they are.
    """
    ids = values.present - {0}
    is_many = len(ids) > (MAX_UNNAMED_ID if dtype == "uint8" else MAX_UNNAMED_WIDE)
    if is_many and _run_px(values, ids) >= MIN_RUN_PX:
        raise SourceError(
            f"{uri}: the mask holds {len(ids)} values up to {max(ids)} in {dtype}, which look like object numbers; say "
            "what they are (--target-values objects, or classes), or give a class table (--classes)"
        )


def _form_regions(values: Values, ids: set[int]) -> bool:
    """True for regions of ids, False for grey levels and for noise at the edges of a mask."""
    return max(ids) < IGNORE and _run_px(values, ids) >= MIN_RUN_PX


def _run_px(values: Values, ids: set[int]) -> float:
    """How long the runs of the middle one of some values are on average."""
    some = sorted(ids)
    return float(np.median(values.counts[some] / values.runs[some]))


def _colored(found: ClassInfo, palette: Sequence[Sequence[int]]) -> ClassInfo:
    if found.id >= len(palette):
        return found
    red, green, blue = palette[found.id]
    return found.model_copy(update={"color": (red, green, blue)})


def _white(present: set[int], nodata: float | None) -> int | None:
    """255 (or 65535) if a mask holds nothing but 0 and that, so that it means foreground."""
    return next((white for white in (IGNORE, IGNORE_16) if white in present <= {0, white} and white != nodata), None)


def _ignored_nodata(nodata: float | None, ids: Container[int]) -> set[int]:
    """The file's nodata value, unless it is a class id: a table knows better than a file's header."""
    if nodata is None or not 0 <= nodata <= IGNORE_16 or nodata != int(nodata) or int(nodata) in ids:
        return set()
    return {int(nodata)}


def _by_table_colors(
    uri: str,
    counts: Counts,
    present: set[int],
    table: ClassTable,
    palette: Sequence[Sequence[int]] | None,
    tolerance: int,
) -> dict[int, int] | None:
    """Ids by value, if every value that occurs has a colour of the table: its palette's, or as a grey.

    Raises:
        SourceError: if a palette has colours of the table where they mean other ids than their place, and others
            besides: read as plain ids, such a mask would be silently wrong.
    """
    if not table.colors:
        return None
    if palette is not None:
        colors = {value: code_of(palette[value]) for value in sorted(present) if value < len(palette)}
    elif not table.values and table.is_grey_coded and max(present, default=0) <= 255:
        colors = {value: value * 0x10101 for value in sorted(present)}
    else:
        return None
    ids = ids_of_colors(np.array(list(colors.values()), dtype=np.uint32), table, tolerance)
    known = {value: number for value, number in zip(colors, ids.tolist(), strict=True) if number != UNKNOWN}
    if set(known) == present:
        return known
    by_value = table.id_by_value
    if palette is not None and any(number != by_value.get(value, table.ignore) for value, number in known.items()):
        raise _unknown_colors(uri, {colors[v]: int(counts[v]) for v in sorted(set(colors) - set(known))})
    return None


def _unknown_colors(uri: str, counts: dict[int, int]) -> SourceError:
    """The error for colours 0xRRGGBB that no row of the table has."""
    named = _listed((hex_of(rgb_of(code)), count) for code, count in counts.items())
    return SourceError(
        f"{uri}: colours that the class table does not name: {named}; add them, or rows with ignore = true"
    )


def _of_table(
    uri: str, kind: Literal["index", "rgb", "binary"], table: ClassTable, pairs: dict[int, int], nodata: float | None
) -> Meaning:
    """A meaning by value: `pairs` as given, all else ignored."""
    by_value = np.full(NUM_VALUES, table.ignore, dtype=table.dtype)
    for value, number in pairs.items():
        by_value[value] = number
    return Meaning(uri, kind, table.classes, table.ignore, table.dtype, nodata, by_value=by_value)


def two_classes(uri: str, table: ClassTable | None) -> ClassTable:
    """The classes of a mask of objects: 0 and 1, by the table's names where there is one.

    Raises:
        SourceError: if the table lacks one of them.
    """
    if table is None:
        return ClassTable(classes=default_classes(2))
    if not {0, 1} <= table.ids:
        ids = ", ".join(map(str, sorted(table.ids)))
        raise SourceError(
            f"{uri}: a mask of objects, or above a threshold, gives the classes 0 and 1, the class table has {ids}"
        )
    return table


def _listed(found: Iterable[tuple[str, int]]) -> str:
    """The most frequent of what is unknown, with counts."""
    ordered = sorted(found, key=lambda pair: -pair[1])
    said = ", ".join(f"{name}: {count} px" for name, count in ordered[:MAX_NAMED])
    return said + (f" and {len(ordered) - MAX_NAMED} more" if len(ordered) > MAX_NAMED else "")
