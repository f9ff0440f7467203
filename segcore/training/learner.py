"""Learner: model, moving average, optimizer and loss scaler: all that one step of training changes."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from segcore.augment import Augmented
from segcore.config import TrainConfig
from segcore.inference.dropout import has_dropout
from segcore.inference.precision import faster_formats
from segcore.models import ModelConfig, build_model, find_architecture
from segcore.models.foreign import begin_with
from segcore.models.image_norm import varied
from segcore.models.layout import channels_last, laid_out
from segcore.sampling import Truth
from segcore.store import Workspace
from segcore.training.choice import Choice
from segcore.training.detection import targets_of
from segcore.training.losses import SegmentationLoss
from segcore.training.objects import ObjectLoss
from segcore.training.parallel import ALONE, Group

MOMENTUM = 0.9
_TORCH_TYPES = {"uint8", "int8", "int16", "int32", "float32"}


class Learner:
    """Holds the state of training on one device.

    `average` is the exponential moving average of the weights, over about the last tenth of the steps at the start; it
    is what is validated and kept: it scores better than the weights of any one step.

    Args:
        model: what to build; the weights are drawn from `config.seed` alone.
        config: optimizer, seed and precision.
        choice: rate and loss.
        mean: per band, in the image's values.
        std: per band, in the image's values.
        device: where the model lives.
        group: the processes that share each batch.
        nodata: of integer images: pixels that have it in every band become the mean, as they do in prediction.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: TrainConfig,
        choice: Choice,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        group: Group = ALONE,
        nodata: float | None = None,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            built = build_model(model)
        self.device, self._group, self._nodata = device, group, nodata
        self.model = laid_out(built.to(device))
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.model = group.synced(self.model)
        self._detected = choice.objects if find_architecture(model.architecture).detects else None
        self._seed, self._draws = config.seed, has_dropout(built) or self._detected is not None
        weights = torch.tensor(choice.class_weights, device=device) if choice.class_weights else None
        of_classes = SegmentationLoss(choice.loss, weights, config.label_smoothing)
        self._loss = of_classes if choice.objects is None else ObjectLoss(of_classes, choice.objects)
        self._mixes = choice.augments.shares.get("mixup", 0.0) > 0
        self._ema, self._max_gradient, self._norm_noise = config.ema, config.max_gradient, config.norm_noise
        self._frozen = False
        self.skipped = 0
        """Steps in a row that changed nothing, since their gradient was not finite."""
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device)
        self._std = torch.tensor(std, dtype=torch.float32, device=device)
        self.optimizer = _optimizer(self.model, config, choice)
        self.amp_dtype = _amp_dtype(config, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp_dtype == torch.float16)

    @property
    def precision(self) -> str:
        """What forward and backward are computed in; weights, loss and optimizer are float32."""
        return "float32" if self.amp_dtype is None else str(self.amp_dtype).removeprefix("torch.")

    def begin_with(self, workspace: Workspace, config: TrainConfig) -> str:
        """Take the weights that `config.init` names; the line that tells the user which.

        Raises:
            ConfigError: if nothing in it fits.
        """
        line = begin_with(self.model, workspace, config)
        assert line is not None, "no init was given"
        self.average.load_state_dict(self.model.state_dict())
        return line

    def to_input(self, pixels: npt.NDArray[Any]) -> torch.Tensor:
        """Pixels (N, C, [P,] Y, X) as read -> normalised float32 on the device; what has no value becomes the mean."""
        if pixels.dtype.name not in _TORCH_TYPES:
            pixels = pixels.astype(np.float32)
        tiles = self._on_device(torch.from_numpy(pixels)).to(torch.float32)
        missing = None if self._nodata is None else (tiles == self._nodata).all(dim=1, keepdim=True)
        mean, std = (values.reshape(-1, *(1,) * (tiles.ndim - 2)) for values in (self._mean, self._std))
        tiles = torch.nan_to_num((tiles - mean) / std, nan=0.0, posinf=0.0, neginf=0.0)
        if missing is not None:
            tiles.masked_fill_(missing, 0.0)
        return tiles.contiguous(memory_format=channels_last(tiles.ndim))

    def to_classes(self, target: Truth) -> torch.Tensor:
        """Class numbers (N, [P,] Y, X), or codes, -> int64 on the device."""
        return self._on_device(torch.from_numpy(target)).to(torch.int64)

    def _on_device(self, values: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cuda":
            values = values.pin_memory()
        return values.to(self.device, non_blocking=True)

    def step(
        self,
        batches: Sequence[Augmented],
        rate: float,
        number: int,
        *,
        settled: bool = False,
        frozen: bool = False,
    ) -> torch.Tensor:
        """One step: forward, loss and backward of each batch, update, average.

        A gradient with NaN or Inf changes nothing; `skipped` counts such steps in a row.

        Args:
            batches: this process's own normalised tiles and their classes; gradients are averaged.
            rate: learning rate.
            number: steps done before this one.
            settled: whether batch norm takes its running statistics, and leaves them as they are.
            frozen: whether the encoder stays as it is.

        Returns:
            The mean loss of the batches, on the device.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._set_modes(settled, frozen)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        with self._drawing(number):
            for place, batch in enumerate(batches):
                with varied(self.model, self._norm_noise, self._seeds(number, place, len(batch.tiles))):
                    loss = self._loss_of(batch) / len(batches)
                    self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        self._group.sum_gradients(self.model.parameters())
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._max_gradient or float("inf"))
        is_finite = bool(torch.isfinite(norm))
        if is_finite or self.scaler.is_enabled():  # the scaler skips by itself, and has to know that it did
            self.scaler.step(self.optimizer)
        self.scaler.update()
        if is_finite:
            self._follow(min(self._ema, (1 + number) / (10 + number)))
        else:
            self._restore_statistics()
        self.skipped = 0 if is_finite else self.skipped + 1
        return total

    def _seeds(self, number: int, place: int, own: int) -> list[tuple[int, ...]]:
        """Of the tiles of a batch that are this process's own: by seed, step, and place in the whole step."""
        first = (place * self._group.size + self._group.rank) * own
        return [(self._seed, number, first + tile) for tile in range(own)]

    def _loss_of(self, batch: Augmented) -> torch.Tensor:
        tiles = batch.tiles.contiguous(memory_format=channels_last(batch.tiles.ndim))
        gathered, other, share = self._group.gathered, batch.other_classes, batch.share
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            if self._detected is not None:  # each process has the objects of its own tiles
                own: torch.Tensor = self.model.loss(tiles, targets_of(batch.classes, self._detected))  # type: ignore[operator]
                return gathered(own[None]).mean()
            logits = self.model(tiles)
        if self._mixes and (other is None or share is None):  # another process may have mixtures
            other, share = batch.classes, torch.ones(len(batch.classes), device=batch.classes.device)
        if other is not None and share is not None:
            other, share = gathered(other), gathered(share)
        return self._loss(gathered(logits), gathered(batch.classes), other, share)

    def _set_modes(self, settled: bool, frozen: bool) -> None:
        """Training mode, but for batch norm that is to keep its statistics, and an encoder that is to stay."""
        self.model.train()
        encoder = [getattr(self.model, name) for name in getattr(self.model, "encoder", ())]
        if frozen != self._frozen:
            for part in encoder:
                part.requires_grad_(not frozen)
            self._frozen = frozen
        for part in [self.model] if settled else encoder if frozen else []:
            for module in part.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    @torch.no_grad()
    def _restore_statistics(self) -> None:
        """After a step that gave NaN: batch norm has seen it too, the average has not."""
        for value, mean in zip(self.model.buffers(), self.average.buffers(), strict=True):
            value.copy_(mean)

    @contextmanager
    def _drawing(self, number: int) -> Iterator[None]:
        """Dropout draws by seed, step and process, so that a run that goes on drops what an undisturbed one does.

        So does a detector, the regions that it learns from.
        """
        if not self._draws:
            yield
            return
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            drawn = np.random.SeedSequence((self._seed, number, self._group.rank)).generate_state(1, np.uint64)
            torch.manual_seed(int(drawn[0]))
            yield

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        """Move the average towards the model; counters are taken over."""
        pairs = zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True)
        for mean, value in pairs:
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors that decide how the run goes on."""
        held = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        held |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            held |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
        return held

    def scaler_state(self) -> dict[str, Any]:
        """The loss scaler's numbers, JSON; empty where there is none."""
        return dict(self.scaler.state_dict())

    def restore(self, tensors: Mapping[str, torch.Tensor], scaler_state: Mapping[str, Any]) -> None:
        """Go back to what `tensors` and `scaler_state` held."""
        self.model.load_state_dict(_below(tensors, "model."))
        self.average.load_state_dict(_below(tensors, "average."))
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in _below(tensors, "optimizer.").items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        if scaler_state:
            self.scaler.load_state_dict(dict(scaler_state))


def _optimizer(model: nn.Module, config: TrainConfig, choice: Choice) -> torch.optim.Optimizer:
    """Weights decay, biases and norms do not."""
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    other = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": other, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=choice.learning_rate, momentum=MOMENTUM, nesterov=True)
    return torch.optim.AdamW(groups, lr=choice.learning_rate)


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _amp_dtype(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """bfloat16 where CUDA or the CPU has it (a CPU then makes twice the steps), else CUDA's float16 with a scaler."""
    formats = faster_formats(device) if config.amp else []
    if "bfloat16" in formats:
        return torch.bfloat16
    return torch.float16 if formats else None
