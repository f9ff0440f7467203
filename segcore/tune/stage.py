"""Stage: `tune`, labelled images in a workspace -> the settings that train the best model, and that model."""

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import torch

from segcore.config import TrainConfig, TuneConfig, build_config
from segcore.errors import ConfigError, PlanMismatchError, SegcoreError, StoreError
from segcore.inference.numerics import resolve_device
from segcore.measure import Peak
from segcore.models.foreign import digest_of_init
from segcore.models.package import read_package
from segcore.progress import SILENT, Progress
from segcore.results import StageResult
from segcore.store import Workspace
from segcore.training import StoppedError, train
from segcore.training.bands import with_bands
from segcore.training.choice import Choice, choose
from segcore.training.data import gather
from segcore.training.runs import Run
from segcore.training.settle import NOT_RESOLVED, network_of
from segcore.training.statistics import Statistics
from segcore.training.validate import main_of
from segcore.tune.space import checked_space, with_own_search
from segcore.tune.words import command, shown, start_values

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

    from segcore.tune.study import Study, Values


def tune(config: TuneConfig, progress: Progress = SILENT) -> StageResult:
    """Run trials until the study has as many as asked for; each is a training run of its own.

    The same call again, after a kill, goes on: a trial that was running continues from its checkpoint. Several
    processes, on any machines that share the workspace, may call it at once, and share the trials.

    Args:
        config: what to search, and what each trial trains.
        progress: listener.

    Returns:
        `details` has the best trial, a row for each trial, and the command that trains with the best settings; `scores`
        and `paths` are those of the best trial's package. None of them if no trial is complete yet.

    Raises:
        ConfigError: if there is nothing to learn from, or to score on, or the architecture does not take what is
            searched.
        PlanMismatchError: if `config.study` was begun with other settings or data.
        SegcoreError: if Optuna is not installed, or all trials failed.
    """
    study_class = _study_class()
    _check_alone(config)
    config = with_own_search(config)
    space = checked_space(config)
    with Peak() as peak:
        workspace = Workspace.open(config.workspace)
        statistics = Statistics()
        data = gather(workspace, config, statistics=statistics)
        if not data.validation:
            raise ConfigError(f"workspace {workspace.uri}: no image is held out, so that trials cannot be compared")
        named, _ = with_bands(config, data.bands, {name.removeprefix("arguments.") for name in space})
        choice = choose(named, data, resolve_device(config.device))
        resolved = config.model_dump(mode="json", exclude=NOT_RESOLVED | {"trials", "workers", "study"})
        resolved |= {"search": config.searched, "arguments": config.arguments, "data_digest": data.digest}
        resolved |= {"name": config.model_name}
        resolved["init_digest"] = digest_of_init(workspace, config.init)
        name = config.study or _study_id(config, resolved)
        if config.dry_run:
            details = {"study": name, "num_trials": config.trials, "search": config.searched}
            return StageResult(stage="tune", seconds=peak.seconds, peak_mib=peak.mib, details=details)
        Run(workspace, name).agree(resolved, option="--study")
        study = study_class(workspace, name, space, config.seed)
        start = start_values(config, choice, network_of(named, choice, data).arguments)
        _run_trials(study, config, choice, start, statistics, progress)
        told = _told(workspace, study, config, choice)
    return told.model_copy(update={"seconds": peak.seconds, "peak_mib": peak.mib})


def _study_class() -> "type[Study]":
    """Optuna is optional, and so is the module that imports it."""
    try:
        from segcore.tune.study import Study
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise SegcoreError("tune: a study needs the extra `tune`: pip install 'segcore[tune]'") from error
    return Study


