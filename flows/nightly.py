"""Nightly: ingest the sources that are new or changed, predict them, score where a target exists, name
what is unlike the training images, report.

The workspace knows what is done, so the flow asks nobody: unchanged sources and finished masks come back as
`skipped`. A failed image is named in the report, in the run's table and in its final state, PartlyDone, which is
of type Failed: green would be missed. No flow retries: the next night goes on where this one stopped.
"""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.artifacts import first_picture, named_failures, publish, stages_told
from flows.ending import final_state
from flows.tasks import StageStoppedError, stage
from segcore.results import StageResult


@flow(name="nightly", retries=0, persist_result=True, result_serializer="json")
def nightly(
    workspace: str,
    model: str,
    sources: list[str] | None = None,
    manifest: str | None = None,
    targets: str | None = None,
    classes: str | None = None,
    ingest: dict[str, Any] | None = None,
    predict: dict[str, Any] | None = None,
) -> State[Any]:
    """One night's work on a growing archive.

    Args:
        workspace: folder or object-store prefix.
        model: model id in the workspace, or the path of a model package.
        sources: files, folders or globs that are looked at every night; or give a manifest.
        manifest: CSV of sources, targets, splits.
        targets: pattern of a source's target, where it has one.
        classes: class table of the targets.
        ingest: further settings of the stage: ids, processes, memory_mib...
        predict: further settings of the stage: blend, device, tile_px...
    """
    where = {"workspace": workspace}
    chosen = {**where, "model": model}
    new = {"sources": sources or [], "manifest": manifest, "targets": targets, "classes": classes, **(ingest or {})}
    results: list[StageResult] = []
    stopped = None
    try:
        results.append(stage("ingest", {**where, **new}))
        # A source that changed replaces its image, and that its mask, without `overwrite`; finished ones stay.
        results.append(stage("predict", {**chosen, **(predict or {})}))
        chosen["model"] = results[-1].details["name"]  # from here on it is the mask that counts
        results.append(stage("score", chosen))
        results.append(stage("drift", {**where, "model": model}))
    except StageStoppedError as error:
        stopped = str(error)
    try:  # also of a night that stopped early: what failed is to be read in the morning
        failed = [*named_failures(results), *([("the night", stopped)] if stopped else [])]
        results.append(stage("report", {**chosen, "failures": failed, "stages": stages_told(results)}))
    except StageStoppedError as error:
        stopped = stopped or str(error)
    publish(results, picture=first_picture(workspace, results))
    return final_state(results, stopped)
