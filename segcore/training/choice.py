"""Choice: what a run takes where nothing was asked for, and why; config, images -> *choice*.

The rules are few and can be read: what they give is written into the run's config, and told with its reason.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from segcore.augment import OFF, Augments, choose_augments, facts_of
from segcore.config import TrainConfig
from segcore.config.train import Loss
from segcore.errors import ConfigError
from segcore.geometry import rounded_up
from segcore.models import find_architecture, planes_of, takes
from segcore.spatial import METERS_PER_UNIT
from segcore.training.data import TrainingData
from segcore.training.objects import ObjectTruth

CPU_CHANNELS = (8, 16, 32, 64, 128)
GPU_CHANNELS = (32, 64, 128, 256, 256)
TILE_PX, SMALL_TILE_PX = 256, 128
"""The small one on a CPU for batch norm, which has to see several images in a step."""
STEP_PX = {"cpu": 2 * TILE_PX**2, "gpu": 16 * TILE_PX**2}
"""Pixels of all tiles of a step: on a CPU many small steps learn more in a few minutes than few large ones. But tiles
stay large, since the statistics that a network learns with are then nearly those of the image."""
BYTES_PER_PX = 6000
"""Of a GPU's memory in training, per pixel of a tile, for GPU_CHANNELS."""
MAX_DETECTED_PX = 512
"""Tile of a model that finds objects one by one, as large as those of prediction."""
PLANES = {"z": 16, "t": 4}
MAX_FLAT_STAGES = 4
LEARNING_RATES = {"adamw": 3e-3, "sgd": 0.05}
DETECTING = 0.1
"""Of the learning rate, for a model that finds objects one by one."""
LEAST_DEEPEST_PX = 4
"""The coarsest stage sees a tile as at least so many pixels a side."""
EFFECTIVE_BETA = 0.999


@dataclass(frozen=True)
class Choice:
    """What the config leaves open, settled."""

    channels: tuple[int, ...]
    """Of a U-Net's stages."""
    tile_px: int
    batch: int
    loss: dict[Loss, float]
    learning_rate: float
    norm: str = ""
    """Of the network, where it has several to choose from."""
    tile_planes: int = 1
    """More than one for a network of volumes or sequences."""
    flat_stages: int | None = None
    """Of a network of volumes; None = it has no such setting, or it was given."""
    class_weights: tuple[float, ...] = ()
    """In the loss, by class; none = all alike."""
    augments: Augments = OFF
    """What is done to the tiles."""
    objects: ObjectTruth | None = None
    """How objects are told apart, where that is the task."""
    reasons: dict[str, str] = field(default_factory=dict, compare=False)
    """By setting that was not given: what was chosen, and why."""

    def as_json(self) -> dict[str, Any]:
        """For the run's config: what decides how it goes."""
        return {
            "channels": list(self.channels),
            "tile_px": self.tile_px,
            "batch": self.batch,
            "loss": dict(self.loss),
            "learning_rate": self.learning_rate,
            "norm": self.norm,
            "tile_planes": self.tile_planes,
            "class_weights": list(self.class_weights),
            "augments": dict(self.augments.shares),
        }


