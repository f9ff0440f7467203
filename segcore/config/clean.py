"""Clean: by which rule old results go."""

from datetime import timedelta

from pydantic import Field

from segcore.config.base import StageConfig

_HOURS = {"h": 1, "d": 24, "w": 168}


class CleanConfig(StageConfig):
    """Old masks with their layers and objects, training runs, reports and leases -> room on the disk."""

    keep_masks: int = Field(default=3, ge=1, title="Masks to keep")
    """So many of each image's masks stay, the newest; and that of the champion."""
    older_than: str = Field(default="90d", pattern=r"^[1-9][0-9]{0,4}[hdw]$", title="Older than")
    """What is younger stays in any case: 36h, 90d, 12w."""
    keep: tuple[str, ...] = Field(default=(), title="Keep")
    """Names of masks, runs and reports that stay, however old."""
    what: tuple[str, ...] = Field(default=("masks", "runs", "reports", "leases"), title="What")
    """What is looked at: masks, runs, reports, leases."""
    dry_run: bool = Field(default=False, title="Dry run")
    """Say what would go, and remove nothing."""

    @property
    def age(self) -> timedelta:
        """`older_than` as a length of time."""
        return timedelta(hours=int(self.older_than[:-1]) * _HOURS[self.older_than[-1]])
