"""Stage: the masks of one name -> their report; or two of them -> a comparison (see `compare`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from segcore.classes import ClassInfo
from segcore.config import ReportConfig
from segcore.errors import StoreError, utf8
from segcore.ingest.entries import shown_name
from segcore.measure import Peak
from segcore.measurements.totals import Totals, totals_known
from segcore.pace import Pace, paces, summed
from segcore.progress import SILENT, Progress
from segcore.publish.compare import compare
from segcore.publish.earlier import Since, since
from segcore.publish.measured import object_table, objects_document
from segcore.publish.pictured import Pictured
from segcore.publish.provenance import model_of, provenance, training_curves
from segcore.publish.sides import score_config
from segcore.report import Failure, Panel, ReportContent, pictures, render
from segcore.report.figures import confusion_svg
from segcore.report.reliability import reliability_panel
from segcore.report.rows import HEADLINE_LABELS, MAX_ROWS, chips, detailed, image_rows, pace_facts
from segcore.reports import Head, table_key
from segcore.results import ItemResult, StageResult, headline_part
from segcore.scoring.document import document
from segcore.scoring.score import Scored, score_masks
from segcore.scoring.table import to_parquet
from segcore.selection import mask_name
from segcore.store import Workspace

MAX_FAILURES = 200
"""Named in the page; report.json has them all."""
FORMAT = 2
"""Version of report.json; see `segcore.report.schema`."""


def report(config: ReportConfig, progress: Progress = SILENT) -> StageResult:
    """Score what is not scored yet, and write the report of a mask, or the comparison of two.

    Raises:
        ConfigError: if `config.model` is neither a mask's name nor a model package; likewise of `config.compare`.
        StoreError: if there is no workspace, no image has the mask, or the report cannot be written.
    """
    with Peak() as peak:
        created = datetime.now(UTC)
        run = config.run or created.strftime("%Y%m%dT%H%M%SZ")
        workspace = Workspace.open(config.workspace)
        write = _write_report if config.compare is None else compare
        result = write(config, workspace, run, created, progress)
    return result.model_copy(update={"seconds": peak.seconds, "peak_mib": peak.mib})


@dataclass(frozen=True, slots=True)
class _Found:
    """What a report tells."""

    config: ReportConfig
    """With the failures that were found since."""
    run: str
    created: datetime
    scored: Scored
    scores: dict[str, Any]
    """The document of `score`."""
    changed: Since | None
    pace: Mapping[str, Pace]
    """By image id."""
    measured: Mapping[str, Totals]
    """Likewise: of the masks whose objects were measured."""

    @property
    def when(self) -> str:
        return self.created.isoformat(timespec="seconds")


def _write_report(
    config: ReportConfig, workspace: Workspace, run: str, created: datetime, progress: Progress
) -> StageResult:
    config, scored = _scored(config, workspace, progress)
    rules = score_config(config)
    scores = document(scored.mask, scored.images, rules, scored.against)
    changed = since(workspace, scored.mask, scored.images, rules)
    pace = paces(workspace, scored.mask, {image.image_id: image.mask_digest for image in scored.images})
    measured = totals_known(workspace, scored.mask, [image.image_id for image in scored.images], progress)
    found = _Found(config, run, created, scored, scores, changed, pace, measured)
    pages = Pictured(workspace, scores, progress)
    content = _content(found, workspace, pages)
    html, data, table = f"reports/{run}/report.html", f"reports/{run}/report.json", table_key(run)
    failures = _failures(found, pages)
    workspace.objects.put(data, _report_json(found, content, failures))
    told = {"run": run, "created": found.when, "mask": scored.mask, "settings": scores["settings"]}
    workspace.objects.put(table, to_parquet(told, scored.images, scored.items))
    workspace.objects.put(html, utf8(render(content)))
    workspace.objects.put(f"reports/{run}/run.json", _head(found, failures).model_dump_json(indent=1).encode())
    return StageResult(
        stage="report",
        items=(*scored.items, *pages.items()),
        paths=tuple(map(workspace.describe, (html, data, table))),
        scores=scores,
        details={
            "mask": scored.mask,
            "run": run,
            "num_overlays": len(content.overlays),
            **({"since": changed.head.run} if changed else {}),
        },
    )


def _scored(config: ReportConfig, workspace: Workspace, progress: Progress) -> tuple[ReportConfig, Scored]:
    """Scores; where there is no mask but failures to tell of, none, and that as one failure more."""
    try:
        return config, score_masks(workspace, score_config(config), progress)
    except StoreError as error:
        if not config.failures:
            raise
        name = mask_name(workspace, config.model)
        failures = (*config.failures, (f"mask {name}", str(error)))
        return config.model_copy(update={"failures": failures}), Scored(name)


def _content(found: _Found, workspace: Workspace, pages: Pictured) -> ReportContent:
    config, scores, mask = found.config, found.scores, found.scored.mask
    worst, overlays, saliency = pages.worst_tiles(), pages.overlays(), pages.saliency()
    failures = _failures(found, pages)
    changes = found.changed.changes if found.changed else {}
    skipped = {image_id: pace.skipped_share for image_id, pace in found.pace.items()}
    objects = {image: sum(int(row["objects"]) for row in totals.values()) for image, totals in found.measured.items()}
    sources = {image.image_id: shown_name(image.image_id, image.source) for image in found.scored.images}
    rows = image_rows(scores, found.scored.items, changes, skipped, objects, sources)
    model = model_of(workspace, scores, mask)
    split, first = headline_part(scores)
    return ReportContent(
        title=config.title,
        subtitle=f"Mask {mask} in {workspace.uri}",
        created=f"{found.created:%Y-%m-%d %H:%M} UTC, run {found.run}",
        chips=chips(scores, found.scored.items, len(failures), found.changed.document if found.changed else None),
        classes=pages.classes,
        failures=failures[:MAX_FAILURES],
        num_failures_left_out=max(0, len(failures) - MAX_FAILURES),
        scores=scores if scores["num_scored"] else None,
        since=found.changed.as_json() if found.changed else None,
        headline_split=split,
        images=rows[:MAX_ROWS],
        detailed=detailed(pages.classes),
        num_images_left_out=max(0, len(rows) - MAX_ROWS),
        objects=object_table(found.measured, len(found.scored.images), pages.classes),
        confusion=_confusion(first, pages.classes, split),
        reliability=reliability_panel(first, pages.classes),
        overlays=overlays,
        num_overlays_left_out=len(scores["per_image"]) - len(overlays),
        worst=worst,
        bands=pages.bands(),
        saliency=saliency,
        unusual=pages.unusual(),
        curves=training_curves(workspace, model),
        stages=config.stages,
        pace=pace_facts(summed(found.pace.values()), len(found.scored.images)),
        provenance=provenance(config, workspace, scores, mask, model),
    )


def _failures(found: _Found, pages: Pictured) -> tuple[Failure, ...]:
    """Every source or image that failed, by its first reason: an earlier stage of a flow, the scores, the pictures."""
    before = [Failure(source, error) for source, error in found.config.failures]
    own = [_failure(item) for item in found.scored.items if item.state == "failed"]
    first: dict[str, Failure] = {}
    for failed in (*before, *own, *pages.failures.values()):
        first.setdefault(failed.source, failed)
    return tuple(first.values())


def _failure(item: ItemResult) -> Failure:
    return Failure(item.image or item.source or "?", item.error or "")


def _report_json(found: _Found, content: ReportContent, failures: Sequence[Failure]) -> bytes:
    """The same facts for programs: the document of scores, what became of each image, provenance."""
    told = {
        "format": FORMAT,
        "run": found.run,
        "created": found.when,
        "title": found.config.title,
        "mask": found.scored.mask,
        "failures": [{"source": failure.source, "error": failure.error} for failure in failures],
        "items": [item.model_dump(mode="json", exclude_none=True) for item in found.scored.items],
        "scores": found.scores,
        "since": content.since,
        "stages": [stage.model_dump() for stage in found.config.stages],
        "objects": objects_document(found.measured),
        "pace": summed(found.pace.values()) or None,
        "bands": [
            {"says": table.title, "note": table.note, "classes": list(table.classes), "values": dict(table.rows)}
            for table in content.bands
        ],
        "provenance": {
            heading: {fact.key: fact.value for fact in facts} for heading, facts in content.provenance.items()
        },
    }
    return utf8(json.dumps(told, ensure_ascii=False))


def _head(found: _Found, failures: Sequence[Failure]) -> Head:
    """What a later report, or a list of reports, asks first."""
    return Head(
        run=found.run,
        created=found.when,
        mask=found.scored.mask,
        title=found.config.title,
        num_images=found.scores["num_images"],
        num_failed=len(failures),
        scores={key: headline_part(found.scores)[1]["overall"].get(key) for key in HEADLINE_LABELS["overall"]},
    )


def _confusion(part: Mapping[str, Any], classes: Sequence[ClassInfo], split: str | None) -> Panel | None:
    if not part["num_scored"]:
        return None
    confusion = np.asarray(part["confusion"], np.int64)
    names = [info.name for info in classes]
    return Panel(
        f"Confusion matrix, {split or 'all images'}: of the pixels of each target class (row), the share that the mask "
        "gives to each class",
        pictures.svg_uri(confusion_svg(confusion, names)),
        "Confusion matrix; its numbers are in report.json, and per class in the table above",
    )
