"""Nightly: what a night is asked for. From it Prefect's pages make their form, which refuses what cannot be meant.

The settings of each stage are those of its own config, but for the ones that the night itself fills in.
"""

import fnmatch
from typing import Annotated, Any, Self, get_args

from pydantic import Field, WithJsonSchema, model_validator

from segcore.config.base import StageConfig, build_config
from segcore.config.drift import DriftConfig
from segcore.config.ingest import IngestConfig
from segcore.config.measure import MeasureConfig
from segcore.config.parts import Settings, part_of
from segcore.config.predict import PredictConfig
from segcore.config.refine import RefineConfig
from segcore.config.results import ExportConfig, ReportConfig, ScoreConfig
from segcore.errors import ConfigError
from segcore.until import TIME_OF_DAY

CHAMPION = "champion"
"""As a model: the one that stands as the workspace's champion."""

FILLED: dict[str, tuple[type[StageConfig], set[str]]] = {
    "ingest": (IngestConfig, {"workspace", "sources", "manifest", "until", "dry_run"}),
    "predict": (PredictConfig, {"workspace", "model", "images", "until", "dry_run"}),
    "refine": (RefineConfig, {"workspace", "model", "images", "dry_run"}),
    "export": (ExportConfig, {"workspace", "model", "images", "output", "format", "renew"}),
    "score": (ScoreConfig, {"workspace", "model", "images"}),
    "drift": (DriftConfig, {"workspace", "model", "images"}),
    "measure": (MeasureConfig, {"workspace", "model", "images", "run"}),
    "report": (ReportConfig, {*ScoreConfig.model_fields, "run", "compare", "failures", "stages"}),
}
"""By stage: its config, and what the night fills in, so that it is not asked for twice."""

Formats = tuple[
    Annotated[
        str, WithJsonSchema({"type": "string", "enum": list(get_args(ExportConfig.model_fields["format"].annotation))})
    ],
    ...,
]


class NightlyConfig(StageConfig):
    """New and changed sources -> masks, as they are or refined -> files, scores and a report."""

    sources: tuple[str, ...] = Field(default=(), title="Sources")
    """Looked at every night: folders, globs, prefixes (`s3://bucket/incoming/`), STAC catalogues, files; or give a
    manifest. In this order."""
    manifest: str | None = Field(default=None, title="Manifest")
    """CSV of sources with their targets, splits and groups, in place of `sources`."""
    model: str = Field(default=CHAMPION, min_length=1, title="Model")
    """Model id in the workspace, the path of a model package, or `champion`: the one that was promoted last. A new one
    makes a new mask of every image."""
    until: str | None = Field(default=None, pattern=TIME_OF_DAY, title="Until")
    """Take no new pixels after this time of day, `06:00 Europe/Berlin` (without a zone: the machine's); ingest has half
    of the time till then. What is left goes on next night; files, scores and report of what is done still follow."""
    first: tuple[str, ...] = Field(default=(), title="First")
    """Patterns of sources or image ids (`*urgent*`) whose masks come before all others; the others as `sources` has
    them."""
    max_images_in_flight: int = Field(default=0, ge=0, le=200, title="Images in flight")
    """So many runs at one time make masks on all workers, each of some images; 0 = the night makes them itself."""
    exports: Formats = Field(default=(), title="File formats")
    """Formats that finished masks are written in."""
    export_folder: str | None = Field(default=None, title="Folder for files")
    """Gets a folder for each format; local or in an object store."""
    objects: bool = Field(default=False, title="Measure objects")
    """Make a table of the objects of all finished masks, with areas and intensities, beside the report."""
    ingest: Annotated[Settings, part_of(*FILLED["ingest"])] = Field(default={}, title="Settings of ingest")
    """Targets, class table, ids, memory..."""
    predict: Annotated[Settings, part_of(*FILLED["predict"])] = Field(default={}, title="Settings of predict")
    """Blend, halo, layers, device..."""
    refine: Annotated[Settings, part_of(*FILLED["refine"])] = Field(default={}, title="Settings of refine")
    """What is too small, holes, objects...; files, scores and report are of the refined masks. Nothing = masks stay as
    they are."""
    export: Annotated[Settings, part_of(*FILLED["export"])] = Field(default={}, title="Settings of export")
    """Of every format."""
    score: Annotated[Settings, part_of(*FILLED["score"])] = Field(default={}, title="Settings of score")
    """Boundaries, intervals, another mask to compare with..."""
    drift: Annotated[Settings, part_of(*FILLED["drift"])] = Field(default={}, title="Settings of drift")
    """On which device..."""
    measure: Annotated[Settings, part_of(*FILLED["measure"])] = Field(default={}, title="Settings of measure")
    """Of the table of objects..."""
    report: Annotated[Settings, part_of(*FILLED["report"])] = Field(default={}, title="Settings of report")
    """Its headline..."""

    @model_validator(mode="after")
    def _every_stage_agrees(self) -> Self:
        if bool(self.exports) != (self.export_folder is not None):
            raise ValueError("exports, export_folder: expected both or none of them")
        for stage, (_, filled) in FILLED.items():
            for key in getattr(self, stage):
                if key in filled:
                    raise ValueError(f"{stage}.{key}: the night fills it in; leave it out")
        try:
            refined = ["refine"] if self.refine else []
            for stage in ("ingest", "predict", *refined, "score", "drift", "measure", "report"):
                build_config(FILLED[stage][0], self.settings(stage), stage)
            for found in self.exports:
                build_config(ExportConfig, self.export_settings(found), "export")
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def settings(self, stage: str, **filled: Any) -> Settings:
        """All settings of a stage: the user's, and those that the night fills in."""
        own: Settings = {"workspace": self.workspace, **getattr(self, stage, {})}
        if stage == "ingest":
            own |= {"sources": self.sources, "manifest": self.manifest}
        else:
            own |= {"model": self.model}
        if stage == "report":
            own = {**self.score, **own}
        return own | filled

    def export_settings(self, file_format: str, **filled: Any) -> Settings:
        """Those of export for one format; files follow their masks."""
        folder = f"{(self.export_folder or '').rstrip('/')}/{file_format}"
        return self.settings("export", output=folder, format=file_format, renew=True, **filled)

    def by_priority(self, sources: dict[str, str], others: list[str]) -> list[str]:
        """Image ids in the order in which their masks are made.

        Args:
            sources: of the images that were looked at tonight, by id, in their order.
            others: ids of further images; one whose source is gone still gets its mask.
        """

        def rank(image_id: str) -> int:
            names = (image_id, sources.get(image_id, ""))
            matching = (at for at, pattern in enumerate(self.first) if any(fnmatch.fnmatch(n, pattern) for n in names))
            return next(matching, len(self.first))

        return sorted(dict.fromkeys([*sources, *others]), key=rank)
