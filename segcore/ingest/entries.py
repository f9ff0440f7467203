"""Entries: what the user asked to ingest, one line each: from sources and a pattern, or from a manifest."""

import csv
import glob
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import fsspec
from pydantic import BaseModel, ConfigDict

from segcore.config import IngestConfig, escaped, unknown_key
from segcore.errors import ConfigError, SourceError
from segcore.ingest.listing import ZARR_MARKS, images_below, is_prefix, items_of, may_be_catalogue
from segcore.ingest.pairing import not_found
from segcore.roots import check_source, limited, may_read
from segcore.sources import Joined, companions, suffixes
from segcore.sources.files import MEMBER, is_known_scheme, is_remote, split_member
from segcore.sources.joined import How
from segcore.sources.stamps import canonical_uri, is_local_folder, local_path

_COLUMNS = ("source", "target", "target_values", "aoi", "valid", "split", "group")
_SPLITS = ("", "train", "val", "test")
_TARGET_VALUES = ("", "classes", "objects")
_NAMED = re.compile(r"([^/\\=;{}*?\[\]]*[^/\\=;{}*?\[\]\s])\s*=(.+)")
"""A class and its mask file; a name with a slash is a path."""


class Entry(BaseModel):
    """One source with all that belongs to it; it travels to the child processes."""

    model_config = ConfigDict(frozen=True)

    source: str
    image_id: str
    joined: Joined | None = None
    """The files that are this source together, where it is not one."""
    targets: tuple[str, ...] = ()
    """Mask files; several = one per instance, or per class."""
    class_names: tuple[str, ...] = ()
    """The class of each of the targets, where every file is one class."""
    one_per_instance: bool = False
    """The targets came from a pattern, so that even a single file is one object."""
    target_values: Literal["classes", "objects"] | None = None
    """What the pixel values of the targets are; None = class ids, where they look like them."""
    aoi: str | None = None
    """A file of polygons, or a mask file, non-zero = inside; outside it the target is ignore."""
    valid: str | None = None
    """A mask file, non-zero = usable."""
    split: str | None = None
    group: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    """Further columns of the manifest."""

    @property
    def opened_by(self) -> str | Joined:
        """What `open_source` takes."""
        return self.joined or self.source


def list_entries(config: IngestConfig) -> list[Entry]:
    """Everything to ingest, each source once, in the order given; a name that is not UTF-8 stands escaped.

    Two sources may have one image id: 8 hex digits tell many files of one name apart, but not all there can be.

    Raises:
        ConfigError: if the manifest or the pattern of the targets is wrong.
    """
    rows = _manifest_rows(config.manifest) if config.manifest else _source_rows(config)
    entries: dict[str, Entry] = {}
    how = _how(config)
    for row in rows:
        if config.manifest and how is not None:
            parts = tuple(escaped(part) for part in sorted(_expand(row["source"])))
            row["joined"] = Joined(uri=escaped(row["source"]), how=how, parts=parts)
        row["source"] = escaped(row["source"])
        row["targets"] = tuple(escaped(target) for target in row.get("targets", ()))
        row["aoi"] = escaped(row.get("aoi"))
        row["target_values"] = row.get("target_values") or config.target_values
        if config.group is not None and not row.get("group"):
            row["group"] = _group_of(row["source"], config.group)
        image_id = image_id_of(row["source"], config.ids)
        entries.setdefault(canonical_uri(row["source"]), Entry.model_validate({**row, "image_id": image_id}))
    _check_shared_targets(config, list(entries.values()))
    return list(entries.values())


def _check_shared_targets(config: IngestConfig, entries: list[Entry]) -> None:
    """Refuse a pattern that gives all sources the same files, as if each were one object of every image."""
    pattern = config.targets or ""
    if len(entries) < 2 or "{" in pattern or not _is_per_object(pattern) or len(entries[0].targets) < 2:
        return
    raise ConfigError(
        f"--targets {pattern}: gives all {len(entries)} sources the same {len(entries[0].targets)} files; put {{stem}} "
        "or {parent} into it, or name each source's target in a manifest"
    )


