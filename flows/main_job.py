"""The main job: sources with targets in; a model, masks, scores and a report out. What `segcore demo` runs."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.artifacts import first_picture, named_failures, publish, stages_told
from flows.ending import final_state
from flows.tasks import stage
from segcore.config import STAGES, build_config
from segcore.errors import SegcoreError
from segcore.results import StageResult

Settings = dict[str, Any]


@flow(name="main-job", persist_result=True, result_serializer="json")
def main_job(
    workspace: str,
    ingest: Settings,
    train: Settings | None = None,
    predict: Settings | None = None,
    score: Settings | None = None,
    report: Settings | None = None,
) -> State[Any]:
    """Ingest, train, predict, score, report: each a task, each resumable by running the job again.

    Args:
        workspace: folder or object-store prefix.
        ingest: settings of the stage, as in its YAML file.
        train: likewise.
        predict: likewise; the model is the one trained.
        score: likewise.
        report: likewise.
    """
    given = {"train": train or {}, "predict": predict or {}, "score": score or {}, "report": report or {}}
    where = {"workspace": workspace}
    results: list[StageResult] = []
    try:
        for name in ("predict", "score", "report"):  # a wrong key is told now, not after an hour of training
            check(name, {**where, "model": "to be trained", **given[name]})
        check("train", {**where, **given["train"]})
        results.append(stage("ingest", {**where, **ingest}))
        results.append(stage("train", {**where, **given["train"]}))
        chosen = {**where, "model": results[-1].details["model"]}
        results.append(stage("predict", {**chosen, **given["predict"]}))
        chosen["model"] = results[-1].details["name"]  # from here on it is the mask that counts
        results.append(stage("score", {**chosen, **given["score"]}))
        told = {"failures": named_failures(results), "stages": stages_told(results)}
        results.append(stage("report", {**chosen, **told, **given["report"]}))
    except SegcoreError as error:
        publish(results, flow="main-job")
        return final_state(results, stopped=str(error))
    publish(results, picture=first_picture(workspace, results), flow="main-job")
    return final_state(results)


def check(name: str, settings: Settings) -> None:
    """Refuse settings that the stage would refuse.

    Raises:
        ConfigError: which setting of which stage is wrong.
    """
    build_config(STAGES[name], settings, f"settings of {name}")
