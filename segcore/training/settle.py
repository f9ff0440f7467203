"""Settle: all that decides a run, before its first step; config, workspace -> *settled*."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from segcore import __version__
from segcore.config import TrainConfig
from segcore.errors import ConfigError
from segcore.geometry import rounded_up
from segcore.instances.rule import NUM_PARTS
from segcore.models import (
    ModelConfig,
    axes_of,
    build_model,
    checked_arguments,
    find_architecture,
    has_weights,
    strides_of,
    weightless,
)
from segcore.models.foreign import digest_of_init
from segcore.models.package import InputContract, PackageInfo
from segcore.models.receptive import measured
from segcore.scoring.counts import foreground_rows
from segcore.store import Workspace
from segcore.training.bands import with_bands
from segcore.training.choice import Choice, choose
from segcore.training.data import TrainingData, gather
from segcore.training.detection import check_detector
from segcore.training.parallel import Group
from segcore.training.statistics import Statistics

PREDICT_TILE_PX = 512
PREDICT_HALO_PX, MAX_HALO_PX = 32, 256
"""The second for a model that finds objects one by one, whose halo is as wide as they are."""
PREDICT_FRAMES = 16
"""Of a tile of a sequence, at least: over so many is carried what a network remembers; it learns from fewer."""
SLIM = 4
"""Channels of each stage where only the reach of a network is measured."""
LEARNING = {
    *("task", "channels", "dropout", "norm_noise", "init", "unsafe_weights", "freeze", "tile_px", "tile_planes"),
    *("batch", "accumulate", "minutes", "max_steps", "sampling", "foreground_share", "weights"),
    *("validate_every", "patience"),
    *("loss", "class_weighting", "class_weights", "label_smoothing"),
    *("optimizer", "learning_rate", "weight_decay", "schedule", "warm_up", "ema", "max_gradient"),
    *("augment", "augments", "amp"),
}
"""Settings of how a model learns: in vain for one without weights."""
NOT_RESOLVED = {
    *("workspace", "run", "dry_run", "threads", "readers", "device", "mlflow"),  # where and how fast a run goes
    *("init", "weights"),  # may hold a password or a patient's name: a digest decides
    "arguments",  # stand with the model, checked
}
"""Settings that do not decide what a run is, or not as they are written."""


@dataclass(frozen=True)
class Settled:
    """A run that is about to begin, or to go on."""

    config: TrainConfig
    workspace: Workspace
    data: TrainingData
    choice: Choice
    model: ModelConfig
    network: nn.Module
    """The model without its weights: on the meta device."""
    device: torch.device
    group: Group
    fold: int | None = None
    """Of a cross-validation."""

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """All that decides how the run goes, JSON."""
        how = {
            **self.choice.as_json(),
            "init_digest": digest_of_init(self.workspace, self.config.init),
            "weights_digest": _digest(self.config.weights),
        }
        return {
            **self.config.model_dump(mode="json", exclude=NOT_RESOLVED if self.learns else NOT_RESOLVED | LEARNING),
            **(how if self.learns else {}),
            "name": self.config.model_name,
            "device": self.device.type,
            "fold": self.fold,
            "model": self.model.model_dump(mode="json"),
            "data_digest": self.data.digest,
            "resampled_to": None if self.data.asked is None else self.data.asked.model_dump(mode="json"),
            "code_version": __version__,
            "torch_version": str(torch.__version__),
        }

    @cached_property
    def learns(self) -> bool:
        """Whether the model has weights; a classic method has none."""
        return has_weights(self.network)

    @property
    def run_id(self) -> str:
        """The same settings on the same data are the same run, so that a killed one is found again."""
        name = self.config.run or f"{self.config.model_name}-{_digest(self.resolved)[:8]}"
        return name if self.fold is None else f"{name}-fold{self.fold + 1}"

    @property
    def sizes(self) -> dict[str, Any]:
        """Of the data."""
        return {
            "training_images": len(self.data.training),
            "validation_images": len(self.data.validation),
            "training_mpx": round(float(self.data.index.pixels.sum()) / 1e6, 3),
            "classes": [info.name for info in self.data.classes],
        }

    @property
    def details(self) -> dict[str, Any]:
        """For the stage's result."""
        chosen = {"chosen": self.choice.reasons} if self.choice.reasons else {}
        return {"run": self.run_id, "device": str(self.device), **self.sizes, **chosen}

    @cached_property
    def info(self) -> PackageInfo:
        """What the package will say of the model before it is trained."""
        return PackageInfo(
            name=self.config.model_name,
            architecture=self.model,
            contract=_contract(self.data, self.model, self.network, self.choice.tile_planes),
            classes=self.data.classes,
            instances=None if self.data.objects is None else self.data.objects.rule,
        )


def settle(
    config: TrainConfig,
    device: torch.device,
    group: Group,
    fold: int | None = None,
    statistics: Statistics | None = None,
) -> Settled:
    """Look at the labelled images, and choose what the config leaves open; `statistics` may know some of them already.

    Raises:
        ConfigError: if there is nothing to learn from, or the settings don't fit the images.
    """
    workspace = Workspace.open(config.workspace)
    data = gather(workspace, config, fold, statistics)
    _check_validated(config, data)
    check_detector(config)
    config, named = with_bands(config, data.bands)
    if config.task == "instances" and not has_weights(_of_classes(config, data)):
        check_nothing_learns(config)  # before its answers are counted with those for objects
    choice = choose(config, data, device, group.size)
    model = network_of(config, choice, data)
    network = weightless(model)
    if has_weights(network):
        _check_tile(choice, network)
        _check_encoder(config, network)
    else:
        check_nothing_learns(config)
        kept = {name: why for name, why in choice.reasons.items() if name == "spacing"}
        choice = replace(choice, reasons=kept | named)
    return Settled(config, workspace, data, choice, model, network, device, group, fold)


