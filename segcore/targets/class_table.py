"""Class tables: which pixel values and colours of a mask mean which class, from CSV, YAML or JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import combinations
from typing import Any

import fsspec
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from segcore.classes import IGNORE, RGB, ClassInfo, default_color
from segcore.errors import ConfigError

IGNORE_16 = 65535
"""IGNORE in masks of uint16."""

MAX_UNNAMED_ID = 63
"""Without a class table, higher values are ids only where they form regions, as organs do and grey levels don't."""
MAX_NAMED = 5
"""How many unknown values or colours an error names."""

MAX_BYTES = 2**22
SUFFIXES = ("csv", "yaml", "yml", "json")
NAME_KEYS = ("name", "title", "class", "label")
COLOR_KEYS = ("color", "colour", "rgb", "hex")
TRUE, FALSE = ("1", "true", "yes", "y", "x"), ("", "0", "false", "no", "n", "none")


class ClassTable(BaseModel):
    """What pixel values and colours mean."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    classes: tuple[ClassInfo, ...]
    """In the order of their ids."""
    colors: tuple[tuple[RGB, int], ...] = ()
    """Every colour of the table and the id it means; `ignore` for those that are to be ignored. Empty if the
    table has no colours of its own (the classes then have default ones)."""
    values: tuple[tuple[int, int], ...] = ()
    """Pixel values and the ids they mean, where files have other numbers than the classes; else empty."""
    ignored_values: tuple[int, ...] = ()
    """Pixel values that are to be ignored, besides `ignore` itself."""
    ignored_names: tuple[str, ...] = ()
    """Names of shapes that are to be ignored."""

    @property
    def ids(self) -> frozenset[int]:
        return frozenset(found.id for found in self.classes)

    @property
    def id_by_value(self) -> dict[int, int]:
        """The id of every pixel value that means a class."""
        return dict(self.values) or {number: number for number in self.ids}

    @property
    def dtype(self) -> str:
        """Type of an array of these ids: "uint8" if 255 stays free, else "uint16"."""
        return "uint8" if max(self.ids, default=0) < IGNORE else "uint16"

    @property
    def ignore(self) -> int:
        """The id that means ignore in an array of `dtype`."""
        return IGNORE if self.dtype == "uint8" else IGNORE_16

    def id_named(self, name: str) -> int | None:
        """The id of a class by its name, whatever its case; None if there is none."""
        wanted = name.strip().casefold()
        return next((found.id for found in self.classes if found.name.casefold() == wanted), None)

    @property
    def is_grey_coded(self) -> bool:
        """True if all its colours are greys: then grey values in a mask are colours, not ids."""
        return len(self.colors) > 1 and all(r == g == b for (r, g, b), _ in self.colors)


def built_in_tables() -> tuple[str, ...]:
    """Names of the tables that come with segcore: those of well-known datasets."""
    folder = resources.files("segcore.targets").joinpath("tables")
    return tuple(sorted(found.name.removesuffix(".csv") for found in folder.iterdir() if found.name.endswith(".csv")))


def load_classes(path: str, tolerance: int = 0) -> ClassTable:
    """Read a class table.

    One row per class: `name`, and optionally `id` (without any, rows are numbered from 0 in order), `value` (pixel
    value, where that is not the id), `color` (#RRGGBB, "r, g, b", or columns r, g, b) and `ignore` (true = such pixels
    count as nothing; so do rows of id 255 or 65535). Several rows of the same id and name give one class several values
    or colours. JSON and YAML hold a list of such rows, alone or under the key `classes`.

    Args:
        path: a .csv, .yaml, .yml or .json file, a local path or a URL; or the name of a built-in table.
        tolerance: how far a colour in a mask may be from the table's, per channel.

    Raises:
        ConfigError: one line with the file and the row; or if the colours of two classes are too near each other for
            the tolerance.
    """
    rows = _rows(path)
    if not rows:
        raise ConfigError(f"{path}: the class table has no rows; expected at least one with a name")
    for key in ("id", "value"):
        has = [_text(row, key) != "" for row in rows]
        if any(has) and not all(has):
            raise ConfigError(f"{path}, row {has.index(False) + 1}: no {key}; give every row one, or none")
    builder = _Builder(path)
    for number, row in enumerate(rows, 1):
        builder.add(row, f"{path}, row {number}")
    table = builder.table()
    _check_tolerance(path, table, tolerance)
    return table


def _check_tolerance(path: str, table: ClassTable, tolerance: int) -> None:
    """Refuse a tolerance by which a colour could belong to two classes."""
    for (color, meaning), (other, another) in combinations(table.colors, 2):
        apart = max(abs(a - b) for a, b in zip(color, other, strict=True))
        if meaning != another and apart <= 2 * tolerance:
            raise ConfigError(
                f"{path}: the colours {hex_of(color)} and {hex_of(other)} differ by {apart}, too little for "
                f"--tolerance {tolerance}; give at most {(apart - 1) // 2}"
            )


class _Builder:
    """Rows on their way into a table."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.classes: dict[int, ClassInfo] = {}
        self.colors: list[tuple[RGB, int | None]] = []
        self.values: dict[int, int] = {}
        self.ignored_values: set[int] = set()
        self.ignored_names: set[str] = set()

    def add(self, row: Mapping[str, Any], where: str) -> None:
        """Take one row; None among `colors` stands for ignore until the type is known."""
        color = _color(row, where)
        given, value = _number(row, "id", where), _number(row, "value", where)
        name = next((text for key in NAME_KEYS if (text := _text(row, key))), "")
        if _flag(row, where) or given in (IGNORE, IGNORE_16):
            ignored = given if value is None else value
            if ignored is not None:
                self.ignored_values.add(ignored)
            if color is not None:
                self.colors.append((color, None))
            if name:
                self.ignored_names.add(name)
            return
        if not name:
            raise ConfigError(f"{where}: no name; expected a column or key '{NAME_KEYS[0]}'")
        number = self._number_of(name) if given is None else given
        known = self.classes.get(number)
        if known is not None and known.name != name:
            raise ConfigError(f"{where}: id {number} is '{known.name}' already, got '{name}'; ids must differ")
        if known is None:
            shown = color or default_color(number, name)
            try:
                self.classes[number] = ClassInfo(id=number, name=name, color=shown)
            except ValidationError as error:
                raise ConfigError(f"{where}: {error.errors()[0]['msg']}") from error
        if color is not None:
            self.colors.append((color, number))
        if value is not None and self.values.setdefault(value, number) != number:
            raise ConfigError(f"{where}: the value {value} stands for two classes; each needs its own")

    def _number_of(self, name: str) -> int:
        """Where rows have no ids: that of the class of this name, or the next one."""
        return next((info.id for info in self.classes.values() if info.name == name), len(self.classes))

    def table(self) -> ClassTable:
        """The finished table.

        Raises:
            ConfigError: if a colour or value means two things, a class lacks one that others have, or all are ignored.
        """
        if not self.classes:
            raise ConfigError(f"{self.path}: every row is ignored; expected at least one class")
        classes = tuple(self.classes[number] for number in sorted(self.classes))
        plain = ClassTable(classes=classes)
        meanings: dict[RGB, int] = {}
        for color, number in self.colors:
            meaning = plain.ignore if number is None else number
            if meanings.setdefault(color, meaning) != meaning:
                raise ConfigError(f"{self.path}: the colour {hex_of(color)} stands for two classes; each needs its own")
        bare = [found.name for found in classes if found.id not in meanings.values()]
        if meanings and bare:
            raise ConfigError(f"{self.path}: class '{bare[0]}' has no color, but others do; give all of them one")
        if both := self.ignored_values & self.values.keys():
            raise ConfigError(f"{self.path}: the value {min(both)} is ignored in one row and a class in another")
        return ClassTable(
            classes=classes,
            colors=tuple(meanings.items()),
            values=tuple(sorted(self.values.items())),
            ignored_values=tuple(sorted(self.ignored_values - set(self.values or plain.ids))),
            ignored_names=tuple(sorted(self.ignored_names)),
        )


