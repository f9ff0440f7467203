"""Folds: cross-validation; each image is held out once, and every model is scored on images that it never saw."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from segcore.config import TrainConfig
from segcore.errors import ConfigError
from segcore.results import StageResult

TrainOne = Callable[[TrainConfig, int], StageResult]
"""Trains the model of one fold, or finds it trained."""


def fold_of(groups: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """The fold of each group, dealt out like cards after a seeded shuffle: sizes differ by one at most.

    Args:
        groups: of the images; a group (a patient, a scene) is never divided.
        folds: how many.
        seed: of the run.

    Raises:
        ConfigError: if there are fewer groups than folds.
    """
    names = sorted(set(groups))
    if len(names) < folds:
        raise ConfigError(
            f"folds {folds}: expected as many groups of images, got {len(names)}; give folds: {len(names)} or fewer"
        )
    shuffled = np.random.default_rng((seed, len(names), folds)).permutation(len(names))
    return {names[number]: place % folds for place, number in enumerate(shuffled)}


def cross_validated(config: TrainConfig, train_one: TrainOne) -> StageResult:
    """One model for each fold; a fold that is finished already costs nothing.

    Args:
        config: what to train; `minutes` and `max_steps` are those of each model.
        train_one: trains one.

    Returns:
        `scores` are means over the folds, with the standard deviation and the scores of each; `paths` the packages.
    """
    results = [train_one(config, fold) for fold in range(config.folds)]
    each = [result.scores or {} for result in results]
    details: dict[str, Any] = {"folds": [result.details for result in results]}
    if not config.dry_run:
        details["models"] = [result.details["model"] for result in results if "model" in result.details]
    return StageResult(
        stage="train",
        paths=tuple(path for result in results for path in result.paths[:1]),
        scores=summarised(each) if any(each) else None,
        seconds=round(sum(result.seconds for result in results), 3),
        peak_mib=max(result.peak_mib for result in results),
        details=details,
    )


def summarised(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean of every score, overall and by class, `deviation` = standard deviation between folds, and `per_fold`.

    A score that a fold lacks (a class that its images do not have) is left out of the mean.
    """
    numbers = {name for scores in each for name, value in scores.items() if isinstance(value, int | float)}
    names = [name for name in each[0] if name in numbers and name not in _SUMS]
    found: dict[str, Any] = {name: _mean(scores[name] for scores in each) for name in names}
    found["deviation"] = {name: _deviation([scores[name] for scores in each]) for name in names}
    found["classes"] = {
        label: {name: _mean(scores["classes"][label][name] for scores in each) for name in of_class}
        for label, of_class in each[0].get("classes", {}).items()
    }
    found |= {name: sum(scores.get(name, 0) for scores in each) for name in _SUMS}
    return found | {"per_fold": [dict(scores) for scores in each]}


_SUMS = ("images", "pixels")


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _deviation(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if len(known) > 1 else None
