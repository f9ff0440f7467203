"""Recipe: all that it takes to ingest a source once more exactly as it was; kept in the image's attributes."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from segcore.config import IngestConfig
from segcore.ingest.entries import Entry
from segcore.ingest.tasks import Settings
from segcore.sources import Joined
from segcore.sources.stamps import canonical_uri

KEPT = ("shard_px", "ngff", "link", "copy_source", "foreground", "open_deadline_s", "read_deadline_s", "memory_mib")
"""Fields of the config that are neither in the entry nor in the settings."""


class Recipe(BaseModel):
    """A source, how its files were opened, and how the image was to be."""

    model_config = ConfigDict(frozen=True)

    entry: Entry
    settings: Settings
    config: dict[str, Any] = {}

    @classmethod
    def of(cls, entry: Entry, settings: Settings, config: IngestConfig) -> "Recipe":
        """The recipe of one source of a call.

        Args:
            entry: the source.
            settings: with the classes that all images of the call agreed on, where ids depend on them.
            config: of the call.
        """
        named = {
            "source": canonical_uri(entry.source),
            "joined": None if entry.joined is None else canonical(entry.joined),
            "targets": tuple(map(canonical_uri, entry.targets)),
            "aoi": None if entry.aoi is None else canonical_uri(entry.aoi),
            "valid": None if entry.valid is None else canonical_uri(entry.valid),
        }
        kept = config.model_dump(mode="json", include=set(KEPT), exclude_defaults=True)
        return cls(entry=entry.model_copy(update=named), settings=settings, config=kept)

    @property
    def json_dict(self) -> dict[str, Any]:
        """JSON, without what is as ever."""
        return self.model_dump(mode="json", exclude_defaults=True)


def canonical(source: str | Joined) -> str | Joined:
    """A source by a name that holds wherever it is read from."""
    if isinstance(source, str):
        return canonical_uri(source)
    parts = tuple(canonical_uri(part) for part in source.parts)
    return source.model_copy(update={"uri": canonical_uri(source.uri), "parts": parts})
