"""Data: workspace -> *which images train and which validate*, their classes, and what pixels are normalised by."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from segcore.classes import ClassInfo
from segcore.config import TrainConfig
from segcore.errors import ConfigError
from segcore.models import find_architecture
from segcore.sampling import ClassIndex, EpochSampler, LabelledImage, RandomSampler, Sampler
from segcore.spatial import Spacing
from segcore.store import Image, Label, Workspace
from segcore.stretch import DTYPES, MAX_RATIO, stretch_of
from segcore.training.folds import fold_of
from segcore.training.objects import ObjectTruth, object_truth, objects_of, with_objects
from segcore.training.spacing import MAX_ENLARGED, asked, common, resampled
from segcore.training.statistics import Statistics
from segcore.training.weights import checked_names, image_weights

SPACING_TOLERANCE = 0.1
"""Of a model that was trained on pixels as they are."""


@dataclass(frozen=True)
class TrainingData:
    """The labelled images of a workspace at one level, all of the same bands, type and classes."""

    training: tuple[LabelledImage, ...]
    validation: tuple[LabelledImage, ...]
    classes: tuple[ClassInfo, ...]
    index: ClassIndex
    """Of the training images."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: tuple[float, ...] | None = None
    """Of the training images; None = all alike."""
    asked: Spacing | None = None
    """The pixel size that all images were resampled to; its origin says why."""

    objects: ObjectTruth | None = None
    """How objects are told apart, where that is the task: the training images then tell codes."""
    held_out_objects: Mapping[str, Label] = field(default_factory=dict)
    """Their ids in the targets of validation images, by image id, where these have them."""

    @property
    def level(self) -> int:
        """That the model reads of an image whose pixel size nobody knows."""
        return self.training[0].level if self.asked is None else 0

    @property
    def spacing_tolerance(self) -> float:
        """Relative difference of pixel size that predict is to accept: as much as training has seen, where it was asked
        for a size.
        """
        if self.asked is None:
            return SPACING_TOLERANCE
        steps = [step for image in (*self.training, *self.validation) for step in image.step]
        return max(MAX_ENLARGED - 1, *(abs(1 / step - 1) for step in steps))

    @property
    def stretch(self) -> bool:
        """True if each image is stretched to its own range."""
        return self.training[0].stretch is not None

    @property
    def bands(self) -> tuple[str, ...]:
        return self.training[0].image.channels

    @property
    def sizes(self) -> dict[str, int]:
        """The arguments of a network that the images decide."""
        return {"in_channels": len(self.mean), "num_classes": len(self.classes)}

    @property
    def dtype(self) -> str:
        return self.training[0].image.dtype.name

    @property
    def nodata(self) -> float | None:
        """Of integer images that all have the same; floats without a value are NaN by now."""
        values = {image.image.nodata for image in self.training}
        return values.pop() if len(values) == 1 and np.issubdtype(self.training[0].image.dtype, np.integer) else None

    @property
    def digest(self) -> str:
        """SHA-256 of which images train and validate, and of all that the store knows of them and their targets."""
        lines = [
            json.dumps([role, image.image_id, *(each.attributes for each in image.labels)], sort_keys=True)
            for role, images in (("train", self.training), ("val", self.validation))
            for image in images
        ] + [json.dumps([name, label.attributes], sort_keys=True) for name, label in self.held_out_objects.items()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def spacing(self) -> Spacing | None:
        """Pixel size of training, if all images have the same; else None."""
        if self.asked is not None:
            return self.asked
        first = self.training[0].image.spacing
        if first is None:
            return None
        for image in self.training:
            other = image.image.spacing
            if other is None or other.unit != first.unit or other.values.keys() != first.values.keys():
                return None
            if not all(np.isclose(size, other.values[axis], rtol=1e-3) for axis, size in first.values.items()):
                return None
        factor = 2 ** self.training[0].level
        values = {axis: size * factor if axis in "yx" else size for axis, size in first.values.items()}
        return Spacing(values=values, unit=first.unit, origin="training images")


def gather(
    workspace: Workspace, config: TrainConfig, fold: int | None = None, statistics: Statistics | None = None
) -> TrainingData:
    """Find, split, check and measure the labelled images.

    Args:
        workspace: where they are.
        config: what to train.
        fold: whose images are held out.
        statistics: that know the pixels of some of them already.

    Raises:
        ConfigError: if there are none, their bands, types or classes differ, or their targets teach nothing.
    """
    ids = [image_id for image_id in workspace.image_ids() if "target" in workspace.label_names(image_id)]
    labelled = [workspace.image(image_id) for image_id in ids]
    splits = group_splits(labelled)
    seen = [image for image in labelled if splits.get(image.image_id) != "test"]
    if not seen:
        raise ConfigError(
            f"workspace {workspace.uri}: no labelled images to train on; ingest some with --targets or a manifest"
        )
    checked_names(config.weights, labelled)
    images, asked_for = _labelled(workspace, config, seen)
    _check_alike(images)
    classes = _checked_classes(images)
    if fold is None:
        training, validation = split(images, splits, config.validation_share, config.seed)
    else:
        training, validation = split_by_fold(images, fold, config.folds, config.seed)
    if not training:
        raise ConfigError(f"workspace {workspace.uri}: all {len(images)} labelled images are held out, none trains")
    if config.task == "instances":
        for image in training:
            image.objects = objects_of(workspace, image.image_id)
    index = ClassIndex(training, len(classes), config.seed)
    occurring = index.occurring
    if not occurring:
        raise ConfigError(f"workspace {workspace.uri}: the targets of all {len(training)} training images are empty")
    if len(occurring) < 2:
        raise ConfigError(
            f"workspace {workspace.uri}: expected at least two classes in the targets, got nothing but class "
            f"{occurring[0]} ({classes[occurring[0]].name}) in all {len(training)} training images"
        )
    if is_stretched(training, config.stretch):
        for image in (*training, *validation):
            image.stretch = stretch_of(image.image)
    mean, std = (statistics or Statistics()).of(training)
    objects, held_out_objects = None, {}
    if config.task == "instances":
        detects = find_architecture(config.architecture).detects
        told = with_objects(workspace, images)
        objects = object_truth(told, classes, detects)
        held_out = {image.image_id for image in validation}
        held_out_objects = {each.image_id: each.objects for each in told if each.image_id in held_out and each.objects}
    weights = image_weights(config.weights, training)
    if not index.pixels[np.array(weights) > 0].any():
        raise ConfigError("weights: the targets of all training images with a weight above 0 are empty")
    return TrainingData(
        tuple(training), tuple(validation), classes, index, mean, std, weights, asked_for, objects, held_out_objects
    )


def _labelled(
    workspace: Workspace, config: TrainConfig, images: Sequence[Image]
) -> tuple[list[LabelledImage], Spacing | None]:
    """The images with their targets, at the level or the spacing that is asked for or chosen; and this spacing."""
    pairs = [(image, workspace.label(image.image_id, "target")) for image in images]
    if config.spacing is not None:
        wanted: Spacing | None = asked(config.spacing, images)
    else:
        wanted = common(images) if config.level is None else None
    if wanted is None:
        return [LabelledImage(image, target, config.level or 0) for image, target in pairs], None
    return [LabelledImage(image, target, grid=resampled(image, wanted)) for image, target in pairs], wanted


def sampler_of(config: TrainConfig, data: TrainingData, tile_px: int) -> Sampler:
    """Draws the run's training tiles; made when it is settled which images are kept in memory."""
    if config.sampling == "epoch":
        return EpochSampler(data.training, tile_px, config.seed, data.weights)
    return RandomSampler(data.training, data.index, tile_px, config.foreground_share, config.seed, data.weights)


def group_splits(images: Sequence[Image]) -> dict[str, str]:
    """The split of each image id that has one: the image's own, or else its group's.

    Raises:
        ConfigError: if two images of a group have different splits.
    """
    first: dict[str, Image] = {}
    splits: dict[str, str] = {}
    for image in images:
        if image.split is None:
            continue
        splits[image.image_id] = image.split
        other = first.setdefault(image.group, image) if image.group else image
        if other.split != image.split:
            raise ConfigError(
                f"group {image.group}: expected one split, got {other.split} of {other.image_id} and {image.split} of "
                f"{image.image_id}; give both the same in the manifest"
            )
    for image in images:
        if image.group in first:
            splits[image.image_id] = str(first[image.group].split)
    return splits


def split(
    images: Sequence[LabelledImage], splits: Mapping[str, str], validation_share: float, seed: int
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Training and validation images: by `splits` of their ids; those without one by group, seeded.

    Images of one group (a patient, a scene) never lie on both sides. A single group without a split trains.
    """
    training = [image for image in images if splits.get(image.image_id) == "train"]
    validation = [image for image in images if splits.get(image.image_id) == "val"]
    open_images = [image for image in images if splits.get(image.image_id) not in ("train", "val")]
    groups = sorted({image.image.group or image.image_id for image in open_images})
    num_held_out = max(1, round(validation_share * len(groups))) if len(groups) > 1 and not validation else 0
    shuffled = np.random.default_rng((seed, len(groups))).permutation(len(groups))
    held_out = {groups[number] for number in shuffled[:num_held_out]}
    for image in open_images:
        (validation if (image.image.group or image.image_id) in held_out else training).append(image)
    return training, validation


def split_by_fold(
    images: Sequence[LabelledImage], fold: int, folds: int, seed: int
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Training and validation images of one fold of a cross-validation, whatever their splits say.

    Raises:
        ConfigError: if there are fewer groups than folds.
    """
    groups = [image.image.group or image.image_id for image in images]
    dealt = fold_of(groups, folds, seed)
    training = [image for image, group in zip(images, groups, strict=True) if dealt[group] != fold]
    return training, [image for image, group in zip(images, groups, strict=True) if dealt[group] == fold]


def is_stretched(images: Sequence[LabelledImage], asked: str) -> bool:
    """Whether each image is stretched to its own range: as asked, or where their upper ends differ much.

    Raises:
        ConfigError: if it is asked for images whose type has no range.
    """
    dtype = images[0].image.dtype.name
    if asked == "on" and dtype not in DTYPES:
        raise ConfigError(f"stretch: expected images of {' or '.join(DTYPES)}, got {dtype}; train with stretch: off")
    if asked != "auto" or dtype not in DTYPES:
        return asked == "on"
    highs = [stretch_of(image.image).high for image in images]
    return max(highs) > MAX_RATIO * min(highs)


def _check_alike(images: Sequence[LabelledImage]) -> None:
    """Refuse images whose bands or types differ, naming two of them."""
    first = images[0]
    for image in images:
        for what, a, b in (
            ("bands", first.num_channels, image.num_channels),
            ("channels", ", ".join(first.image.channels), ", ".join(image.image.channels)),
            ("type", first.image.dtype, image.image.dtype),
        ):
            if a != b:
                raise ConfigError(
                    f"training images differ: {first.image_id} has {what} {a}, {image.image_id} has {b}; "
                    "train on images of one kind"
                )
        if image.level_yx != image.target.shape(image.level)[-2:]:
            raise ConfigError(
                f"image {image.image_id}: expected a target of {image.level_yx} px at level {image.level}, "
                f"got {image.target.shape(image.level)[-2:]}"
            )


def _checked_classes(images: Sequence[LabelledImage]) -> tuple[ClassInfo, ...]:
    """The classes that all targets share; ids must be 0, 1, 2..."""
    first = images[0]
    classes = tuple(sorted(first.target.classes, key=lambda info: info.id))
    names = [(info.id, info.name) for info in classes]
    for image in images:
        others = [(info.id, info.name) for info in sorted(image.target.classes, key=lambda info: info.id)]
        if others != names:
            raise ConfigError(
                f"targets differ: {first.image_id} has the classes {names}, {image.image_id} has {others}; "
                "ingest them with one class table"
            )
    ids = [info.id for info in classes]
    if ids != list(range(len(ids))) or len(ids) < 2:
        raise ConfigError(
            f"target of {first.image_id}: expected class ids 0, 1, 2... without gaps (two at least), got {ids}; "
            "number the ids so in the class table, with the numbers in the files under `value`"
        )
    return classes