def hex_of(color: Sequence[int]) -> str:
    """A colour for a person: #RRGGBB."""
    return "#" + "".join(f"{value:02X}" for value in color)


def _rows(path: str) -> list[Mapping[str, Any]]:
    """The rows as mappings with lower-case keys."""
    suffix = "csv" if path in built_in_tables() else path.lower().rsplit(".", 1)[-1]
    if suffix not in SUFFIXES:
        known = ", ".join(built_in_tables())
        raise ConfigError(f"{path}: expected a class table named .csv, .yaml, .yml or .json, or one of {known}")
    text = _read(path)
    try:
        if suffix == "json":
            found = json.loads(text)
        elif suffix in ("yaml", "yml"):
            found = yaml.safe_load(text)
        else:
            found = list(csv.DictReader(io.StringIO(text, newline="")))
    except (ValueError, yaml.YAMLError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as {suffix.upper()} ({' '.join(str(error).split())})") from error
    if isinstance(found, Mapping):
        found = found.get("classes")
    if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
        raise ConfigError(f"{path}: expected a list of classes, alone or under the key 'classes'")
    return [{str(key).strip().lower(): value for key, value in row.items() if key is not None} for row in found]


def _read(path: str) -> str:
    """The file's text, or that of a built-in table."""
    if path in built_in_tables():
        text = resources.files("segcore.targets").joinpath("tables", f"{path}.csv").read_text(encoding="utf-8")
        return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("# "))
    try:
        with fsspec.open(path, "rb") as opened:
            data: bytes = opened.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{path}: over {MAX_BYTES} bytes; this is no class table")
        return data.decode("utf-8-sig")
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{path}: the class table cannot be opened ({' '.join(str(error).split())})") from error


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if value is None else str(value).strip()


def _number(row: Mapping[str, Any], key: str, where: str) -> int | None:
    text = _text(row, key)
    if not text:
        return None
    if not text.isdecimal() or int(text) > IGNORE_16:
        raise ConfigError(f"{where}: {key} must be a whole number from 0 to {IGNORE_16}, got '{text}'")
    return int(text)


def _flag(row: Mapping[str, Any], where: str) -> bool:
    text = _text(row, "ignore").lower()
    if text not in TRUE + FALSE:
        raise ConfigError(f"{where}: ignore must be true or false, got '{text}'")
    return text in TRUE


def _color(row: Mapping[str, Any], where: str) -> RGB | None:
    """The colour of a row, however it is written; None if it has none."""
    if all(_text(row, key) for key in "rgb"):
        given: Any = [_text(row, key) for key in "rgb"]
    else:
        given = next((row[key] for key in COLOR_KEYS if row.get(key) not in (None, "")), None)
    if given is None:
        return None
    parts = given if isinstance(given, list | tuple) else str(given).strip("()[] ").replace(",", " ").split()
    if len(parts) == 3 and all(str(part).strip().isdecimal() and int(part) <= 255 for part in parts):
        return int(parts[0]), int(parts[1]), int(parts[2])
    digits = str(given).strip().removeprefix("#")
    try:
        value = bytes.fromhex(digits)
    except ValueError:
        value = b""
    if len(value) != 3 or len(digits) != 6:
        raise ConfigError(f"{where}: color must be #RRGGBB or three numbers from 0 to 255, got '{given}'")
    return value[0], value[1], value[2]
