"""Receptive: how far a model looks beyond a tile's write window, measured on the model itself; model -> *contract*.

How: NaN at a pixel reaches every output that reads it. Sums, products, convolutions (a weight of 0 too), pooling,
normalisation, interpolation and the usual activations give NaN for NaN, so nothing that an output depends on is missed,
whatever the weights are and whichever paths are dead for one input: what is found is an upper bound, and for layers
that read only what they use it is the field itself. (Two things would hide it: code that replaces NaN, and a layer that
reads no pixel of a probe because its kernel has no tap in the middle and is wider than the probe.)

    probe       |NaN|.................|     |.................|NaN|     one cell of the stride at either end
    outputs     |NaN NaN NaN NaN|.....|     |.....|NaN NaN NaN NaN|     reach = cells beyond the NaN's own

A probe is long on one axis and narrow on the others, and doubles until its far end stays finite. Where it never does,
the model has global context. So has one whose logits depend on the place in the tile or on its size (positional
encodings, bilinear upsampling with `align_corners`): that is found by comparing the logits of a part with those of the
whole. The reference for the arithmetic of fields: Araujo et al., "Computing Receptive Fields of Convolutional Neural
Networks" (Distill, 2019).
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from segcore.errors import ConfigError
from segcore.geometry import Ints
from segcore.models.classic.base import ClassicModel
from segcore.models.image_norm import standing
from segcore.models.info import InputContract
from segcore.models.package import ModelPackage

MAX_PX, MAX_PLANES = 1024, 256
"""A field that reaches through a probe of this length is global."""
NARROW_PX, NARROW_PLANES = 32, 4
"""Sides of a probe across its length; at least two cells of the stride, or one in volumes, which cost so much more."""
TOLERANCE = 1e-9
"""Relative difference of float64 logits that is rounding; what comes through the deepest layers can be small too."""


@dataclass(frozen=True)
class ReceptiveField:
    """What one output pixel depends on, per axis of a tile."""

    context: Ints | None
    """Px that a tile needs on both sides of a write window whose ends are multiples of the model's stride; itself a
    multiple of it. For stride 1 it is the radius of the receptive field. None: global context."""
    stride: Ints
    """Smallest shifts of the image that shift the logits alike; divisors of the model's own stride."""


def with_field(package: ModelPackage) -> ModelPackage:
    """The package as it is, or measured now if it is of a version that did not tell how far the model looks."""
    if package.contract.is_measured:
        return package
    contract = measured(package.contract, package.load_weights())
    return replace(package, info=package.info.model_copy(update={"contract": contract}))


def measured(contract: InputContract, model: nn.Module) -> InputContract:
    """The contract, with what the model's tiles need to see.

    Raises:
        ConfigError: if the model's logits do not move with the image by the contract's stride.
    """
    planes = (contract.stride_planes,) if len(contract.axes) > 2 else ()
    field = receptive_field(model, len(contract.bands), (*planes, contract.stride, contract.stride), finest=False)
    found: dict[str, int | bool | None] = {"global_context": field.context is None}
    if field.context is not None:
        found |= {"receptive_px": max(field.context[-2:]), "receptive_planes": sum(field.context[:-2])}
    return contract.model_copy(update=found)


def receptive_field(model: nn.Module, in_channels: int, stride: Ints, finest: bool = True) -> ReceptiveField:
    """Measure a model; seconds, on the CPU, and the model stays as it is.

    Args:
        model: tiles (N, C, ...) -> logits (N, K, ...) of the same sides.
        in_channels: C.
        stride: of which sides of a tile must be multiples: of y and x, or of planes, y and x.
        finest: whether divisors of the stride are tried too, which takes nearly as long as all the rest; the stride
            that is found is the one that was given, if not.

    Raises:
        ConfigError: if the logits move with the image only in larger steps than `stride`.
    """
    if isinstance(model, ClassicModel):  # it computes outside of torch, on values that NaN would make senseless
        told = model.context_px
        return ReceptiveField(None if told is None else (told,) * len(stride), stride)
    if getattr(model, "sees_whole_tile", False):
        return ReceptiveField(None, stride)
    # In float64 the kernels spread NaN no farther than the layers read, unlike Winograd's.
    probe = _Probe(_telling(standing(copy.deepcopy(model)).cpu().double().eval()), in_channels, stride)
    with one_thread(), torch.inference_mode():
        reaches = [probe.reach(axis) for axis in range(len(stride))]
        context = tuple(reach for reach in reaches if reach is not None)
        if len(context) < len(stride):
            return ReceptiveField(None, stride)
        steps = [probe.step(axis, reach, finest) for axis, reach in enumerate(context)]
    found = tuple(step for step in steps if step is not None)
    return ReceptiveField(context, found) if len(found) == len(stride) else ReceptiveField(None, stride)


