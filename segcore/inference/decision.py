"""Decision: the logits of a pixel -> its class, and what else is asked for; on the device, after the halo is gone.

    logits (N, K, ...) -> mask (N, ...)                      thresholds, minimum confidence
                       -> layers (N, channels, ...)          probs, entropy, margin, variance, depth

Behind the K logits of the classes come those of border and depth, of a model that tells objects apart: the layer depth
is how deep in its object a pixel lies, times how surely it is not at the border. Behind all comes the variance, where a
layer needs it.

Layers are 8-bit (0..255 = 0..1) or float16. Entropy is divided by log K (Shannon), so that 1 is an even draw; margin is
how far the best probability lies above the second; variance is that of the probabilities over views, models and
samples, times 4, the largest there can be.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from segcore.classes import ClassInfo
from segcore.errors import ConfigError
from segcore.inference.model_grid import Pixels
from segcore.instances.rule import NUM_PARTS

MASK = "mask"
"""Key of the mask among the answers; the others are layers."""
Kind = Literal["probs", "entropy", "margin", "variance", "depth"]
KINDS: tuple[Kind, ...] = ("probs", "entropy", "margin", "variance", "depth")
Answers = dict[str, Pixels]
"""By name: the mask (...) of ids, and layers (channels, ...)."""


@dataclass(frozen=True)
class Decision:
    """What becomes of a pixel's logits."""

    num_classes: int
    ignore: int
    layers: tuple[Kind, ...] = ()
    layer_classes: tuple[int, ...] = ()
    """Of `probs`, in the order of its channels."""
    layer_dtype: str = "uint8"
    thresholds: tuple[tuple[int, float], ...] = ()
    """A class listed here is taken where its probability reaches its threshold, and nowhere else."""
    min_confidence: tuple[tuple[int, float], ...] = ()
    """A pixel whose class has a smaller probability becomes `ignore`."""

    @property
    def is_plain(self) -> bool:
        """True if the best class is all that is asked for."""
        return not (self.layers or self.thresholds or self.min_confidence)

    @property
    def needs_variance(self) -> bool:
        return "variance" in self.layers

    def num_channels(self, layer: str) -> int:
        return len(self.layer_classes) if layer == "probs" else 1

    def __call__(self, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """The answers for logits (N, K, ...), and what is behind them."""
        if self.is_plain:
            return {MASK: best_class(logits[:, : self.num_classes])}
        classes = logits[:, : self.num_classes].float()
        probs = classes.softmax(dim=1)
        found = {MASK: self._confident(self._chosen(classes, probs), probs)}
        for layer in self.layers:
            found[layer] = self._stored(self._layer(layer, probs, logits))
        return found

    def _chosen(self, logits: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
        if not self.thresholds:
            return best_class(logits)
        listed = dict(self.thresholds)
        floor = torch.finfo(logits.dtype).min
        others = logits.clone()
        others[:, list(listed)] = floor
        reached = torch.full_like(logits, floor)
        for index, threshold in listed.items():
            reached[:, index] = torch.where(probs[:, index] >= threshold, logits[:, index], floor)
        any_reached = reached.amax(dim=1) > floor
        return torch.where(any_reached, best_class(reached), best_class(others))

    def _confident(self, ids: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
        for index, least in self.min_confidence:
            ids = torch.where((ids == index) & (probs[:, index] < least), self.ignore, ids).to(ids.dtype)
        return ids

    def _layer(self, layer: Kind, probs: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        if layer == "probs":
            return probs[:, list(self.layer_classes)]
        if layer == "entropy":
            entropy = -(probs * probs.clamp_min(1e-30).log()).sum(dim=1, keepdim=True)
            return entropy / math.log(self.num_classes)
        if layer == "margin":
            best = probs.topk(2, dim=1).values
            return best[:, :1] - best[:, 1:]
        if layer == "depth":
            parts = logits[:, self.num_classes : self.num_classes + NUM_PARTS].float().sigmoid()
            return parts[:, 1:] * (1 - parts[:, :1])
        return 4 * logits[:, -1:].float()

    def _stored(self, values: torch.Tensor) -> torch.Tensor:
        if self.layer_dtype == "float16":
            return values.half()
        return values.clamp(0, 1).mul(255).round().to(torch.uint8)

    @property
    def unknown(self) -> float:
        """Of a layer, where no pixel was usable."""
        return 0 if self.layer_dtype == "uint8" else float("nan")

    def frozen(self) -> dict[str, Any]:
        """JSON for the plan: nothing for the best class alone."""
        if self.is_plain:
            return {}
        return {
            "layers": list(self.layers),
            "layer_classes": list(self.layer_classes),
            "layer_dtype": self.layer_dtype,
            "thresholds": [list(pair) for pair in self.thresholds],
            "min_confidence": [list(pair) for pair in self.min_confidence],
        }


def ids_of(by_name: Mapping[str, float], classes: tuple[ClassInfo, ...], option: str) -> tuple[tuple[int, float], ...]:
    """The same by class id, in the order of the ids.

    Raises:
        ConfigError: if the model has no class of that name, or a value is no probability.
    """
    known = {info.name: info.id for info in classes}
    for name, value in by_name.items():
        if name not in known:
            raise ConfigError(f"{option}: the model has the classes {', '.join(known)}, got '{name}'")
        if not 0 < value <= 1:
            raise ConfigError(f"{option}: expected a probability over 0 and up to 1 for {name}, got {value:g}")
    return tuple(sorted((known[name], value) for name, value in by_name.items()))


def best_class(logits: torch.Tensor) -> torch.Tensor:
    """The id of the highest logit (N, K, ...) -> (N, ...); ties go to the lowest id."""
    num_classes = logits.shape[1]
    dtype = torch.uint8 if num_classes <= 255 else torch.uint16
    classes_innermost = logits.stride(1) == 1
    if num_classes == 2:
        return (logits[:, 1] > logits[:, 0]).to(dtype)
    if logits.device.type != "cpu" or num_classes > 255 or (classes_innermost and num_classes > 4):
        return logits.argmax(dim=1).to(dtype)
    # On a CPU argmax over planes is many times slower than comparing them one by one.
    best = logits[:, 0].clone()
    ids = torch.zeros(best.shape, dtype=dtype)
    for k in range(1, num_classes):
        higher = logits[:, k] > best
        ids.masked_fill_(higher, k)
        torch.maximum(best, logits[:, k], out=best)
    return ids


def on_host(answers: Mapping[str, torch.Tensor]) -> Answers:
    """The answers as numpy arrays; of a GPU in pinned memory, after one wait for all of them."""
    if any(values.is_cuda for values in answers.values()):
        answers = _fetched(answers)
    return {name: np.asarray(values.cpu().numpy()) for name, values in answers.items()}


def _fetched(answers: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of a GPU's tensors, all of one device, on the host."""
    found = {name: torch.empty(values.shape, dtype=values.dtype, pin_memory=True) for name, values in answers.items()}
    for name, values in answers.items():
        found[name].copy_(values, non_blocking=True)
    # A wait that sleeps: one that spins takes the core from a reader.
    copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(values.device))
    copied.synchronize()
    return found
