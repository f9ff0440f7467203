"""Stage: `train`, labelled images in a workspace -> a model package."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from segcore import __version__
from segcore.config import TrainConfig
from segcore.errors import ConfigError
from segcore.geometry import rounded_up
from segcore.inference.allocator import memory_is_kept
from segcore.inference.numerics import resolve_device
from segcore.measure import Peak
from segcore.models import ModelConfig, build_model
from segcore.models.card import PICTURE
from segcore.models.foreign import digest_of_init
from segcore.models.package import InputContract, ModelPackage, PackageInfo, write_package
from segcore.models.receptive import measured
from segcore.progress import SILENT, Progress
from segcore.results import StageResult
from segcore.sampling import keep_what_fits
from segcore.store import Workspace
from segcore.training.choice import Choice, choose
from segcore.training.data import TrainingData, gather
from segcore.training.example import example_picture
from segcore.training.folds import cross_validated
from segcore.training.learner import Learner
from segcore.training.loop import Training, Watch
from segcore.training.parallel import Group, joined
from segcore.training.runs import Log, Run
from segcore.training.validate import HeldOut, summary

PREDICT_TILE_PX = 512
PREDICT_HALO_PX = 32
NOT_RESOLVED = {"workspace", "run", "dry_run", "threads", "readers", "device", "mlflow"}
"""Settings that decide where and how fast a run goes, not what it is."""


def train(config: TrainConfig, progress: Progress = SILENT, watch: Watch | None = None) -> StageResult:
    """Train a model on the labelled images of a workspace, from scratch or from the run's last checkpoint.

    The same call again, after a kill, goes on; after the end it gives the package that stands. With `folds` there is a
    model, and a run, for each.

    Args:
        config: what to train, and how long.
        progress: listener.
        watch: asked after each validation whether it has seen enough; of a run without folds.

    Returns:
        `paths[0]` is the package, `details["model"]` its id, `scores` those of the best checkpoint on the held-out
        images.

    Raises:
        ConfigError: if there is nothing to learn from, or the settings don't fit the images.
        PlanMismatchError: if `config.run` was begun with other settings or data.
        LeaseHeldError: if another process is training the same run.
        StoppedError: if `watch` said so.
    """
    if config.folds:
        return cross_validated(config, lambda config, fold: _train(config, progress, fold))
    return _train(config, progress, watch=watch)


def _train(config: TrainConfig, progress: Progress, fold: int | None = None, watch: Watch | None = None) -> StageResult:
    """One model; of a cross-validation that which does not see the images of a fold."""
    began = time.monotonic()
    with (
        Peak() as peak,
        memory_is_kept(),
        _threads(config.threads),
        _kernels(config.deterministic),
        joined(resolve_device(config.device)) as (group, device),
    ):
        workspace = Workspace.open(config.workspace)
        data = gather(workspace, config, fold)
        choice = choose(config, data, device, group.size)
        model = _model_config(config, choice, data)
        _check_tile(choice, model)
        resolved = _resolved(config, choice, data, model) | {"device": device.type, "fold": fold}
        resolved["init_digest"] = digest_of_init(workspace, config.init)
        run_id = config.run or _run_id(config, resolved)
        run = Run(workspace, run_id if fold is None else f"{run_id}-fold{fold + 1}", group.writes)
        details: dict[str, Any] = {"run": run.run_id, "device": str(device), **_sizes(data)}
        if choice.reasons:
            details["chosen"] = choice.reasons
        if config.dry_run:
            return StageResult(stage="train", seconds=peak.seconds, peak_mib=peak.mib, details=details)
        if group.writes:
            run.agree(resolved)
        group.wait()
        run.agree(resolved)
        with run.lease():
            progress = Log(run, progress) if group.writes else SILENT
            for setting, reason in choice.reasons.items():
                progress.note(f"chosen: {setting} {reason}")
            info = PackageInfo(
                name=config.name, architecture=model, contract=_contract(data, model), classes=data.classes
            )
            keep_what_fits(data.training, config.cache_mib)
            learner = Learner(model, config, choice, data.mean, data.std, device, group)
            if config.init is not None and not run.has("last"):
                progress.note(learner.begin_with(workspace, config))
            limit_px = config.validation_mpx * 1e6
            held_out = HeldOut.of(info, learner, data.validation, limit_px, config.threads)
            training = Training((config, choice), data, learner, held_out, run, progress, group)
            training.clock.began, training.watch = began, watch
            training.fit()
            group.wait()  # for the best weights, which one process writes
            scores = _final_scores(data, training, run, group)
            details |= {"steps": training.state.step, "best_step": training.state.best_step}
            if group.writes:
                origin = resolved | {"run": run.run_id, "precision": training.state.precision}
                picture = _picture(training, run) if config.picture else None
                package = _published(workspace, _told(info, config, data, scores, origin), run, picture)
                progress.note(f"model {package.model_id}: {package.folder}")
                details |= {"model": package.model_id, "curve": run.describe("curve.csv")}
                paths = (package.folder, run.describe())
    return StageResult(
        stage="train",
        paths=paths if group.writes else (),
        scores=scores,
        seconds=peak.seconds,
        peak_mib=peak.mib,
        details=details,
    )


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    """Torch's CPU threads during a block: as wanted, or one per core that this process may use."""
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(wanted or cores)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _kernels(deterministic: bool) -> Iterator[None]:
    """During a block, asked for: only kernels that give the same numbers each time; those that cannot raise."""
    before = torch.are_deterministic_algorithms_enabled()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA starts
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _model_config(config: TrainConfig, choice: Choice, data: TrainingData) -> ModelConfig:
    arguments: dict[str, Any] = {"in_channels": len(data.mean), "num_classes": len(data.classes)}
    if config.architecture == "unet":
        arguments["channels"] = list(choice.channels)
    if config.dropout:
        arguments["dropout"] = config.dropout
    return ModelConfig(architecture=config.architecture, arguments=arguments)


