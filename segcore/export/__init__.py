"""Export: finished masks -> *files in the source's own geometry*, one writer per format."""

from segcore.export.export import export

__all__ = ["export"]
