"""Retrain: train a challenger on the targets there are now, and let the better of it and the champion stand.

Both are scored on the same held-out images, which neither was trained on. The challenger is promoted where it is better
beyond the interval of the difference, which is drawn over images (or patients, or sites): a lucky week promotes nobody.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.states import Completed

from flows.artifacts import BestEffort, publish
from flows.ending import final_state
from flows.naming import run_name
from flows.tables import between, shown
from flows.tasks import StageStoppedError, stage
from segcore.champion import Champion, champion, promote
from segcore.config import RetrainConfig
from segcore.errors import StoreError
from segcore.results import StageResult, failures
from segcore.scoring.intervals import FEWEST
from segcore.store import Workspace


class Answer(RunInput):
    """What a person says to a challenger, in the form that Prefect's page shows."""

    promote: bool = False
    """Make it the champion."""


@flow(name="retrain", flow_run_name=run_name, retries=0, persist_result=True, result_serializer="json")
def retrain(config: RetrainConfig) -> State[Any]:
    """A challenger to the champion; it is promoted where it is better."""
    results: list[StageResult] = []
    try:
        workspace = Workspace.open(config.workspace)
        stands, images = champion(workspace), held_out(workspace, config.split)
        # A run that was killed is begun again on the same day, and goes on from its last checkpoint.
        run = f"retrain-{datetime.now(UTC):%Y%m%d}"
        results.append(stage("train", config.settings("train", run=run)))
        challenger = str(results[-1].details["model"])
        if stands is None:
            promote(workspace, challenger, "the first one")
            verdict = f"promoted {challenger}: there was no champion"
        elif stands.model == challenger:
            verdict = f"kept {challenger}: the training gave the champion again"
        else:
            verdict = compared(config, challenger, stands, images, results)
    except (StageStoppedError, StoreError) as error:
        publish(results, flow="retrain")
        return final_state(results, str(error))
    publish(results, flow="retrain")
    ended = final_state(results)
    return Completed(message=verdict, data=ended.data) if ended.is_completed() else ended


def held_out(workspace: Workspace, split: str) -> list[str]:
    """Ids of the images of a split that have a target.

    Raises:
        StoreError: if there is none.
    """
    found = [
        image_id
        for image_id in workspace.image_ids()
        if workspace.image(image_id).split == split and workspace.is_complete(image_id, "target")
    ]
    if not found:
        raise StoreError(
            f"workspace {workspace.uri}: no image of split {split} has a target to compare two models on; "
            "ingest with a manifest that has splits, or with --split 70/15/15"
        )
    return found


def compared(
    config: RetrainConfig, challenger: str, stands: Champion, images: list[str], results: list[StageResult]
) -> str:
    """Score both, decide, and say how it ended; results are added as they come."""
    masks = []
    for model in (challenger, stands.model):
        results.append(stage("predict", config.settings("predict", model=model, images=images)))
        masks.append(str(results[-1].details["name"]))
    reports, began = [], f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for role, (name, other) in {"challenger": masks, "champion": masks[::-1]}.items():
        settings = config.settings("score", model=name, images=images, against=other)
        shown_as = {"title": f"{name} against {other}", "run": f"retrain-{began}-{role}"}
        results.append(stage("report", settings | shown_as))
        reports.append(results[-1].paths[0])
    scores: Mapping[str, Any] = results[-2].scores or {}
    against = scores["against"]
    row = against["overall"][config.metric]
    told = f"{config.metric} {shown(row['value'])} against {shown(row['other'])}"
    told += f", difference {shown(row['difference'])}, 95 % interval {between(row['interval'])}"
    told += f", on {against['num_images']} images"
    better = is_better(row, against["num_images"], config.least) and not failures(results)
    page = decision_page(challenger, stands.model, told, better, reports)
    BestEffort()(create_markdown_artifact, page, "retrain-decision", "Challenger and champion")
    if is_promoted(config, better, page):
        promote(Workspace.open(config.workspace), challenger, told, reports[0], after=stands)
        return f"promoted {challenger}, which was {'better' if better else 'not better'} than {stands.model}: {told}"
    return f"kept {stands.model}; {challenger} was {'better' if better else 'not better'}: {told}"


def is_better(row: Mapping[str, Any], num_images: int, least: float) -> bool:
    """True where the whole interval of the difference lies above `least`; never without one, nor of so few images that
    chance alone puts it there.
    """
    return num_images >= FEWEST and row["interval"] is not None and row["interval"][0] > least


def is_promoted(config: RetrainConfig, better: bool, page: str) -> bool:
    """Whether the challenger takes the champion's place: by its scores, or as a person says."""
    return says_yes(config, page) if config.promote == "ask" else config.promote == "better" and better


def says_yes(config: RetrainConfig, page: str) -> bool:
    """Pause the run, and ask; no answer in time is a no."""
    try:
        answer = pause_flow_run(
            wait_for_input=Answer.with_initial_data(description=page, promote=False),
            timeout=round(config.ask_hours * 3600),
            poll_interval=POLL_S,
        )
    except FlowPauseTimeout:
        return False
    return bool(answer.promote)


POLL_S = 10
"""Between two looks for an answer."""


def decision_page(challenger: str, stands: str, told: str, better: bool, reports: list[str]) -> str:
    """Markdown: both models, their difference, and where both reports lie."""
    said = "better beyond the interval" if better else "not better beyond the interval"
    rows = [f"| challenger | `{challenger}` | `{reports[0]}` |", f"| champion | `{stands}` | `{reports[1]}` |"]
    return "\n".join(
        [f"The challenger is **{said}**: {told}.", "", "| | model | report |", "| --- | --- | --- |", *rows]
    )
