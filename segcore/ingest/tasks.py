"""Tasks: what child processes do (`segcore.ingest.child`), by name, and what goes in and comes out.

Nothing here loads a format library: the process that only hands out tasks opens no source.
"""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from segcore.classes import ClassInfo
from segcore.isolation import ByName
from segcore.sources import Opening, SourceInfo
from segcore.store import Quarter
from segcore.targets import TargetOpening

_CHILD = "segcore.ingest.child"

probe = ByName(_CHILD, "probe")
list_members = ByName(_CHILD, "list_members")
source_digest = ByName(_CHILD, "source_digest")
copy_source = ByName(_CHILD, "copy_source")
write_windows = ByName(_CHILD, "write_windows")


class Settings(BaseModel):
    """How files are opened; the same in every child."""

    model_config = ConfigDict(frozen=True)

    opening: Opening = Opening()
    """Of sources."""
    target: TargetOpening = TargetOpening()


class Probe(BaseModel):
    """What a source is, before anything is written."""

    model_config = ConfigDict(frozen=True)

    info: SourceInfo
    has_valid: bool
    """From the file itself, or from a mask file."""
    target_kind: str | None = None
    target_dtype: str | None = None
    has_instances: bool = False
    classes: tuple[ClassInfo, ...] = ()
    target_notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What a task has written."""

    num_shards: int
    """Of the image's level 0."""
    quarters: tuple[tuple[str, Quarter], ...]
    """For coarser shards of which other tasks write a part, by the array's name."""