def choose(config: TrainConfig, data: TrainingData, device: torch.device, processes: int = 1) -> Choice:
    """Settle what a config leaves open; a batch that so many processes share is a multiple of their number.

    Raises:
        ConfigError: if a class weight is given for a class that there is not, or an augmentation asked for that the
            images do not allow, or cannot be done in such a batch.
    """
    reasons: dict[str, str] = {}
    is_cpu = device.type == "cpu"
    kind = "a CPU" if is_cpu else f"{device.type.upper()}"
    sides = [side for image in data.training for side in image.shape_yx]
    if data.asked is not None and config.spacing is None:
        reasons["spacing"] = f"{data.asked.values['y']:g} {data.asked.unit}: one size for {data.asked.origin}"
    planes, flat_stages = _planes(config, data, reasons)
    norm = config.arguments.get("norm", "")
    if not norm and takes(config.architecture, "norm"):
        norm, reasons["norm"] = _norm(len(data.classes))
    tile_px, channels = config.tile_px, config.channels
    if tile_px is None:
        is_small = is_cpu and (norm != "image" or planes > 1)
        wanted, objects = (SMALL_TILE_PX if is_small else TILE_PX) // (1 if planes <= PLANES["t"] else 2), ""
        if data.objects is not None and find_architecture(config.architecture).detects:
            wanted, objects = _around(data.objects, wanted)
        tile_px = _tile_px(wanted, min(sides))
        reasons["tile_px"] = f"{tile_px}: for images of {min(sides)} px and more a side{objects}"
    if not channels and "channels" not in config.arguments and takes(config.architecture, "channels"):
        widest = CPU_CHANNELS if is_cpu else GPU_CHANNELS
        most = min(len(widest), len(find_architecture(config.architecture).arguments.model_fields["channels"].default))
        channels = widest[: max(2, min(most, 1 + int(math.log2(tile_px / LEAST_DEEPEST_PX))))]
        reasons["channels"] = f"{','.join(map(str, channels))}: for {kind}, and tiles of {tile_px} px"
    batch = config.batch
    if batch is None:
        mixes = config.augments.get("mixup", 0) or config.augments.get("cutmix", 0)
        batch, why = _batch(tile_px**2 * planes, device, processes * (2 if mixes else 1))
        reasons["batch"] = f"{batch}: {why}"
    shares = class_shares(data)
    loss = dict(config.loss)
    detects = find_architecture(config.architecture).detects
    if not loss and not detects:
        loss = {"ce": 1.0, "dice": 1.0}
        rarest = min((share, name) for name, share in shares.items())
        reasons["loss"] = (
            f"ce=1, dice=1: the Dice term counts every class alike, also {rarest[1]}, {100 * rarest[0]:.2g} % of pixels"
        )
    rate = config.learning_rate
    if rate is None:
        rate = LEARNING_RATES[config.optimizer] * (DETECTING if detects else 1)
        norms = "heads without norms" if detects else "a norm after each convolution"
        reasons["learning_rate"] = f"{rate:g}: for {config.optimizer} with {norms}"
    if "schedule" not in config.model_fields_set:
        span = f"{config.max_steps} steps" if config.max_steps is not None else f"{config.minutes:g} minutes"
        reasons["schedule"] = f"{config.schedule}: fitted to the {span} at hand"
    augments = OFF
    if config.augment:
        augments = choose_augments(config.augments, facts_of(data.training, data.classes, data.mean))
        reasons["augments"] = f"{augments}: {augments.reasons['flip']} (segcore preview shows more)"
        check_partners(augments, batch, processes)
    if data.objects is not None:
        reasons["objects"] = data.objects.why
    weights = class_weights(config, data)
    shape = (channels, tile_px, batch)
    return Choice(*shape, loss, rate, norm, planes, flat_stages, weights, augments, data.objects, reasons)


def check_partners(augments: Augments, batch: int, processes: int) -> None:
    """Refuse mixtures where some tiles of a batch have no partner in their own process.

    Raises:
        ConfigError: naming the nearest batch in which all have.
    """
    pairs = 2 * processes
    for name in ("mixup", "cutmix"):
        if augments.shares[name] and batch % pairs and (processes > 1 or batch == 1):
            nearest = max(pairs, round(batch / pairs) * pairs)
            raise ConfigError(
                f"{name}: it mixes pairs of tiles, got a batch of {batch} for {processes} processes; expected a "
                f"multiple of {pairs}, the nearest is {nearest}"
            )


def _norm(num_classes: int) -> tuple[str, str]:
    """Whose statistics the network normalises by, and why."""
    if num_classes == 2:
        return "image", "image: images differ in light, stain and scanner; each is taken by its own statistics"
    return (
        "batch",
        f"batch: {num_classes} classes differ in colour and brightness, which an image's own would take away",
    )


def _planes(config: TrainConfig, data: TrainingData, reasons: dict[str, str]) -> tuple[int, int | None]:
    """Planes of a tile, and stages that leave them apart.

    Raises:
        ConfigError: if the network takes planes that the images do not have, or none but several are asked for.
    """
    taken = planes_of(config.architecture, data.sizes | config.arguments)
    if taken is None:
        if config.tile_planes not in (None, 1):
            raise ConfigError(
                f"tile_planes {config.tile_planes}: {config.architecture} takes single planes; leave it out, or choose "
                "a network of volumes or sequences (`segcore models`)"
            )
        return 1, None
    axis, stride = taken
    for labelled in (*data.training, *data.validation):
        leading = [axis for axis in labelled.image.axes if axis not in "cyx"]
        if leading[-1:] != [axis]:
            flat = (
                "give arguments dims=2, with which it takes planes, or " if takes(config.architecture, "dims") else ""
            )
            raise ConfigError(
                f"architecture {config.architecture}: it takes tiles of {axis}, y, x, and image "
                f"{labelled.image_id} has the axes {', '.join(labelled.image.axes)}; {flat}choose another network"
            )
    if data.objects is not None:
        raise ConfigError(
            f"task instances: objects are told apart in planes, and {config.architecture} takes several; choose a "
            "network of planes (`segcore models`)"
        )
    planes = config.tile_planes
    if planes == 1:
        raise ConfigError(f"tile_planes 1: expected several for {config.architecture}, or a network of single planes")
    if planes is None:
        planes = rounded_up(PLANES[axis], stride)
        reasons["tile_planes"] = f"{planes}: of {axis}, in each tile"
    flat_stages = None
    if takes(config.architecture, "flat_stages") and "flat_stages" not in config.arguments:
        flat_stages, why = _flat_stages(data)
        reasons["flat_stages"] = why
    return planes, flat_stages