def _group_of(uri: str, pattern: str) -> str | None:
    found = re.search(pattern, canonical_uri(uri))
    return found[1] if found else None


def image_id_of(uri: str, ids: str = "name") -> str:
    """Slug of the name and 8 hex digits of the canonical URI; with `ids` "hash", 16 digits and no name."""
    digest = hashlib.sha256(canonical_uri(uri).encode()).hexdigest()
    if ids == "hash":
        return digest[:16]
    return f"{_slug(uri)}-{digest[:8]}"


def shown_name(image_id: str, uri: str) -> str:
    """The last part of a source's name, where the image's id tells the name too; empty where it hides it (`ids` "hash",
    or an id that somebody gave), or is the very name.
    """
    place = urlsplit(uri).path if "://" in uri else uri  # what follows may be a signature
    name = place.rstrip("/").rpartition("/")[2]
    return name if image_id.startswith(f"{_slug(uri)}-") and name != image_id else ""


def _slug(uri: str) -> str:
    place, member = split_member(uri.rstrip("/"))
    stem = Path(place).name.split(".")[0]
    return re.sub(r"[^A-Za-z0-9]+", "-", f"{stem}-{member}" if member else stem).strip("-")[:80] or "image"


def _how(config: IngestConfig) -> How | None:
    return "stack" if config.stack else "mosaic" if config.mosaic else "frames" if config.frames else None


def _source_rows(config: IngestConfig) -> Iterator[dict[str, Any]]:
    how = _how(config)
    if how is not None:
        yield from _joined_rows(config, how)
        return
    for given in config.sources:
        for uri in _expand(given):
            for source in _items(uri) if may_be_catalogue(uri) else [uri]:
                yield {"source": source, **_targets_of(config, source)}


def _joined_rows(config: IngestConfig, how: How) -> Iterator[dict[str, Any]]:
    """One row per folder of a folder or pattern; files that are named themselves belong together by their folder."""
    groups: dict[str, list[str]] = {}
    for given in config.sources:
        found = _expand(given)
        pattern = f"/{given.rsplit('/', 1)[-1]}" if is_pattern(given) and found != [given] else ""
        for uri in found:
            groups.setdefault(uri.rpartition("/")[0] + pattern, []).append(uri)
    for name, parts in groups.items():
        joined = Joined(uri=escaped(name), how=how, parts=tuple(escaped(part) for part in sorted(parts)))
        yield {"source": name, "joined": joined, **_targets_of(config, name)}


def _expand(given: str, may_be_glob: bool = True) -> list[str]:
    """Files behind a name: itself, what a glob matches, or the images below a folder; itself where that is nothing."""
    is_glob = may_be_glob and is_pattern(given)
    if limited() and not may_read(given):
        return [given]  # not even its neighbours' names are told; it fails by its own
    if is_remote(given):
        if not (is_glob or is_prefix(given)) or not is_known_scheme(given):
            return [given]
        try:
            if not is_glob:
                return images_below(given) or [given]
            system, path = fsspec.core.url_to_fs(given)
            system.invalidate_cache()  # a listing that is kept would hide what is new
            found = [system.unstrip_protocol(name) for name in sorted(system.glob(path))]
        except Exception:  # noqa: BLE001 - no credentials, no network...: this source fails by name, when it is opened
            return [given]
        return found or [given]
    try:
        if Path(given).is_dir():
            return sorted(_images_below(given)) or [given]
        if Path(given).exists() or not is_glob:
            return [given]
        return sorted(_glob(given)) or [given]
    except (OSError, ValueError, NotImplementedError):  # no permission, a name too long, `**.tif`: it fails by name
        return [given]


def _items(uri: str) -> list[str]:
    """The Items of a STAC catalogue; anything else is itself."""
    try:
        return items_of(uri) or [uri]
    except SourceError:  # it fails by name, when it is opened
        return [uri]