def _telling(model: nn.Module) -> nn.Module:
    """The model, whose unpooling gives NaN wherever a maximum could have been: the 0 beside it depends on it too."""

    def spread(_: nn.Module, given: tuple[torch.Tensor, ...], found: torch.Tensor) -> torch.Tensor:
        is_nan = F.interpolate(given[0].isnan().to(found.dtype), found.shape[2:])
        return found.masked_fill(is_nan > 0, torch.nan)

    for module in model.modules():
        if isinstance(module, nn.MaxUnpool1d | nn.MaxUnpool2d | nn.MaxUnpool3d):
            module.register_forward_hook(spread)
    return model


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread during a block: small work on a busy machine is many times faster so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Probe:
    """Long, narrow tiles for one model."""

    model: nn.Module
    in_channels: int
    stride: Ints

    def reach(self, axis: int) -> int | None:
        """Px from a cell of the stride to the farthest cell that depends on it; None if that has no end."""
        stride = self.stride[axis]
        length = 4 * self._narrow(axis)
        limit = max(MAX_PX if self._in_plane(axis) else MAX_PLANES, length)
        while length <= limit:
            tiles = self._noise(axis, length).repeat(2, *(1,) * (len(self.stride) + 1))
            along = tiles.movedim(axis + 2, -1)
            along[0, ..., :stride] = along[1, ..., -stride:] = torch.nan
            touched = self._cells(axis, self._logits(tiles).isnan())
            if not (touched[0, -1] or touched[1, 0]):
                touched[0, 0] = touched[1, -1] = True  # a pixel counts as its own context
                after, before = int(touched[0].nonzero().max()), int(touched[1].flip(0).nonzero().max())
                return stride * max(after, before)
            length *= 2
        return None

    def step(self, axis: int, reach: int, finest: bool) -> int | None:
        """The smallest shift of the image that shifts the logits alike, or the stride; None if there is none.

        Raises:
            ConfigError: if there is one, but not the model's stride.
        """
        stride = self.stride[axis]
        if self._moves(axis, stride, reach):
            for prime in _primes(stride) if finest else ():
                while stride % prime == 0 and self._moves(axis, stride // prime, reach):
                    stride //= prime
            return stride
        for by in (2 * stride, 4 * stride, 8 * stride):
            if self._moves(axis, by, reach + by):  # a field measured at a wrong stride may be too small
                raise ConfigError(
                    f"the model's stride: expected {by}, by which its logits move with the image, got {stride}; "
                    "correct the model's attribute `stride`"
                )
        return None

    def _moves(self, axis: int, by: int, reach: int) -> bool:
        """True if a tile that begins `by` px later, in a longer image, has the logits that the image has there."""
        stride = max(by, self.stride[axis])
        length = 2 * reach + 4 * stride
        image = self._noise(axis, length + 2 * stride)
        whole, part = self._logits(image), self._logits(image.narrow(axis + 2, by, length))
        # Both see all their context from `reach` on.
        num_px = length - 2 * reach
        difference = part.narrow(axis + 2, reach, num_px) - whole.narrow(axis + 2, by + reach, num_px)
        return bool(difference.abs().max() <= TOLERANCE * whole.abs().max())

    def _in_plane(self, axis: int) -> bool:
        return axis >= len(self.stride) - 2

    def _narrow(self, axis: int) -> int:
        stride = self.stride[axis]
        if len(self.stride) > 2:
            return max(1, -(-NARROW_PLANES // stride)) * stride
        return max(2, -(-NARROW_PX // stride)) * stride

    def _noise(self, axis: int, length: int) -> torch.Tensor:
        sides = [length if i == axis else self._narrow(i) for i in range(len(self.stride))]
        random = torch.Generator().manual_seed(0)
        return torch.randn(1, self.in_channels, *sides, generator=random, dtype=torch.float64)

    def _logits(self, tiles: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(tiles)
        assert logits.shape[2:] == tiles.shape[2:], f"tiles of {tiles.shape[2:]} got logits of {logits.shape[2:]}"
        return logits

    def _cells(self, axis: int, touched: torch.Tensor) -> torch.Tensor:
        """(N, cells): which cells of the stride hold a touched pixel."""
        along = touched.movedim(axis + 2, -1).flatten(1, -2).any(dim=1)
        return along.reshape(len(along), -1, self.stride[axis]).any(dim=2)


def _primes(number: int) -> list[int]:
    """The primes that divide it."""
    divisors = [n for n in range(2, number + 1) if number % n == 0]
    return [n for n in divisors if all(n % smaller for smaller in divisors if smaller < n)]
