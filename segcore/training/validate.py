"""Validate: model + held-out images -> *counts*, by the pipeline of predict, so that scores are those users get."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from segcore.classes import ClassInfo
from segcore.geometry import Ints
from segcore.inference.decision import MASK, Kind
from segcore.inference.job import ignore_of
from segcore.inference.model_grid import Pixels
from segcore.inference.run import Answered
from segcore.inference.trial import Part, Trial
from segcore.instances.stitch import objects_of
from segcore.models.package import PackageInfo, unwritten
from segcore.sampling import LabelledImage
from segcore.scoring.counts import Counter, Counts, class_scores, foreground_rows, overall_scores, plain
from segcore.scoring.instances import InstanceCounts, Objects, Overlaps, instance_ratios
from segcore.store import Label
from segcore.training.learner import Learner
from segcore.training.parallel import ALONE, Group

OBJECT_SCORES = ("pq", "ap50")
"""Of the objects of all classes together."""


@dataclass(frozen=True)
class Tally:
    """What a validation counted."""

    counts: Counts
    """Of pixels."""
    objects: InstanceCounts | None = None
    """Of objects, where those of a target are known."""

    @classmethod
    def zeros(cls, num_classes: int, tells_objects: bool) -> "Tally":
        return cls(Counts.zeros(num_classes), InstanceCounts.zeros(num_classes) if tells_objects else None)

    def __add__(self, other: "Tally") -> "Tally":
        objects = self.objects
        if objects is not None and other.objects is not None:
            objects = objects + other.objects
        return Tally(self.counts + other.counts, objects)

    def of_all(self, group: Group) -> "Tally":
        """The sum over all processes; of the counts of pixels that which scores are made of."""
        objects = self.objects
        if objects is not None:
            objects = InstanceCounts(*(group.summed(getattr(objects, name)) for name in objects.__slots__))
        return Tally(replace(self.counts, confusion=group.summed(self.counts.confusion)), objects)

    @property
    def object_scores(self) -> dict[str, float | None]:
        """By name; None without any object."""
        if self.objects is None:
            return {}
        found = instance_ratios(self.objects)
        return {name: plain(found[name][0]) for name in OBJECT_SCORES}


@dataclass(frozen=True)
class HeldOut:
    """The images that are not learnt from, and what of them a validation looks at."""

    info: PackageInfo
    """Of the model that is trained: what it expects, and its classes."""
    trial: Trial
    parts: tuple[Part, ...]
    targets: dict[str, Label]
    """By image id."""
    objects: Mapping[str, Label]
    """Ids of the targets' objects, by image id; of task instances, where a target has them."""

    @classmethod
    def of(
        cls,
        info: PackageInfo,
        learner: Learner,
        images: Sequence[LabelledImage],
        limit_px: float,
        threads: int = 0,
        objects: Mapping[str, Label] = MappingProxyType({}),
    ) -> "HeldOut":
        """Whole images if they fit the limit, else shards spread evenly over all of them (at least one).

        Args:
            info: of the model that is trained.
            learner: tells device, precision and the names of the weights.
            images: held out.
            limit_px: pixels that a validation looks at, about.
            threads: that run the model; 0 = as many as predict takes.
            objects: of the images, by their ids.

        Raises:
            ContractError: if an image is not of the kind that the model is trained for.
        """
        package = unwritten(info, learner.average.state_dict())
        layers: tuple[Kind, ...] = ("depth",) if objects else ()
        trial = Trial(package, [image.image for image in images], learner.device, learner.precision, threads, layers)
        targets = {image.image_id: image.target for image in images}
        return cls(info, trial, tuple(trial.parts(limit_px)), targets, objects)

    def limited(self, limit_px: float) -> "HeldOut":
        """The same with another limit."""
        return replace(self, parts=tuple(self.trial.parts(limit_px)))

    @property
    def num_px(self) -> int:
        return sum(part.num_px for part in self.parts)

    def count(self, weights: Mapping[str, torch.Tensor], group: Group = ALONE) -> Tally:
        """What the masks that weights give, and their objects, have in common with the targets.

        Pixels that are not usable, or ignored, do not count.

        Args:
            weights: by the names of the model's `state_dict`.
            group: the processes that share the work; each gets the counts of all.
        """
        package = unwritten(self.info, weights)
        ignore, lock = ignore_of(package), threading.Lock()
        counter = Counter(range(len(package.classes)), ignore)
        found: list[tuple[str, Ints, Tally]] = []

        def tell(shard: Answered) -> None:
            image_id = shard.run.image.image_id
            target = self.targets[image_id]
            ids = target.read(shard.window, shard.run.grid.level)
            known = np.where(ids == target.ignore, ignore, ids).astype(np.uint16)
            mask = shard.answers[MASK].astype(np.uint16)
            own = Tally(counter.count(known, mask), self._objects_of(shard, counter, known, mask))
            with lock:
                found.append((image_id, shard.shard, own))

        self.trial.run(package, self.parts[group.rank :: group.size], tell)
        # Threads end in any order, and sums of IoU are floats: the same order is the same score, to the last bit.
        found.sort(key=lambda one: one[:2])
        zeros = Tally.zeros(len(package.classes), bool(self.objects))
        return sum((own for _, _, own in found), zeros).of_all(group)

    def _objects_of(self, shard: Answered, counter: Counter, known: Pixels, mask: Pixels) -> InstanceCounts | None:
        """The objects of a shard against those of its target; what a shard's rim cuts is cut in both."""
        image_id, grid = shard.run.image.image_id, shard.run.grid
        if self.info.instances is None or image_id not in self.objects:
            return None
        target_ids = self.objects[image_id].read(shard.window, grid.level)
        is_foreground = np.isin(mask, foreground_rows(self.info.classes))  # ids are rows, in training
        planes = (-1, *shard.window.shape[-2:])
        depth, rule = shard.answers["depth"].reshape(planes), self.info.instances.scaled(grid.step)
        overlaps = Overlaps(counter.num_classes)
        numbers = counter.numbers(known, mask, np.ones(mask.shape, np.bool_))
        parts = (each.reshape(planes) for each in (target_ids, numbers[0], is_foreground, numbers[1]))
        for ids, number, foreground, mask_number, deep in zip(*parts, depth, strict=True):
            overlaps.add(Objects(ids, number), Objects(objects_of(foreground, deep, rule), mask_number))
        return overlaps.counts()


def summary(tally: Tally, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """Scores as the package and the result show them: overall, and per class by name."""
    confusion = tally.counts.confusion
    per_class = class_scores(confusion)
    return {
        **overall_scores(confusion, foreground_rows(classes)),
        **tally.object_scores,
        "classes": {info.name: scores for info, scores in zip(classes, per_class, strict=True)},
    }


def main_score(tally: Tally, classes: Sequence[ClassInfo]) -> float:
    """What the best checkpoint is chosen by, see `main_of`."""
    return main_of(summary(tally, classes))[1]


def main_of(scores: Mapping[str, Any]) -> tuple[str, float]:
    """By which of its scores a model is judged, in words, and its value; higher is better.

    PQ, where it tells objects apart and the held-out targets number some; else the mean IoU of the classes that are not
    background.
    """
    name, words = ("pq", "PQ") if "pq" in scores else ("foreground_iou", "foreground IoU")
    return words, float(scores.get(name) or 0.0)
