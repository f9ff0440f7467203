"""Naming: which class every feature is, from its properties and the class table; strict about what nobody named."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.classes import RGB, ClassInfo, default_color
from segcore.errors import SourceError
from segcore.targets.class_table import IGNORE_16, MAX_NAMED, MAX_UNNAMED_ID, ClassTable
from segcore.targets.shapes import Shapes, plain

BACKGROUND, FOREGROUND = "background", "foreground"
CLASS_PROPERTIES = ("class", "classification", "label", "name", "category", "type", "landuse")
"""Where the class is looked for, in this order, if nobody says where it stands."""
QUPATH_PROPERTY = "classification"
OWN_PROPERTY, OWN_COLOR = "class", "color"
"""Columns of what segcore exports for a GIS."""
MAX_CLASSES = 65_000
"""More do not fit into a target of uint16."""


@dataclass(frozen=True, eq=False)
class Naming:
    """What the features of one file are."""

    table: ClassTable
    ids: npt.NDArray[np.uint16]
    """Class id per feature, or `table.ignore`."""
    outside: int
    """The id of what no feature covers: the class named background, or `table.ignore` where there is none."""
    notes: tuple[str, ...]


def name_features(shapes: Shapes, table: ClassTable | None, class_property: str | None) -> Naming:
    """The class of every feature.

    Without a table the classes are background (0) and the names that occur, sorted, from 1 on. A name that ends in *
    (QuPath's for what is not to be classified) means ignore, and so does `ignore`, unless the table has it.

    Args:
        shapes: the file.
        table: its names are matched whatever their case; a whole number is matched as an id too.
        class_property: the property that names the class; found by itself where not given.

    Raises:
        SourceError: if a feature has no class while others do, or one that the table does not name, with the counts.
    """
    found, values, notes = _values(shapes, class_property)
    names = [FOREGROUND] * shapes.num_features if found is None else _checked(shapes, found, values)
    if table is None:
        if len(set(names)) > (MAX_UNNAMED_ID if class_property is None else MAX_CLASSES):
            raise SourceError(
                f"{shapes.uri}: the property '{found}' holds {len(set(names))} values, which hardly are classes; "
                "say which one names them (--class-property), or give a class table (--classes)"
            )
        table = table_of(names, _colors(shapes.properties))
    ids = _matched(shapes.uri, names, table, found)
    outside = next((info.id for info in table.classes if info.name.strip().lower() == BACKGROUND), table.ignore)
    num_ignored = int((ids == table.ignore).sum())
    if num_ignored:
        notes = (*notes, f"{num_ignored} features are to be ignored")
    if outside == table.ignore:
        notes = (*notes, "what no shape covers is ignored: the class table names no background")
    return Naming(table, ids, outside, notes)


def table_of(names: Iterable[str], colors: Mapping[str, RGB]) -> ClassTable:
    """The classes of shapes that come without a table: background, then the names in order."""
    kept = {name for name in names if name.lower() != BACKGROUND and not _means_ignore(name)}
    ordered = [BACKGROUND, *sorted(kept, key=_by_number_then_name)]
    shown = (colors.get(name, default_color(number, name)) for number, name in enumerate(ordered))
    classes = (
        ClassInfo(id=i, name=name, color=color) for i, (name, color) in enumerate(zip(ordered, shown, strict=True))
    )
    return ClassTable(classes=tuple(classes))


def agreed_table(found: Iterable[Sequence[ClassInfo]]) -> ClassTable:
    """The classes of several images of shapes together, each by its name; a colour of its own wins over a default."""
    known = [info for classes in found for info in classes]
    own = [info for info in reversed(known) if info.color != default_color(info.id, info.name)]
    return table_of({info.name for info in known}, {info.name: info.color for info in own})


def _by_number_then_name(name: str) -> tuple[bool, int, str]:
    is_number = name.isascii() and name.isdecimal()
    return not is_number, int(name) if is_number else 0, name


def _values(shapes: Shapes, class_property: str | None) -> tuple[str | None, list[Any], tuple[str, ...]]:
    """The property that names the classes, its value in every feature, and what was concluded."""
    rows = shapes.properties
    if class_property is not None:
        values = [_looked_up(row, class_property) for row in rows]
        if rows and all(_text(value) is None for value in values):
            known = ", ".join(sorted({key for row in rows for key in row})[:20]) or "none"
            raise SourceError(f"{shapes.uri}: no feature has the property '{class_property}'; they have {known}")
        return class_property, values, ()
    if shapes.format == "qupath":
        values = [row.get(QUPATH_PROPERTY) for row in rows]
        return (QUPATH_PROPERTY if any(_text(value) for value in values) else None), values, ()
    partly = ""
    for candidate in CLASS_PROPERTIES:
        values = [next((row[key] for key in row if key.lower() == candidate), None) for row in rows]
        num_named = sum(_text(value) is not None for value in values)
        if num_named and num_named == len(rows):
            return candidate, values, (f"classes are those of the property '{candidate}'",)
        if num_named and not partly:
            partly = f" ('{candidate}' stands in {num_named} of {len(rows)})"
    note = f"no property names the class of every feature{partly}: all are one class (--class-property names one)"
    return None, [], (note,) if rows else ()


def _looked_up(row: Mapping[str, Any], path: str) -> Any:
    """A property, or a dotted path into one."""
    if path in row:
        return row[path]
    key, dot, rest = path.partition(".")
    inner = row.get(key)
    return _looked_up(inner, rest) if dot and isinstance(inner, Mapping) else None


def _text(value: Any) -> str | None:
    """A class name: text, a number, or QuPath's classification; None for what is none."""
    if isinstance(value, Mapping):
        value = value.get("name") or value.get("names")
    if isinstance(value, list):
        value = ": ".join(map(str, value))  # as QuPath shows a class with sub-classes
    value = plain(value)
    if value is None or isinstance(value, Mapping):
        return None
    return " ".join(str(value).split()) or None


def _checked(shapes: Shapes, found: str, values: Sequence[Any]) -> list[str]:
    """The class name of every feature.

    Raises:
        SourceError: if some have none.
    """
    names = [_text(value) for value in values]
    if None in names:
        first = names.index(None) + 1
        raise SourceError(
            f"{shapes.uri}: {names.count(None)} of {len(names)} features have no class in '{found}', the first is "
            f"feature {first}; class them, or delete them"
        )
    return [name for name in names if name is not None]


def _matched(uri: str, names: Sequence[str], table: ClassTable, found: str | None) -> npt.NDArray[np.uint16]:
    """Class id per feature."""
    ids = {name: _id_of(name, table, is_told=found is not None) for name in set(names)}
    unknown = Counter(name for name in names if ids[name] is None)
    if unknown and found is None:
        known = ", ".join(info.name for info in table.classes)
        raise SourceError(
            f"{uri}: no property names the class of every feature, and the class table has several ({known}); say "
            "which property it is (--class-property)"
        )
    if unknown:
        said = ", ".join(f"{name}: {count}" for name, count in unknown.most_common(MAX_NAMED))
        more = f" and {len(unknown) - MAX_NAMED} more" if len(unknown) > MAX_NAMED else ""
        raise SourceError(
            f"{uri}: classes in '{found}' that the class table does not name: {said}{more}; add them, or rows with "
            "ignore = true"
        )
    return np.array([ids[name] for name in names], dtype=np.uint16)


def _id_of(name: str, table: ClassTable, *, is_told: bool) -> int | None:
    """The id that a name means; None if the table does not know it."""
    exact = [info.id for info in table.classes if info.name == name]
    alike = [info.id for info in table.classes if info.name.strip().lower() == name.lower()]
    if exact or len(alike) == 1:
        return (exact or alike)[0]
    if not is_told:
        rest = [info.id for info in table.classes if info.name.strip().lower() != BACKGROUND]
        return rest[0] if len(rest) == 1 else None
    if _means_ignore(name) or name.lower() in (ignored.lower() for ignored in table.ignored_names):
        return table.ignore
    number = int(name) if re.fullmatch(r"[0-9]{1,5}", name) else None
    if number is not None and number in table.id_by_value:
        return table.id_by_value[number]
    return table.ignore if number in (*table.ignored_values, table.ignore, IGNORE_16) else None


def _means_ignore(name: str) -> bool:
    """QuPath ends the names of what is not to be classified with a star."""
    return name.endswith("*") or name.lower() == "ignore"


def _colors(properties: Iterable[Mapping[str, Any]]) -> dict[str, RGB]:
    """The colours by class name, as QuPath writes them, or our own export for a GIS."""
    colors: dict[str, RGB] = {}
    for row in properties:
        given = row.get(QUPATH_PROPERTY)
        if not isinstance(given, Mapping):
            given = {"name": row.get(OWN_PROPERTY), "color": row.get(OWN_COLOR)}
        name = _text(given)
        if name is None or name in colors:
            continue
        color, packed = given.get("color"), given.get("colorRGB")
        if isinstance(color, str) and re.fullmatch("#[0-9a-f]{6}", color):
            color = list(bytes.fromhex(color[1:]))
        if isinstance(color, list) and len(color) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in color):
            colors[name] = (color[0], color[1], color[2])
        elif isinstance(packed, int):
            colors[name] = (packed >> 16 & 0xFF, packed >> 8 & 0xFF, packed & 0xFF)
    return colors
