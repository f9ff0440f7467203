"""The stages as Prefect flows: `segcore STAGE --prefect`, a deployment, or Prefect's own form run them.

Each is the same recipe, on the stage's own config, which is also the form that Prefect's pages show.
"""

from typing import Any

from prefect import Flow, flow
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.artifacts import publish
from flows.ending import final_state
from flows.naming import run_name
from flows.tasks import StageStoppedError, stage
from flows.trials import alone, run_workers
from segcore.config import (
    CleanConfig,
    DriftConfig,
    ExplainConfig,
    ExportConfig,
    IngestConfig,
    MeasureConfig,
    PredictConfig,
    RefineConfig,
    ReportConfig,
    ScoreConfig,
    StageConfig,
    TrainConfig,
    TuneConfig,
)


def single_stage(name: str, config: StageConfig) -> State[Any]:
    """Run one stage in the current flow, show what it did, and say how the flow ends."""
    try:
        result = stage(name, config.model_dump(mode="json", exclude_unset=True))
    except StageStoppedError as stopped:
        return Failed(message=str(stopped).removeprefix(f"{name}: "), data=stopped.__cause__)
    publish([result], flow=name)
    return final_state([result])


@flow(name="ingest", flow_run_name=run_name, persist_result=True, result_serializer="json")
def ingest(config: IngestConfig) -> State[Any]:
    """Sources -> images in the workspace, with their targets."""
    return single_stage("ingest", config)


@flow(name="train", flow_run_name=run_name, persist_result=True, result_serializer="json")
def train(config: TrainConfig) -> State[Any]:
    """Labelled images -> a model package."""
    return single_stage("train", config)


@flow(name="tune", flow_run_name=run_name, persist_result=True, result_serializer="json")
def tune(config: TuneConfig) -> State[Any]:
    """Labelled images -> the settings that train the best model, and that model."""
    if config.workers > 1 and not config.dry_run:
        run_workers(config)
    return single_stage("tune", alone(config))  # finds all trials finished, or goes on with what workers left


@flow(name="predict", flow_run_name=run_name, persist_result=True, result_serializer="json")
def predict(config: PredictConfig) -> State[Any]:
    """Images and a model package -> masks."""
    return single_stage("predict", config)


@flow(name="explain", flow_run_name=run_name, persist_result=True, result_serializer="json")
def explain(config: ExplainConfig) -> State[Any]:
    """Masks and their model -> which band mattered, and where it looked."""
    return single_stage("explain", config)


@flow(name="drift", flow_run_name=run_name, persist_result=True, result_serializer="json")
def drift(config: DriftConfig) -> State[Any]:
    """Images and a model package -> how unusual each image is to the model."""
    return single_stage("drift", config)


@flow(name="refine", flow_run_name=run_name, persist_result=True, result_serializer="json")
def refine(config: RefineConfig) -> State[Any]:
    """Masks -> masks without specks and holes, and their objects."""
    return single_stage("refine", config)


@flow(name="score", flow_run_name=run_name, persist_result=True, result_serializer="json")
def score(config: ScoreConfig) -> State[Any]:
    """Masks and targets -> scores."""
    return single_stage("score", config)


@flow(name="measure", flow_run_name=run_name, persist_result=True, result_serializer="json")
def measure(config: MeasureConfig) -> State[Any]:
    """Masks and their objects -> a table of objects, and totals."""
    return single_stage("measure", config)


@flow(name="report", flow_run_name=run_name, persist_result=True, result_serializer="json")
def report(config: ReportConfig) -> State[Any]:
    """Scores and pictures -> report.html and report.json."""
    return single_stage("report", config)


@flow(name="export", flow_run_name=run_name, persist_result=True, result_serializer="json")
def export(config: ExportConfig) -> State[Any]:
    """Masks -> files in the geometry of their sources."""
    return single_stage("export", config)


@flow(name="clean", flow_run_name=run_name, persist_result=True, result_serializer="json")
def clean(config: CleanConfig) -> State[Any]:
    """Old masks, runs and reports -> room."""
    return single_stage("clean", config)


FLOWS: dict[str, Flow[..., Any]] = {
    "ingest": ingest,
    "train": train,
    "tune": tune,
    "predict": predict,
    "explain": explain,
    "drift": drift,
    "refine": refine,
    "score": score,
    "measure": measure,
    "report": report,
    "export": export,
    "clean": clean,
}
