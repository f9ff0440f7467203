"""Validate: model + held-out images -> *counts*, by the pipeline of predict, so that scores are those users get."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from segcore.classes import ClassInfo
from segcore.inference.decision import MASK
from segcore.inference.job import ignore_of
from segcore.inference.run import Answered
from segcore.inference.trial import Part, Trial
from segcore.models.package import PackageInfo, unwritten
from segcore.sampling import LabelledImage
from segcore.scoring.counts import Counter, Counts, class_scores, foreground_rows, overall_scores
from segcore.store import Label
from segcore.training.learner import Learner
from segcore.training.parallel import ALONE, Group


@dataclass(frozen=True)
class HeldOut:
    """The images that are not learnt from, and what of them a validation looks at."""

    info: PackageInfo
    """Of the model that is trained: what it expects, and its classes."""
    trial: Trial
    parts: tuple[Part, ...]
    targets: dict[str, Label]
    """By image id."""

    @classmethod
    def of(
        cls, info: PackageInfo, learner: Learner, images: Sequence[LabelledImage], limit_px: float, threads: int = 0
    ) -> "HeldOut":
        """Whole images if they fit the limit, else shards spread evenly over all of them (at least one).

        Args:
            info: of the model that is trained.
            learner: tells device, precision and the names of the weights.
            images: held out.
            limit_px: pixels that a validation looks at, about.
            threads: that run the model; 0 = as many as predict takes.

        Raises:
            ContractError: if an image is not of the kind that the model is trained for.
        """
        package = unwritten(info, learner.average.state_dict())
        trial = Trial(package, [image.image for image in images], learner.device, learner.precision, threads)
        return cls(info, trial, tuple(trial.parts(limit_px)), {image.image_id: image.target for image in images})

    def limited(self, limit_px: float) -> "HeldOut":
        """The same with another limit."""
        return replace(self, parts=tuple(self.trial.parts(limit_px)))

    @property
    def num_px(self) -> int:
        return sum(part.num_px for part in self.parts)

    def count(self, weights: Mapping[str, torch.Tensor], group: Group = ALONE) -> Counts:
        """Confusion counts of the masks that weights give; pixels that are not usable, or ignored, do not count.

        Args:
            weights: by the names of the model's `state_dict`.
            group: the processes that share the work; each gets the counts of all.
        """
        package = unwritten(self.info, weights)
        ignore, lock = ignore_of(package), threading.Lock()
        counter = Counter(range(len(package.classes)), ignore)
        total = Counts.zeros(len(package.classes))

        def tell(shard: Answered) -> None:
            nonlocal total
            target = self.targets[shard.run.image.image_id]
            ids = target.read(shard.window, shard.run.grid.level)
            known = np.where(ids == target.ignore, ignore, ids).astype(np.uint16)
            counts = counter.count(known, shard.answers[MASK].astype(np.uint16))
            with lock:
                total += counts

        self.trial.run(package, self.parts[group.rank :: group.size], tell)
        return replace(total, confusion=group.summed(total.confusion))


def summary(counts: Counts, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """Scores as the package and the result show them: overall, and per class by name."""
    per_class = class_scores(counts.confusion)
    return {
        **overall_scores(counts.confusion, foreground_rows(classes)),
        "classes": {info.name: scores for info, scores in zip(classes, per_class, strict=True)},
    }


def main_score(counts: Counts, classes: Sequence[ClassInfo]) -> float:
    """What the best checkpoint is chosen by: mean IoU of the classes that are not background; higher is better."""
    value = overall_scores(counts.confusion, foreground_rows(classes))["foreground_iou"]
    return 0.0 if value is None else value