def _check_validated(config: TrainConfig, data: TrainingData) -> None:
    """Refuse what waits for scores, where no image is held out.

    Raises:
        ConfigError: naming the setting.
    """
    waits = {"patience": bool(config.patience), "schedule plateau": config.schedule == "plateau"}
    for setting in (name for name, is_asked in waits.items() if is_asked and not data.validation):
        raise ConfigError(
            f"{setting}: it follows the scores of held-out images, and there are none; give some images the split val, "
            "or images of more than one group"
        )


def _digest(value: Any) -> str:
    """SHA-256 of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def network_of(config: TrainConfig, choice: Choice, data: TrainingData) -> ModelConfig:
    """The network with all of its arguments, those that nobody gave too.

    Raises:
        ConfigError: if there is no such architecture, or it does not take an argument.
    """
    num_logits = len(data.classes) + (NUM_PARTS if data.objects is not None else 0)
    arguments: dict[str, Any] = {"in_channels": len(data.mean), "num_classes": num_logits, **config.arguments}
    if choice.channels:
        arguments["channels"] = list(choice.channels)
    if find_architecture(config.architecture).detects:
        (arguments["background"],) = set(range(len(data.classes))) - set(foreground_rows(data.classes))
    if choice.flat_stages is not None:
        arguments["flat_stages"] = choice.flat_stages
    if choice.norm:
        arguments["norm"] = choice.norm
    if config.dropout:
        arguments["dropout"] = config.dropout
    return ModelConfig(architecture=config.architecture, arguments=checked_arguments(config.architecture, arguments))


def _of_classes(config: TrainConfig, data: TrainingData) -> nn.Module:
    """The network with an answer for each class, whatever the task."""
    return weightless(ModelConfig(architecture=config.architecture, arguments=data.sizes | config.arguments))


def check_nothing_learns(config: TrainConfig) -> None:
    """Refuse settings of how to learn for a model that has nothing to.

    Raises:
        ConfigError: naming them.
    """
    vain = [name for name in type(config).model_fields if name in LEARNING & config.model_fields_set]
    if vain:
        raise ConfigError(
            f"{', '.join(vain)}: {config.architecture} has no weights, and nothing to learn; leave it out, and search "
            f"its arguments with segcore tune (segcore models {config.architecture})"
        )


def _check_encoder(config: TrainConfig, network: nn.Module) -> None:
    """Refuse to freeze what there is not.

    Raises:
        ConfigError: naming the architecture.
    """
    if config.freeze and not getattr(network, "encoder", ()):
        raise ConfigError(f"freeze: expected an architecture with an encoder, got {config.architecture}; leave it out")


def _check_tile(choice: Choice, network: nn.Module) -> None:
    """Refuse a training tile that the model cannot take.

    Raises:
        ConfigError: naming the nearest that it can.
    """
    stride, stride_planes = strides_of(network)
    planes = [("tile_planes", choice.tile_planes, stride_planes)] if len(axes_of(network)) > 2 else []
    for what, side, step in (("tile_px", choice.tile_px, stride), *planes):
        if side % step:
            nearest = max(step, round(side / step) * step)
            raise ConfigError(
                f"{what} {side}: expected a multiple of the model's stride {step}; the nearest is {nearest}"
            )
    if choice.norm == "image" and choice.tile_px < 2 * stride:
        raise ConfigError(
            f"tile_px {choice.tile_px}: image norm takes the statistics of a tile, of a single pixel at the stride "
            f"{stride}; give {2 * stride} or more"
        )


def _contract(data: TrainingData, model: ModelConfig, network: nn.Module, planes: int) -> InputContract:
    """What the model will expect, and how far it looks: measured before the training, on weights of its own.

    One without weights gets fractions of the range of the images' type, in which its arguments are.
    """
    stride, stride_planes = strides_of(network)
    detects = find_architecture(model.architecture).detects
    halo_px = data.objects.widest_px if detects and data.objects is not None else PREDICT_HALO_PX
    predict_px = PREDICT_TILE_PX if planes == 1 else PREDICT_TILE_PX // 2
    if axes_of(network)[0] == "t":
        planes = max(planes, PREDICT_FRAMES)
    mean, std = data.mean, data.std
    if not has_weights(network):
        top = float(np.iinfo(data.dtype).max) if np.issubdtype(data.dtype, np.integer) else 1.0
        mean, std = (0.0,) * len(data.mean), (top,) * len(data.mean)
    contract = InputContract(
        axes=axes_of(network),
        tile_planes=planes,
        halo_planes=0 if planes == 1 else rounded_up(planes // 4, stride_planes),
        stride_planes=stride_planes,
        bands=data.bands,
        dtype=data.dtype,
        spacing=data.spacing,
        spacing_tolerance=data.spacing_tolerance,
        level=data.level,
        stretch=data.stretch,
        mean=mean,
        std=std,
        tile_px=rounded_up(predict_px, stride),
        halo_px=rounded_up(min(halo_px, MAX_HALO_PX), stride),
        stride=stride,
        whole_objects=detects,
    )
    if getattr(network, "sees_whole_tile", False):  # some of these take seconds to build
        return measured(contract, network)
    with torch.random.fork_rng(devices=[]):
        return measured(contract, build_model(_slim(model)))


def _slim(model: ModelConfig) -> ModelConfig:
    """The same layers with few channels, which see as far; a volume is measured in a fraction of the time."""
    channels = model.arguments.get("channels")
    if not isinstance(channels, list):
        return model
    return model.model_copy(update={"arguments": model.arguments | {"channels": [SLIM] * len(channels)}})