def _images_below(folder: str) -> Iterator[str]:
    """Files that look like images; and folders that cannot be listed: what is in them must not be lost in silence."""
    closed: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=closed.append):
        if not ZARR_MARKS.isdisjoint(names):
            folders.clear()  # what lies below is chunks
            yield parent
            continue
        found = [str(Path(parent, name)) for name in names if name.lower().endswith(tuple(suffixes()))]
        parts = {part for name in found for part in _parts(name)}
        yield from (name for name in found if name not in parts)
        if any(_is_dicom(Path(parent, name)) for name in names):
            yield parent  # its files are slices
    yield from (str(error.filename) for error in closed)


def _parts(name: str) -> tuple[str, ...]:
    """Files that are one image with this one, and no images themselves; of a broken one none: it fails by name."""
    try:
        return companions(name)
    except SourceError:
        return ()


def _is_dicom(path: Path) -> bool:
    """True for a slice; their files often have no suffix, or the end of a UID for one."""
    if path.name.lower().endswith(tuple(suffixes())):
        return False
    try:
        if not path.is_file():
            return False  # a pipe would be waited for
        with path.open("rb") as opened:
            return opened.read(132)[128:] == b"DICM" or path.suffix.lower() == ".dcm"
    except OSError:
        return False


def _glob(pattern: str) -> list[str]:
    path = local_path(pattern)
    anchor = Path(path.anchor) if path.is_absolute() else Path()
    matching = anchor.glob(str(path.relative_to(anchor)))
    return [str(found) for found in matching if found.is_file() or _is_one_image(found)]


def _is_one_image(folder: Path) -> bool:
    """True for a folder that is an OME-Zarr image, or holds slices: one source each."""
    names = [found.name for found in os.scandir(folder)]
    return not ZARR_MARKS.isdisjoint(names) or any(_is_dicom(folder / name) for name in names)


def _targets_of(config: IngestConfig, source: str) -> dict[str, Any]:
    """The fields of an entry that the patterns for targets and AOI fill."""
    if not config.targets:
        return {}
    parts = [(name, part, _matching_targets(part, source)) for name, part in _by_class(config.targets)]
    return _target_fields(parts) | {"aoi": matching_aoi(config.aoi, source)}


def _target_fields(found: list[tuple[str, str, tuple[str, ...]]]) -> dict[str, Any]:
    """Of (class, pattern, files): one entry's targets, and what each of them is."""
    targets = tuple(file for _, _, files in found for file in files)
    if found[0][0]:
        return {"targets": targets, "class_names": tuple(name for name, _, files in found for _ in files)}
    return {"targets": targets, "one_per_instance": _is_per_object(found[0][1])}


def _by_class(text: str, folder: str = ".") -> list[tuple[str, str]]:
    """`axon=a.png;myelin=b.png` as names and patterns; a pattern or file without names has the name "".

    Raises:
        ConfigError: if only some of them have names, or one has no pattern.
    """
    parts = [part.strip() for part in text.split(";") if part.strip()]
    named = [_NAMED.fullmatch(part) for part in parts]
    if not named or named[0] is None or (len(parts) == 1 and Path(_beside(text, folder)).is_file()):
        return [("", text)]
    if not all(named):
        wrong = parts[named.index(None)]
        raise ConfigError(f"targets '{text}': expected name=file;name=file, got '{wrong}' without a name")
    return [(found[1].strip(), found[2].strip()) for found in named if found is not None]


def _matching_targets(pattern: str, source: str, option: str = "--targets") -> tuple[str, ...]:
    """The target files of a source; where the pattern matches nothing it stays, so that the source fails by name."""
    plain = source.removeprefix("file://")
    name = Path(plain).name.removesuffix(".gz")  # `ct.nii.gz` is called ct
    stem = name.removesuffix(Path(name).suffix)
    parent = plain.rsplit("/", 1)[0] if "/" in plain else "."
    is_glob = is_pattern(pattern)
    literal = glob.escape if is_glob else str  # `img[1].tif` has the target of that very name
    try:
        filled = pattern.format(stem=literal(stem), parent=literal(parent))
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(f"{option} {pattern}: only {{stem}} and {{parent}} can be filled in") from error
    return tuple(_expand(filled, is_glob))


