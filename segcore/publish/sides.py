"""Sides: what a user names as one of two to compare -> *its counts*: scored now, or read from a report's table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcore.classes import ClassInfo
from segcore.config import ReportConfig, ScoreConfig
from segcore.errors import ConfigError, StoreError
from segcore.progress import Progress
from segcore.reports import table_key
from segcore.results import ItemResult
from segcore.scoring.document import settings_of
from segcore.scoring.score import score_masks
from segcore.scoring.summary import ImageScore
from segcore.scoring.table import from_parquet
from segcore.store import Label, Workspace


class OutdatedError(StoreError):
    """The mask that a report scored stands no more; its counts do, and are compared."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of two masks that are compared."""

    name: str
    """What the user called it."""
    what: str
    """What it is, for people."""
    workspace: Workspace
    """Where its masks are, or were."""
    mask: str
    classes: tuple[ClassInfo, ...]
    images: tuple[ImageScore, ...]
    boundary: Mapping[str, Any] | None
    """`tolerance` and `halo_px` that its boundaries were asked for with; None where they were not measured."""
    items: tuple[ItemResult, ...] = ()
    """What became of each image, where it was scored now."""
    is_volatile: bool = False
    """True for a report: its masks may be others by now."""

    def mask_of(self, score: ImageScore) -> Label:
        """The mask that was scored.

        Raises:
            OutdatedError: if it is a report's, and was made again or removed since.
            StoreError: if there is none, or it is damaged.
        """
        image_id = score.image_id
        try:
            label = self.workspace.label(image_id, self.mask)
        except StoreError as error:
            if self.is_volatile and self.mask not in self.workspace.label_names(image_id):
                raise OutdatedError("is there no more") from error
            raise
        if self.is_volatile and label.digest != score.mask_digest:
            raise OutdatedError("was made again since")
        return label


def score_config(config: ReportConfig, mask: str | None = None) -> ScoreConfig:
    """What `score` is asked for: the report's own mask, or another one."""
    values = config.model_dump(include=set(ScoreConfig.model_fields))
    return ScoreConfig(**values if mask is None else {**values, "model": mask, "against": None})


def find_side(workspace: Workspace, given: str, config: ReportConfig, progress: Progress) -> Side:
    """A report's run in this workspace, a report's folder in any, or a mask or model of this workspace.

    Raises:
        ConfigError, StoreError: if it is none of them, or cannot be read.
    """
    place = _report_place(workspace, given)
    if place is not None:
        return _of_report(*place, given, config)
    rules = score_config(config, given)
    scored = score_masks(workspace, rules, progress)
    classes = scored.images[0].classes if scored.images else ()
    what = f"in {workspace.uri}, scored now"
    boundary = settings_of(rules)["boundary"]
    return Side(scored.mask, what, workspace, scored.mask, classes, scored.images, boundary, scored.items)


def _report_place(workspace: Workspace, given: str) -> tuple[Workspace, str] | None:
    """The workspace and the run of a report; None if it is none."""
    name = given.rstrip("/").removesuffix("/report.html").removesuffix("/report.json").removesuffix("/images.parquet")
    uri, marker, run = name.rpartition("/reports/")
    if marker:
        if "://" not in uri and not Path(uri).is_dir():
            raise ConfigError(f"compare {given}: expected the folder of a report, there is no workspace {uri}")
        return Workspace.open(uri), run
    run = name.removeprefix("reports/")
    if "/" not in run and workspace.objects.size(table_key(run)) is not None:
        return workspace, run
    return None


def _of_report(workspace: Workspace, run: str, given: str, config: ReportConfig) -> Side:
    key = table_key(run)
    data = workspace.objects.get(key)
    if data is None:
        raise StoreError(f"compare {given}: there is no {workspace.describe(key)}; write the report again")
    table = from_parquet(data, workspace.describe(key))
    images = tuple(
        image
        for image in table.images
        if config.split in (None, image.split) and (not config.images or image.image_id in config.images)
    )
    mask, created = str(table.head["mask"]), str(table.head["created"])
    what = f"of {created[:16].replace('T', ' ')} UTC, mask {mask} in {workspace.uri}"
    boundary = table.head["settings"]["boundary"]
    return Side(f"report {run}", what, workspace, mask, table.classes, images, boundary, is_volatile=True)
