"""Meaning: from the pixel values or colours of a mask to class ids; strict about what nobody named."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from segcore.classes import IGNORE, ClassInfo, default_classes
from segcore.errors import SourceError
from segcore.sources.base import Pixels
from segcore.targets.class_table import IGNORE_16, ClassTable, hex_of

NUM_VALUES = 65536
MAX_UNNAMED_ID = 63
"""Without a class table, a mask with higher values is taken for a picture, not for class ids."""

MAX_NAMED = 5
"""How many unknown values or colours an error names."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Meaning:
    """How pixels become class ids: by a table over values, or over colours."""

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

    def ids(self, pixels: Pixels) -> Pixels:
        """Class ids (Y, X) of mask pixels (C, Y, X)."""
        if self.by_value is not None:
            return np.asarray(self.by_value[whole_numbers(self.uri, pixels[0], self.nodata)])
        assert self.codes is not None
        assert self.by_code is not None
        found = packed(self.uri, pixels)
        at = np.minimum(np.searchsorted(self.codes, found), len(self.codes) - 1)
        if not np.array_equal(self.codes[at], found):
            raise SourceError(f"{self.uri}: the mask changed while it was read; try again when it is at rest")
        return np.asarray(self.by_code[at])


def whole_numbers(uri: str, values: Pixels, nodata: float | None) -> npt.NDArray[np.uint16]:
    """Mask values as uint16; nodata that does not fit becomes 65535, which always means ignore.

    Raises:
        SourceError: if a value is negative, over 65535 or not whole.
    """
    if values.dtype == np.uint8 or values.dtype == np.uint16:
        return values.astype(np.uint16, copy=False)
    usable = np.ones(values.shape, dtype=np.bool_)
    if nodata is not None and not 0 <= nodata <= IGNORE_16:
        usable = ~np.isnan(values) if np.isnan(nodata) else values != nodata
    kept = values[usable]
    wrong = kept[~((kept >= 0) & (kept <= IGNORE_16) & (kept == np.floor(kept)))]
    if wrong.size:
        raise SourceError(f"{uri}: class ids are whole numbers from 0 to {IGNORE_16}, the mask holds {wrong[0]}")
    numbers = np.full(values.shape, IGNORE_16, dtype=np.uint16)
    numbers[usable] = kept.astype(np.uint16)
    return numbers


def packed(uri: str, pixels: Pixels) -> npt.NDArray[np.uint32]:
    """Colours (3, Y, X) as 0xRRGGBB (Y, X)."""
    if pixels.dtype != np.uint8:
        raise SourceError(f"{uri}: a colour-coded mask has 8 bits per channel, this one {pixels.dtype}")
    red, green, blue = pixels.astype(np.uint32)
    return np.asarray(red << 16 | green << 8 | blue)


def count_runs(values: Pixels) -> dict[int, int]:
    """How often each value occurs; quick where equal pixels follow each other, as in masks they do."""
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    lengths = np.diff(starts, append=flat.size)
    found, place = np.unique(flat[starts], return_inverse=True)
    counts = np.bincount(place.ravel(), weights=lengths)
    return {int(value): int(count) for value, count in zip(found, counts, strict=True)}


def by_colors(uri: str, counts: dict[int, int], table: ClassTable | None) -> Meaning:
    """The meaning of a mask of three channels.

    Args:
        uri: what errors name.
        counts: pixels per colour 0xRRGGBB, over the whole mask.
        table: class table.

    Raises:
        SourceError: if a colour is in no row of the table, with the colours and their counts.
    """
    known = {_code(color): number for color, number in table.colors} if table is not None else {}
    if table is not None and known and set(counts) <= set(known):
        codes = np.array(sorted(known), dtype=np.uint32)
        ids = np.array([known[code] for code in codes.tolist()], dtype=table.dtype)
        return Meaning(uri, "rgb", table.classes, table.ignore, table.dtype, None, codes=codes, by_code=ids)
    is_grey = all(code % 0x10101 == 0 for code in counts)
    is_black_white = table is not None and table.ids == {0, 1} and set(counts) <= {0, 0xFFFFFF} - set(known)
    if is_grey and (not known or is_black_white):
        values = np.zeros(NUM_VALUES, dtype=np.int64)
        for code, count in counts.items():
            values[code & 0xFF] = count
        return by_values(uri, values, table, None, None)
    if not known:
        raise SourceError(
            f"{uri}: the mask is coded by {len(counts)} colours; give a class table with a color per class (--classes)"
        )
    raise _unknown_colors(uri, {code: n for code, n in counts.items() if code not in known})