def matching_aoi(pattern: str | None, source: str) -> str | None:
    """The AOI of a source.

    Raises:
        ConfigError: if several files match.
    """
    found = _matching_targets(pattern, source, "--aoi") if pattern else ()
    if len(found) > 1:
        raise ConfigError(f"--aoi {pattern}: {len(found)} files match for {source}; expected one")
    return found[0] if found else None


def _is_per_object(pattern: str) -> bool:
    """True for `masks/*.png`, one file per object; False for `{stem}_mask.*`, where only the format is open."""
    return is_pattern(pattern.rsplit(".", 1)[0])


def is_pattern(name: str) -> bool:
    """True for a glob; `?` in a URL begins its query."""
    return any(sign in name for sign in ("*[" if is_remote(name) else "*?["))


def _manifest_rows(path: str) -> Iterator[dict[str, Any]]:
    """Rows of a CSV manifest; relative paths start at the manifest's own folder."""
    try:
        with fsspec.open(path, "rt", encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as a CSV manifest ({error})") from error
    if not rows:
        raise ConfigError(f"{path}: the manifest has no rows")
    columns = [name for name in rows[0] if name is not None]
    if "source" not in columns:
        hint = unknown_key(columns[0], list(_COLUMNS)) if columns else "the file is empty"
        raise ConfigError(f"{path}: expected a column 'source', got {', '.join(columns)} ({hint})")
    folder = path.rsplit("/", 1)[0] if "/" in path else "."
    for number, row in enumerate(rows, start=2):
        yield _manifest_row(row, folder, f"{path}, line {number}")


def _manifest_row(row: dict[str, Any], folder: str, where: str) -> dict[str, Any]:
    if None in row or None in row.values():
        raise ConfigError(f"{where}: expected as many fields as the header has; quote fields that hold a comma")
    values = {key: value.strip() for key, value in row.items()}
    if not values["source"]:
        raise ConfigError(f"{where}: the source is empty")
    if values.get("split", "") not in _SPLITS:
        raise ConfigError(f"{where}: split must be train, val or test, got '{values['split']}'")
    if values.get("target_values", "") not in _TARGET_VALUES:
        raise ConfigError(f"{where}: target_values must be classes or objects, got '{values['target_values']}'")
    target = values.get("target", "")
    located = [(name, _beside(part, folder)) for name, part in _by_class(target, folder)] if target else []
    targets = _target_fields([(name, part, tuple(_expand(part))) for name, part in located]) if located else {}
    aoi = _beside(values.get("aoi", ""), folder)
    if aoi and not target:
        raise ConfigError(f"{where}: an aoi but no target; it says where the target counts")
    return {
        "source": _beside(values["source"], folder),
        **targets,
        "target_values": values.get("target_values") or None,
        "aoi": aoi or None,
        "valid": _beside(values.get("valid", ""), folder) or None,
        "split": values.get("split") or None,
        "group": values.get("group") or None,
        "metadata": tuple((key, value) for key, value in values.items() if key not in _COLUMNS and value),
    }


def _beside(path: str, folder: str) -> str:
    if not path or is_remote(path) or Path(path).is_absolute():
        return path
    return f"{folder}/{path}"


def check_found(entry: Entry) -> None:
    """Refuse a target that is not there, a pattern that matched nothing, and a folder that holds nothing that is read.

    Raises:
        SourceError: which of the two, and what was looked for.
    """
    for target in entry.targets:
        check_source(target)  # before `not_found` tells what else is there
        if not is_remote(target) and MEMBER not in target and not Path(canonical_uri(target)).exists():
            raise SourceError(not_found(entry.source, target))
    uri = entry.source
    if entry.joined is not None or MEMBER in uri:
        return
    if is_pattern(uri) and (is_remote(uri) or not Path(canonical_uri(uri)).exists()):
        unlisted = ", or it cannot be listed" if is_remote(uri) else ""
        raise SourceError(f"{uri}: nothing matches this pattern{unlisted}")
    if is_local_folder(uri) and uri not in _images_below(uri):
        raise SourceError(f"{uri}: no image in this folder; expected names in {' '.join(sorted(suffixes()))}")
