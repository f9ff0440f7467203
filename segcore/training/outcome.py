"""Outcome: what a run that has ended leaves: scores of its best weights, a picture, the model package."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from segcore import __version__
from segcore.drift.looking import reference_of
from segcore.models.card import PICTURE
from segcore.models.package import DRIFT, ModelPackage, unwritten, write_package
from segcore.training.example import example_picture
from segcore.training.loop import Training
from segcore.training.runs import Run
from segcore.training.settle import Settled
from segcore.training.validate import summary


@dataclass(frozen=True)
class Outcome:
    """Of one run."""

    scores: dict[str, Any]
    """Of the best weights on the held-out images; {} without any."""
    package: ModelPackage | None
    """None in a process that does not write."""


def concluded(settled: Settled, training: Training, run: Run) -> Outcome:
    """Score the best weights, and make them a package; scores and picture are made once, so that a finished run gives
    the package that stands on another device too.
    """
    best = run.load("best")
    assert best is not None, f"run {run.run_id} ended without a best checkpoint"
    weights = best[0]
    training.learner.average.load_state_dict(weights)
    scores = _scores(settled, training, run, weights)
    if not settled.group.writes:
        return Outcome(scores, None)
    info = settled.info.model_copy(
        update={
            "scores": scores,
            "data": {"digest": settled.data.digest, **settled.sizes},
            "training": settled.resolved | {"run": run.run_id, "precision": training.state.precision},
            "seed": settled.config.seed,
            "code_version": __version__,
        }
    )
    beside = {PICTURE: _picture(training, run, weights) if settled.config.picture else None}
    beside[DRIFT] = _reference(settled, training, run, weights)
    there = {name: data for name, data in beside.items() if data is not None}
    package = write_package(settled.workspace.objects, "models", info, weights, there)
    training.progress.note(f"model {package.model_id}: {package.folder}")
    return Outcome(scores, package)


def _scores(settled: Settled, training: Training, run: Run, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    kept = run.get("scores.json")
    if kept is not None:
        return dict(json.loads(kept))
    scores: dict[str, Any] = {}
    if settled.data.validation:
        tally = training.held_out.limited(training.final_px()).count(weights, settled.group)
        images = {"images": len(settled.data.validation), "pixels": tally.counts.counted_px}
        scores = {**summary(tally, settled.data.classes), **images}
    run.put("scores.json", json.dumps(scores, indent=2).encode() + b"\n")
    return scores


def _picture(training: Training, run: Run, weights: dict[str, torch.Tensor]) -> bytes | None:
    picture = run.get(PICTURE) or example_picture(training.held_out, weights)
    if picture is not None:
        run.put(PICTURE, picture)
    return picture


def _reference(settled: Settled, training: Training, run: Run, weights: dict[str, torch.Tensor]) -> bytes | None:
    """Statistics of the training images, spread evenly over them."""
    images, most = settled.data.training, settled.config.drift_images
    kept = run.get(DRIFT)
    if kept is not None or not most:
        return kept
    chosen = [images[k].image for k in np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).astype(int))]
    found = reference_of(unwritten(settled.info, weights), chosen, settled.device, training.progress)
    if found is None:
        return None
    data = found.model_dump_json().encode() + b"\n"
    run.put(DRIFT, data)
    return data