def by_values(
    uri: str, counts: Counts, table: ClassTable | None, palette: Sequence[Sequence[int]] | None, nodata: float | None
) -> Meaning:
    """The meaning of a mask of one channel.

    Args:
        uri: what errors name.
        counts: pixels per value, over the whole mask.
        table: class table.
        palette: RGB per value, where the file is a palette picture.
        nodata: the file's own fill value.

    Raises:
        SourceError: if a value is in no row of the table, or, without a table, does not look like a class id.
    """
    present = {int(value) for value in np.flatnonzero(counts)}
    if table is None:
        return _unnamed(uri, counts, present, palette, nodata)
    colored = _by_table_colors(uri, counts, present, table, palette)
    if colored is not None:
        return _of_table(uri, "rgb", table, colored, nodata)
    white = _white(present, nodata)
    if white is not None and table.ids == {0, 1} and white not in table.ignored_ids:
        return _of_table(uri, "binary", table, {0: 0, white: 1}, nodata)
    ignored = {*table.ignored_ids, table.ignore, IGNORE_16} | _ignored_nodata(nodata, table.ids)
    unknown = present - table.ids - ignored
    if unknown:
        shown = [(f"{v} ({hex_of(palette[v])})" if palette and v < len(palette) else str(v)) for v in sorted(unknown)]
        raise SourceError(
            f"{uri}: values that the class table does not name: "
            f"{_listed(zip(shown, (int(counts[v]) for v in sorted(unknown)), strict=True))}; "
            f"its ids are {', '.join(map(str, sorted(table.ids)))}"
        )
    return _of_table(uri, "index", table, {number: number for number in table.ids}, nodata)


def _unnamed(
    uri: str, counts: Counts, present: set[int], palette: Sequence[Sequence[int]] | None, nodata: float | None
) -> Meaning:
    """Without a class table: 0/1, 0/255, or few small ids."""
    white = _white(present, nodata)
    ignored = {IGNORE, IGNORE_16} | (_ignored_nodata(nodata, frozenset()) - {0})
    ids = {0, 1} if white is not None else present - ignored
    highest = max(ids, default=0)
    if highest > MAX_UNNAMED_ID:
        raise SourceError(
            f"{uri}: the mask holds {len(present)} values up to {max(present)}, which do not look like class ids; "
            "threshold it to 0 and 255, or give a class table (--classes)"
        )
    classes = default_classes(max(2, highest + 1))
    if palette is not None and white is None and highest < len(palette):
        classes = tuple(_colored(found, palette) for found in classes)
    table = ClassTable(classes=classes)
    pairs = {0: 0, white: 1} if white is not None else {number: number for number in table.ids}
    kind: Literal["index", "binary"] = "binary" if white is not None or present <= {0, 1} else "index"
    return _of_table(uri, kind, table, pairs, nodata)


def _colored(found: ClassInfo, palette: Sequence[Sequence[int]]) -> ClassInfo:
    if found.id >= len(palette):
        return found
    red, green, blue = palette[found.id]
    return found.model_copy(update={"color": (red, green, blue)})


def _white(present: set[int], nodata: float | None) -> int | None:
    """255 (or 65535) if a mask holds nothing but 0 and that, so that it means foreground."""
    return next((white for white in (IGNORE, IGNORE_16) if white in present <= {0, white} and white != nodata), None)


def _ignored_nodata(nodata: float | None, ids: frozenset[int]) -> set[int]:
    """The file's nodata value, unless it is a class id: a table knows better than a file's header."""
    if nodata is None or not 0 <= nodata <= IGNORE_16 or nodata != int(nodata) or int(nodata) in ids:
        return set()
    return {int(nodata)}


def _by_table_colors(
    uri: str, counts: Counts, present: set[int], table: ClassTable, palette: Sequence[Sequence[int]] | None
) -> dict[int, int] | None:
    """Ids by value, if every value that occurs has a colour of the table: its palette's, or as a grey.

    Raises:
        SourceError: if a palette has colours of the table where they mean other ids than their place, and others
            besides: read as plain ids, such a mask would be silently wrong.
    """
    meanings = dict(table.colors)
    if palette is not None:
        used = {value: palette[value] for value in present if value < len(palette)}
        colors = {value: (red, green, blue) for value, (red, green, blue) in used.items()}
    elif table.is_grey_coded and max(present, default=0) <= 255:
        colors = {value: (value, value, value) for value in present}
    else:
        return None
    known = {value: meanings[color] for value, color in colors.items() if color in meanings}
    if meanings and set(known) == present:
        return known
    if palette is not None and any(number != value for value, number in known.items()):
        raise _unknown_colors(uri, {_code(colors[v]): int(counts[v]) for v in sorted(set(colors) - set(known))})
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
        raise SourceError(f"{uri}: one file per object gives the classes 0 and 1, the class table has {ids}")
    return table


def _listed(found: Iterable[tuple[str, int]]) -> str:
    """The most frequent of what is unknown, with counts."""
    ordered = sorted(found, key=lambda pair: -pair[1])
    said = ", ".join(f"{name}: {count} px" for name, count in ordered[:MAX_NAMED])
    return said + (f" and {len(ordered) - MAX_NAMED} more" if len(ordered) > MAX_NAMED else "")


def _code(color: Sequence[int]) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def rgb_of(code: int) -> tuple[int, int, int]:
    """0xRRGGBB as red, green, blue."""
    return code >> 16, code >> 8 & 0xFF, code & 0xFF