def _check_alone(config: TuneConfig) -> None:
    if config.workers > 1:
        raise ConfigError(
            f"workers {config.workers}: one process runs one trial at a time; run the flow `tune`, or call this in as "
            "many processes, with workers: 1"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("tune: torchrun's processes train one model together; give --workers instead, or none")


def _study_id(config: TuneConfig, resolved: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()
    return f"{config.model_name}-tune-{digest[:8]}"


def _run_trials(
    study: "Study",
    config: TuneConfig,
    choice: Choice,
    start: dict[str, Any],
    statistics: Statistics,
    progress: Progress,
) -> None:
    """Claim, train and tell until nothing is left to claim."""
    progress.start("tune", config.trials, "trials")
    progress.note(f"study {study.name}: {', '.join(f'{name}={text}' for name, text in config.searched.items())}")
    known = 0
    while True:
        finished = sum(trial.state.is_finished() for trial in study.trials(config.trials))
        progress.advance(finished - known)
        known = finished
        with study.claimed(config.trials) as claimed:
            if claimed is None:
                return
            trial, values = study.begin(claimed, start)
            progress.note(f"trial {trial.number}: {shown(values)}")
            _run_trial(study, trial, _settings(config, choice, values), statistics, progress)


def _settings(config: TuneConfig, choice: Choice, values: "Values") -> dict[str, Any]:
    return config.train_settings(values, {"loss": {str(name): weight for name, weight in choice.loss.items()}})


def _run_trial(
    study: "Study", trial: "Trial", settings: dict[str, Any], statistics: Statistics, progress: Progress
) -> None:
    """Train, or go on with it, and tell how it ended; a trial whose settings do not work is no reason to stop."""
    from optuna.trial import TrialState

    run = f"{study.name}-{trial.number}"

    def watch(fraction: float, score: float) -> bool:
        progress.note(f"trial {trial.number}: {100 * fraction:.0f} %, score {score:.4f}")
        return study.watch(trial, fraction, score)

    try:
        result = train(build_config(TrainConfig, settings | {"run": run}, run), watch=watch, statistics=statistics)
    except StoppedError:
        study.tell(trial, TrialState.PRUNED, None, {"run": run})
        progress.note(f"trial {trial.number}: below the median, ended early")
    except (SegcoreError, torch.OutOfMemoryError) as error:
        if isinstance(error, StoreError) and not isinstance(error, PlanMismatchError):
            raise
        reason = " ".join(str(error).split())
        study.tell(trial, TrialState.FAIL, None, {"run": run, "error": reason})
        progress.note(f"trial {trial.number} failed: {reason}")
    else:
        words, score = main_of(result.scores or {})
        study.tell(trial, TrialState.COMPLETE, score, {"run": run, "model": result.details["model"]})
        progress.note(f"trial {trial.number}: complete, {words} {score:.4f}")


def _told(workspace: Workspace, study: "Study", config: TuneConfig, choice: Choice) -> StageResult:
    """How the study stands.

    Raises:
        SegcoreError: if all trials failed.
    """
    trials = [trial for trial in study.trials(config.trials) if trial.state.name != "WAITING"]
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    details: dict[str, Any] = {"study": study.name, "trials": [_row(trial) for trial in trials]}
    if not complete:
        if trials and all(trial.state.name == "FAIL" for trial in trials):
            reason = trials[0].user_attrs["error"]
            raise SegcoreError(f"study {study.name}: all {len(trials)} trials failed; trial 0: {reason}")
        return StageResult(stage="tune", details=details)
    best = max(complete, key=lambda trial: (trial.value, -trial.number))
    package = read_package(workspace, best.user_attrs["model"])
    details |= {
        "best": _row(best),
        "model": package.model_id,
        "command": command(_settings(config, choice, best.params)),
    }
    return StageResult(stage="tune", paths=(package.folder,), scores=package.info.scores, details=details)


def _row(trial: "FrozenTrial") -> dict[str, Any]:
    row = {
        "trial": trial.number,
        "state": "failed" if trial.state.name == "FAIL" else trial.state.name.lower(),
        "score": trial.value,
        **trial.user_attrs,
    }
    return row | {"params": dict(trial.params)}
