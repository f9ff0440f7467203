"""Parallel: several processes, one for each GPU, that train one model as a single process with the whole batch would.

    torchrun --nproc-per-node 2 -m flows train --workspace W

    process 0   tiles 0, 1 -> logits --+--> loss of all 4 tiles --> gradient of tiles 0, 1 --+--> the same step
    process 1   tiles 2, 3 -> logits --+    (each computes it)  --> gradient of tiles 2, 3 --+    in both

Each process cuts and augments its own tiles. All of them read all regions: the tiles of a region (up to 64) lie in as
many batches, so that each process has some of every region. To read a part alone it would take another order of tiles
for each number of processes, and so another loss. Logits and classes are exchanged before the loss, so that terms per
region are those of the whole batch, and batch norm takes the statistics of the whole batch. Process 0 alone writes.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from segcore.errors import ConfigError
from segcore.models import has_weights


@dataclass(frozen=True)
class Group:
    """The processes of one run; of a run without torchrun there is one."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        return self.rank == 0

    def share_of(self, batch: int) -> range:
        """Which tiles of a batch are this process's own.

        Raises:
            ConfigError: if they cannot be shared evenly.
        """
        if batch % self.size:
            nearest = max(self.size, round(batch / self.size) * self.size)
            raise ConfigError(
                f"batch {batch}: expected a multiple of the {self.size} processes that share it; the nearest is "
                f"{nearest}"
            )
        own = batch // self.size
        return range(self.rank * own, (self.rank + 1) * own)

    def gathered(self, own: torch.Tensor) -> torch.Tensor:
        """(N, ...) of this process -> those of all; the gradient goes to this process's own part alone."""
        if self.size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own.detach().contiguous())
        parts[self.rank] = own
        return torch.cat(parts)

    def sum_gradients(self, weights: Iterable[torch.Tensor]) -> None:
        """Add up the gradients of all processes, in place."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.ravel() for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def agreed(self, value: float) -> float:
        """What process 0 says: clocks differ."""
        if self.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, src=0)
        return said[0]

    def summed(self, counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The sum over all processes."""
        if self.size == 1:
            return counts
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, counts)
        return np.asarray(sum(parts))

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def synced(self, model: nn.Module) -> nn.Module:
        """With batch norms that take the statistics of the whole batch."""
        if self.size == 1 or not has_weights(model):
            return model
        if next(model.parameters()).device.type == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return,no-untyped-call]
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, _BatchNorm):
                    setattr(module, name, SyncedBatchNorm.of(child))
        return model


ALONE = Group()


def processes_here() -> int:
    """Processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Group, torch.device]]:
    """The group that torchrun made, and this process's own device; alone without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _summed(values: torch.Tensor) -> torch.Tensor:
    return _Sum.apply(values)  # type: ignore[no-any-return,no-untyped-call]


class SyncedBatchNorm(_BatchNorm):
    """Batch norm over the batches of all processes on CPUs; torch's own is for CUDA alone."""

    @classmethod
    def of(cls, norm: _BatchNorm) -> "SyncedBatchNorm":
        """One with the weights and statistics of another, as the very same tensors."""
        found = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        found.load_state_dict(norm.state_dict())
        found.weight, found.bias = norm.weight, norm.bias
        return found.train(norm.training)

    def _check_input_dim(self, input: torch.Tensor) -> None:  # noqa: A002 - torch's name
        assert input.ndim >= 3, f"batch norm takes (N, C, ...), got {tuple(input.shape)}"

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """As torch's, but for where the statistics come from."""
        if not self.training:
            return super().forward(input)
        axes = (0, *range(2, input.ndim))
        values = input.float()
        own = torch.stack((values.sum(axes), values.square().sum(axes)))
        number = torch.tensor(float(input.numel() // input.shape[1]), device=input.device)
        sums, count = _summed(own), _summed(number)
        mean = sums[0] / count
        variance = (sums[1] / count - mean.square()).clamp_min(0)
        with torch.no_grad():
            assert self.running_mean is not None, "statistics are tracked"
            assert self.running_var is not None, "statistics are tracked"
            assert self.num_batches_tracked is not None, "statistics are tracked"
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
            self.num_batches_tracked += 1
        # With the statistics given, torch's own kernel would not pass a gradient to them.
        shape = (1, -1, *(1,) * (input.ndim - 2))
        normal: torch.Tensor = (values - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(input.dtype)