def _flat_stages(data: TrainingData) -> tuple[int, str]:
    """How often y and x are to be halved before pixels are as long as planes are apart; and why."""
    first = data.training[0].image
    own, read = first.spacing, data.asked
    if own is not None and read is None:
        read = own.at_level(data.level)
    if own is None or read is None or not {"z", "y", "x"} <= own.values.keys():
        return 0, "0: nothing tells how far planes are apart"
    unit = 1.0 if own.unit == read.unit else METERS_PER_UNIT[own.unit] / METERS_PER_UNIT[read.unit]
    ratio = own.values["z"] * unit / max(read.values["y"], read.values["x"])
    if not 0 < ratio < math.inf:
        return 0, "0: nothing tells how far planes are apart"
    stages = min(MAX_FLAT_STAGES, max(0, round(math.log2(ratio))))
    return stages, f"{stages}: planes are {ratio:.2g} times as far apart as pixels"


def _around(objects: ObjectTruth, px: int) -> tuple[int, str]:
    """Doubled until a tile holds most objects whole, wherever they lie; and why."""
    while px < min(MAX_DETECTED_PX, 2 * objects.widest_px):
        px *= 2
    return px, f", and objects of up to {objects.widest_px} px"


def _tile_px(wanted: int, smallest_side: int) -> int:
    """Halved until it is no larger than the smallest image's side, rounded up."""
    while wanted > 32 and wanted // 2 >= smallest_side:
        wanted //= 2
    return wanted


def _batch(px: int, device: torch.device, processes: int) -> tuple[int, str]:
    """Tiles of so many pixels a step, and why.

    By what a GPU has, not by what is free of it: a run that goes on has to find the same.
    """
    if device.type == "cpu":
        batch = rounded_up(max(2, STEP_PX["cpu"] // px), processes)
        return batch, "small steps, and many of them, learn most in little time on a CPU"
    batch, why = rounded_up(max(2, STEP_PX["gpu"] // px), processes), "keeps a GPU busy"
    if device.type == "cuda":
        _, memory = torch.cuda.mem_get_info(device)
        fitting = max(1, int(0.8 * memory / (BYTES_PER_PX * px))) * processes
        if fitting < batch:
            return fitting, f"as many as fit {memory >> 20} MiB{' each' if processes > 1 else ''}"
    return batch, why


def class_shares(data: TrainingData) -> dict[str, float]:
    """Share of the usable training pixels, by class name."""
    pixels = data.index.pixels.sum(axis=0)
    return {info.name: float(n / pixels.sum()) for info, n in zip(data.classes, pixels, strict=True)}


def class_weights(config: TrainConfig, data: TrainingData) -> tuple[float, ...]:
    """Weights of the classes in the loss, of mean 1 over the classes that occur; () = all alike.

    `inverse` is one over a class's share. `effective` is (1 - b) / (1 - b^n) with b = 0.999 (Cui et al.,
    "Class-Balanced Loss Based on Effective Number of Samples", 2019); n counts thousandths of all pixels, since
    neighbouring pixels are no samples of their own. A class that does not occur gets 1.

    Raises:
        ConfigError: if a weight is given for a class that there is not, or is negative.
    """
    names = [info.name for info in data.classes]
    for name, weight in config.class_weights.items():
        if name not in names:
            raise ConfigError(f"class_weights: expected a class of {', '.join(names)}, got '{name}'")
        if not 0 <= weight < math.inf:
            raise ConfigError(f"class_weights: expected 0 or more for {name}, got {weight}")
    weights = _weights_by_share(config.class_weighting, list(class_shares(data).values()))
    for name, weight in config.class_weights.items():
        weights[names.index(name)] = weight
    return () if all(weight == 1.0 for weight in weights) else tuple(weights)


def _weights_by_share(kind: str, shares: Sequence[float]) -> list[float]:
    if kind == "none":
        return [1.0] * len(shares)
    if kind == "inverse":
        raw = [1 / share if share else 0.0 for share in shares]
    else:
        raw = [(1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA ** (1000 * share)) if share else 0.0 for share in shares]
    occurring = [weight for weight in raw if weight]
    mean = sum(occurring) / len(occurring)
    return [weight / mean if weight else 1.0 for weight in raw]
