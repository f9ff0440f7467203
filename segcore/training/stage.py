"""Stage: `train`, labelled images in a workspace -> a model package."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segcore.config import TrainConfig
from segcore.inference.allocator import memory_is_kept
from segcore.inference.numerics import resolve_device
from segcore.measure import Peak
from segcore.progress import SILENT, Progress
from segcore.results import StageResult
from segcore.sampling import keep_what_fits
from segcore.training.folds import cross_validated
from segcore.training.learner import Learner
from segcore.training.loop import Training, Watch
from segcore.training.outcome import concluded
from segcore.training.parallel import joined, processes_here
from segcore.training.runs import Log, Run
from segcore.training.settle import Settled, settle
from segcore.training.statistics import Statistics
from segcore.training.validate import HeldOut


def train(
    config: TrainConfig,
    progress: Progress = SILENT,
    watch: Watch | None = None,
    statistics: Statistics | None = None,
) -> StageResult:
    """Train a model on the labelled images of a workspace, from scratch or from the run's last checkpoint.

    The same call again, after a kill, goes on; after the end it gives the package that stands. With `folds` there is a
    model, and a run, for each.

    Args:
        config: what to train, and how long.
        progress: listener.
        watch: asked after each validation whether it has seen enough; of a run without folds.
        statistics: that know the pixels of some of the images already, of trainings before.

    Returns:
        `paths[0]` is the package, `details["model"]` its id, `scores` those of the best checkpoint on the held-out
        images.

    Raises:
        ConfigError: if there is nothing to learn from, or the settings don't fit the images.
        PlanMismatchError: if `config.run` was begun with other settings or data.
        LeaseHeldError: if another process is training the same run.
        StoppedError: if `watch` said so.
    """
    statistics = statistics or Statistics()
    if config.folds:
        return cross_validated(config, lambda config, fold: _train(config, progress, statistics, fold))
    return _train(config, progress, statistics, watch=watch)


def _train(
    config: TrainConfig,
    progress: Progress,
    statistics: Statistics,
    fold: int | None = None,
    watch: Watch | None = None,
) -> StageResult:
    """One model; of a cross-validation that which does not see the images of a fold."""
    began = time.monotonic()
    with (
        Peak() as peak,
        memory_is_kept(),
        _threads(config.threads),
        _kernels(config.deterministic),
        joined(resolve_device(config.device)) as (group, device),
    ):
        settled = settle(config, device, group, fold, statistics)
        run = Run(settled.workspace, settled.run_id, group.writes)
        details = settled.details
        learner, told = _learner(settled, run)
        if config.dry_run:
            return StageResult(stage="train", seconds=peak.seconds, peak_mib=peak.mib, details=details)
        if group.writes:
            run.agree(settled.resolved)
        group.wait()
        run.agree(settled.resolved)
        with run.lease():
            training = _begun(settled, run, learner, Log(run, progress) if group.writes else SILENT)
            if told is not None:
                training.progress.note(told)
            training.clock.began, training.watch = began, watch
            training.fit() if settled.learns else training.keep()
            group.wait()  # for the best weights, which one process writes
            outcome = concluded(settled, training, run)
    if outcome.package is not None:
        details |= {"model": outcome.package.model_id}
        details |= {"curve": run.describe("curve.csv")} if settled.learns else {}
    return StageResult(
        stage="train",
        paths=(outcome.package.folder, run.describe()) if outcome.package is not None else (),
        scores=outcome.scores,
        seconds=peak.seconds,
        peak_mib=peak.mib,
        details={**details, "steps": training.state.step, "best_step": training.state.best_step},
    )


def _learner(settled: Settled, run: Run) -> tuple[Learner, str | None]:
    """The model with random weights or those to begin with, and a line that tells which; nothing is written yet.

    Raises:
        SegcoreError: if the weights to begin with cannot be read, or do not fit.
    """
    config, choice, data = settled.config, settled.choice, settled.data
    if not settled.learns:
        config = config.model_copy(update={"amp": False})  # pixels with fewer bits would be all that it brings
    learner = Learner(
        settled.model, config, choice, data.mean, data.std, settled.device, settled.group, data.nodata
    )  # fmt: skip
    begins = config.init is not None and not run.has("last")
    return learner, learner.begin_with(settled.workspace, config) if begins else None


def _begun(settled: Settled, run: Run, learner: Learner, progress: Progress) -> Training:
    """What trains, as the run's last checkpoint has it, if there is one."""
    config, data = settled.config, settled.data
    for setting, reason in settled.choice.reasons.items():
        progress.note(f"chosen: {setting} {reason}")
    for image in (*data.training, *data.validation):
        image.tile_planes = settled.choice.tile_planes
    keep_what_fits(data.training, config.cache_mib)
    limit_px, objects = config.validation_mpx * 1e6, data.held_out_objects
    held_out = HeldOut.of(settled.info, learner, data.validation, limit_px, config.threads, objects)
    return Training((config, settled.choice), data, learner, held_out, run, progress, settled.group)


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    """Torch's CPU threads during a block: as wanted, or one per core, shared evenly by the run's processes."""
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(wanted or max(1, cores // processes_here()))
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
