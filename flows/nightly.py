"""Nightly: ingest the sources that are new or changed, predict them, refine the masks where it is asked to, export,
score where a target exists, name what is unlike the training images, measure objects, report.

The workspace knows what is done, so the flow asks nobody: unchanged sources and finished masks come back as
`skipped`, and a night in which nothing changed writes nothing. A failed image is named in the report, in the run's
table and in its final state, PartlyDone, which is of type Failed: green would be missed. No flow retries: the next
night goes on where this one stopped.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.artifacts import first_picture, named_failures, publish, stages_told
from flows.ending import final_state
from flows.naming import run_name
from flows.spread import spread
from flows.tasks import StageStoppedError, stage
from segcore.champion import champion
from segcore.config import NightlyConfig
from segcore.config.nightly import CHAMPION
from segcore.errors import StoreError
from segcore.results import ItemResult, StageResult
from segcore.store import Workspace
from segcore.told import tell, told_before
from segcore.until import Until

FINISHED = ("done", "skipped")


@flow(name="nightly", flow_run_name=run_name, retries=0, persist_result=True, result_serializer="json")
def nightly(config: NightlyConfig) -> State[Any]:
    """One night's work on a growing archive."""
    until = Until(config.until, now=due()).moment  # of this night, however long a stage or a retry takes
    results: list[StageResult] = []
    stopped, chosen = None, {"model": config.model}
    try:
        results.append(stage("ingest", config.settings("ingest", until=half_way(until))))
        chosen["model"] = model_of(config)
        package, images = chosen["model"], images_by_priority(config, results[0])
        # A source that changed replaces its image, and that its mask, without `overwrite`; finished ones stay.
        wanted = config.settings("predict", **chosen, images=images, until=stamped(until))
        most = config.max_images_in_flight
        results.append(spread(wanted, most) if most else stage("predict", wanted))
        chosen["model"] = results[-1].details["name"]  # from here on it is the mask that counts
        predicted = finished(results[-1])
        if config.refine and predicted:
            results.append(stage("refine", config.settings("refine", **chosen, images=predicted)))
            chosen["model"] = results[-1].details["name"]
        for each in stages_on_masks(config, chosen, finished(results[-1])):
            results.append(each)
        if predicted:
            results.append(stage("drift", config.settings("drift", model=package, images=predicted)))
    except (StageStoppedError, StoreError) as error:
        stopped = str(error)
    try:  # also of a night that stopped early: what failed is to be read in the morning
        results.extend(reported(config, chosen, results, stopped))
    except StageStoppedError as error:
        stopped = stopped or str(error)
    publish(results, picture=first_picture(config.workspace, results), flow="nightly")
    return final_state(results, stopped)


def model_of(config: NightlyConfig) -> str:
    """The model that the night works with.

    Raises:
        StoreError: if it is to be the champion, and there is none.
    """
    if config.model != CHAMPION:
        return config.model
    stands = champion(Workspace.open(config.workspace))
    if stands is None:
        command = f"segcore champion --workspace {config.workspace} --promote MODEL"
        raise StoreError(f"workspace {config.workspace}: it has no champion yet; give a model, or run `{command}`")
    return stands.model


def images_by_priority(config: NightlyConfig, ingested: StageResult) -> list[str]:
    """Every complete image of the workspace: those of tonight's sources, and those whose source is gone."""
    complete = Workspace.open(config.workspace).image_ids()
    known = set(complete)
    sources = {item.image: item.source or "" for item in ingested.items if item.image in known}
    return config.by_priority(sources, complete)


def finished(made: StageResult) -> list[str]:
    """Images whose masks are finished; one that the time cut short is for the next night. To stages none is all."""
    return sorted(item.image for item in made.items if item.state in FINISHED and item.image)


def stages_on_masks(config: NightlyConfig, chosen: dict[str, str], images: list[str]) -> Iterator[StageResult]:
    """Files and scores of the masks that are finished, one by one: what one did is told if the next one stops."""
    if not images:
        return
    masks = {**chosen, "images": images}
    for each in config.exports:
        yield stage("export", config.export_settings(each, **masks))
    yield stage("score", config.settings("score", **masks))


def reported(
    config: NightlyConfig, chosen: dict[str, str], results: list[StageResult], stopped: str | None
) -> list[StageResult]:
    """The report, unless the last one says the same, or there is nothing to tell of."""
    night = [("the night", stopped)] if stopped else []
    failures = [*named_failures(results), *night]
    scored = next((result for result in results if result.stage == "score"), None)
    if scored is None and not failures:
        return []
    content = {"scores": scored and scored.scores, "failures": failures, "settings": config.report}
    if config.objects:
        content["objects"] = config.measure
    if config.refine:  # objects alone leave the mask its name
        content["refine"] = config.refine
    try:
        workspace = Workspace.open(config.workspace)
    except StoreError:  # the report's own stage says so
        workspace = None
    if workspace and scored and (paths := told_before(workspace, chosen["model"], content)):
        return [StageResult(stage="report", paths=paths, details={"unchanged": True})]
    images = [item.image for item in scored.items if item.state in FINISHED] if scored else []
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"  # one folder for the tables of objects and the report
    masks = {**chosen, "images": images, "run": run}
    own = [measured(config, masks)] if config.objects and images else []
    ran = [*results, *own]
    told = {"failures": [*named_failures(ran), *night], "stages": stages_told(ran)}
    own.append(stage("report", config.settings("report", **masks, **told)))
    if workspace and scored and not named_failures(own):  # what failed here is tried again
        tell(workspace, chosen["model"], content, own[-1].paths)
    return own


def measured(config: NightlyConfig, masks: dict[str, Any]) -> StageResult:
    """The table of objects; where it cannot be made the report says so, and is still written."""
    try:
        return stage("measure", config.settings("measure", **masks))
    except StageStoppedError as error:
        failed = ItemResult(state="failed", source="objects", error=str(error))
        return StageResult(stage="measure", items=(failed,))


def due() -> datetime:
    """When this run was to begin, so that one that no worker took before the morning does not compute all day.

    One that a person starts again (Retry on its page) begins now.
    """
    return flow_run.scheduled_start_time if flow_run.run_count <= 1 else datetime.now(UTC)


def half_way(until: datetime | None) -> str | None:
    """The middle between now and then: a first night of many new sources still makes masks."""
    now = datetime.now(UTC)
    return None if until is None else stamped(now + (until - now) / 2)


def stamped(moment: datetime | None) -> str | None:
    """A moment as a stage's `until` takes it."""
    return None if moment is None else moment.isoformat()