def _stride(model: ModelConfig) -> int:
    with torch.device("meta"):
        return int(build_model(model).stride)  # type: ignore[arg-type]


def _check_tile(choice: Choice, model: ModelConfig) -> None:
    """Refuse a training tile that the model cannot take.

    Raises:
        ConfigError: naming the nearest that it can.
    """
    stride = _stride(model)
    if choice.tile_px % stride:
        nearest = max(stride, round(choice.tile_px / stride) * stride)
        raise ConfigError(
            f"tile_px {choice.tile_px}: expected a multiple of the model's stride {stride}; the nearest is {nearest}"
        )


def _resolved(config: TrainConfig, choice: Choice, data: TrainingData, model: ModelConfig) -> dict[str, Any]:
    """All that decides how the run goes, JSON."""
    return {
        **config.model_dump(mode="json", exclude=NOT_RESOLVED),
        **choice.as_json(),
        "model": model.model_dump(mode="json"),
        "data_digest": data.digest,
        "code_version": __version__,
        "torch_version": str(torch.__version__),
    }


def _run_id(config: TrainConfig, resolved: dict[str, Any]) -> str:
    """The same settings on the same data are the same run, so that a killed one is found again."""
    digest = hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()
    return f"{config.name}-{digest[:8]}"


def _sizes(data: TrainingData) -> dict[str, Any]:
    return {
        "training_images": len(data.training),
        "validation_images": len(data.validation),
        "training_mpx": round(float(data.index.pixels.sum()) / 1e6, 3),
        "classes": [info.name for info in data.classes],
    }


def _final_scores(data: TrainingData, training: Training, run: Run, group: Group) -> dict[str, Any]:
    """Scores of the best checkpoint, whose weights then are the learner's average; {} without held-out images."""
    best = run.load("best")
    assert best is not None, f"run {run.run_id} ended without a best checkpoint"
    training.learner.average.load_state_dict(best[0])
    kept = run.get("scores.json")
    if kept is not None:  # of a run that ended before: its package stands
        return dict(json.loads(kept))
    scores: dict[str, Any] = {}
    if data.validation:
        counts = training.held_out.limited(training.final_px()).count(best[0], group)
        scores = {**summary(counts, data.classes), "images": len(data.validation), "pixels": counts.counted_px}
    run.put("scores.json", json.dumps(scores, indent=2).encode() + b"\n")
    return scores


def _contract(data: TrainingData, model: ModelConfig) -> InputContract:
    """What the model will expect, and how far it looks: measured before the training, on weights of its own."""
    stride = _stride(model)
    contract = InputContract(
        bands=data.bands,
        dtype=data.dtype,
        spacing=data.spacing,
        spacing_tolerance=data.spacing_tolerance,
        level=data.level,
        stretch=data.stretch,
        mean=data.mean,
        std=data.std,
        tile_px=rounded_up(PREDICT_TILE_PX, stride),
        halo_px=rounded_up(PREDICT_HALO_PX, stride),
        stride=stride,
    )
    with torch.random.fork_rng(devices=[]):
        return measured(contract, build_model(model))


def _told(
    info: PackageInfo, config: TrainConfig, data: TrainingData, scores: dict[str, Any], resolved: dict[str, Any]
) -> PackageInfo:
    """With how the model scores, and what it was made from."""
    return info.model_copy(
        update={
            "scores": scores,
            "data": {"digest": data.digest, **_sizes(data)},
            "training": resolved,
            "seed": config.seed,
            "code_version": __version__,
        }
    )


def _picture(training: Training, run: Run) -> bytes | None:
    """The card's picture; made once, so that a finished run gives the package that stands on another device too."""
    picture = run.get(PICTURE) or example_picture(training.held_out, training.learner.average.state_dict())
    if picture is not None:
        run.put(PICTURE, picture)
    return picture


def _published(workspace: Workspace, info: PackageInfo, run: Run, picture: bytes | None) -> ModelPackage:
    """Write the package of the best checkpoint into the workspace."""
    best = run.load("best")
    assert best is not None, f"run {run.run_id} ended without a best checkpoint"
    return write_package(workspace.objects, "models", info, best[0], picture)
