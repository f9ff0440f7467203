"""Numerics: the model made ready for one device and precision; tiles in, class ids or logits out.

Legend: n tiles, c bands, k classes, then a tile's own axes: y and x, or z or t before them. A model of planes takes
tiles of one plane.

The device gets the image's own dtype and normalises there; what comes back is ids, one byte per pixel.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segcore.errors import ConfigError, SegcoreError
from segcore.geometry import Ints
from segcore.inference.decision import MASK, Answers, Decision, on_host
from segcore.inference.model_grid import Pixels
from segcore.inference.views import View
from segcore.models.package import ModelPackage

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class NotFiniteError(SegcoreError):
    """The model answered NaN or Inf; `tile` is the first such tile's place in its batch."""

    def __init__(self, message: str, tile: int) -> None:
        super().__init__(message)
        self.tile = tile


def resolve_device(asked: str) -> torch.device:
    """The device for "auto", "cpu", "cuda" or "mps".

    Raises:
        ConfigError: if the asked one is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = next(name for name, usable in there.items() if usable) if asked == "auto" else asked
    if not there[kind]:
        usable = ", ".join(name for name, is_there in there.items() if is_there)
        raise ConfigError(
            f"device {kind}: expected one that PyTorch can use here ({usable}); give one of them, or auto"
        )
    return torch.device(kind)


def devices_of(device: torch.device) -> list[torch.device]:
    """Every device of the kind that this process may use: all GPUs, but one CPU."""
    if device.type != "cuda":
        return [device]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Fold each batch norm that directly follows a convolution of the same `nn.Sequential` into it, in place.

    Only a Sequential says by itself that nothing else sees what lies between the two. The answers stay the
    same within rounding; the model must be in evaluation mode.
    """
    for parent in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for i in range(len(parent) - 1):
            conv, norm = parent[i], parent[i + 1]
            if isinstance(conv, nn.Conv2d | nn.Conv3d) and isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
                parent[i] = fuse_conv_bn_eval(conv, norm)
                parent[i + 1] = nn.Identity()
    return model


def prepared(package: ModelPackage, device: torch.device, precision: str) -> nn.Module:
    """The package's model, folded, channels last, in `precision` on `device`."""
    model = fold_batch_norm(package.load_weights("cpu").eval()).requires_grad_(False)
    model = model.to(device=device, dtype=DTYPES[precision])
    layout = channels_last(len(package.contract.axes))
    return cast(nn.Module, model.to(memory_format=layout))  # type: ignore[call-overload]


def channels_last(num_axes: int) -> torch.memory_format:
    """The layout in which the bands of a pixel lie side by side, for tiles of 2 or 3 axes."""
    return torch.channels_last if num_axes == 2 else torch.channels_last_3d


@dataclass(frozen=True)
class Recipe:
    """How logits are made and what becomes of them; all of it decides pixels."""

    decision: Decision
    ensemble: tuple[ModelPackage, ...] = ()
    """Further models whose probabilities are averaged with the first one's."""
    views: tuple[View, ...] = (View(),)


class _Member:
    """One model on the device, with its own normalisation."""

    def __init__(self, package: ModelPackage, device: torch.device, precision: str) -> None:
        contract = package.contract
        self.model = prepared(package, device, precision)
        self.stride = contract.stride
        self._dtype = DTYPES[precision]
        bands = (1, len(contract.bands), *(1,) * len(contract.axes))
        self._mean = torch.tensor(contract.mean, dtype=torch.float32, device=device).reshape(bands)
        self._std = torch.tensor(contract.std, dtype=torch.float32, device=device).reshape(bands)

    def normalised(self, tiles: torch.Tensor, missing: torch.Tensor | None) -> torch.Tensor:
        """(pixel - mean) / std of float32 tiles; what is missing is taken for average."""
        normal = tiles.sub(self._mean).div_(self._std)
        return (normal if missing is None else normal.masked_fill_(missing, 0.0)).to(self._dtype)


class Network:
    """A model, or several, ready to answer; may be called from several threads.

    Args:
        package: the model.
        device: where it runs.
        precision: "float32", "bfloat16" or "float16".
        batch: number of tiles in a call, at most.
        recipe: what else there is to it; by default the best class of this model alone.
    """

    def __init__(
        self, package: ModelPackage, device: torch.device, precision: str, batch: int, recipe: Recipe | None = None
    ) -> None:
        recipe = recipe or Recipe(Decision(len(package.classes), ignore=255))
        self.device = device
        self.precision = precision
        self.batch = batch
        self.fits = batch
        """Tiles that go through the device at once: less than `batch` after it ran out of memory."""
        self.decision = recipe.decision
        self._views = recipe.views
        self._num_axes = len(package.contract.axes)
        self._members = [_Member(member, device, precision) for member in (package, *recipe.ensemble)]

    @contextmanager
    def tile_worker(self) -> Iterator[None]:
        """While it lasts, the calling thread runs tiles: one core of a CPU, or a stream of its own on a GPU.

        With a stream for each of a few workers, one uploads and one fetches its mask while another computes.
        """
        with torch.inference_mode():
            if self.device.type == "cuda":
                stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
                with torch.cuda.device(self.device), torch.cuda.stream(stream):
                    yield
                return
            if self.device.type == "cpu":
                torch.set_num_threads(1)  # per thread: many tiles at once beat many threads on one tile
            yield

    def wait(self) -> None:
        """Until all that the calling worker asked for is computed, so that others may go on with it."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def ids(self, tiles: Pixels, halo: Ints, nodata: float | None = None) -> Pixels:
        """The mask among the `answers`."""
        return self.answers(tiles, halo, nodata)[MASK]

    def answers(self, tiles: Pixels, halo: Ints, nodata: float | None = None) -> Answers:
        """Class ids of the tiles' centres, and layers.

        Args:
            tiles: (N, C, ...) with N up to `batch`, in the image's own dtype.
            halo: dropped on both sides of each axis, px.
            nodata: the image's; in float images it, and what is not finite, is taken for average, band by band.

        Returns:
            The mask (N, ...) without the halo, uint8, or uint16 for more than 255 classes; layers (N, channels, ...).

        Raises:
            NotFiniteError: if a logit is NaN or Inf.
            SegcoreError: if the device has not the memory for one tile.
        """
        parts = []
        for logits in self._logits(tiles, nodata):
            sides = zip(halo, logits.shape[2:], strict=True)
            centre = (slice(None), slice(None), *(slice(h, n - h) for h, n in sides))
            parts.append(on_host(self.decision(logits[centre])))
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts])[: len(tiles)] for name in parts[0]}

    def logits(self, tiles: Pixels, nodata: float | None = None) -> torch.Tensor:
        """Logits (N, K, ...), float32, on the device, with the variance behind them where a layer needs it."""
        return torch.cat([part.float() for part in self._logits(tiles, nodata)])[: len(tiles)]

    def _logits(self, tiles: Pixels, nodata: float | None) -> Iterator[torch.Tensor]:
        """The logits of all tiles, in calls of `fits` tiles, fewer each time the device runs out of memory."""
        done = 0
        while done < len(tiles):
            size = min(self.fits, len(tiles))
            part = tiles[done : done + size]
            if len(part) < size:
                part = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            try:
                logits = self._seen(*self._uploaded(part, nodata))
            except torch.OutOfMemoryError as error:
                self._halve(size, error)
                continue
            if not bool(torch.isfinite(logits.sum(dtype=torch.float32))):
                self._refuse_not_finite(logits, done)
            yield logits.reshape(*logits.shape[:2], *part.shape[2:])
            done += size

    def _seen(self, tiles: torch.Tensor, missing: torch.Tensor | None) -> torch.Tensor:
        """Logits of uploaded tiles; of several views or models, those of their mean probabilities."""
        if len(self._members) == 1 and self._views == (View(),):
            return self.forward(self._members[0].normalised(tiles, missing))
        total = squares = torch.zeros((), device=self.device)
        for member in self._members:
            normal = member.normalised(tiles, missing)
            for view in self._views:
                logits = self._logits_of(member, normal, view).float()
                if not bool(torch.isfinite(logits.sum())):
                    return logits  # refused, with the tile named
                probs = logits.softmax(dim=1)
                total = total + probs
                squares = squares + probs.square()
        count = len(self._members) * len(self._views)
        mean = total / count
        logits = mean.clamp_min(torch.finfo(torch.float32).tiny).log()
        if not self.decision.needs_variance:
            return logits
        variance = (squares / count - mean.square()).clamp_min(0).amax(dim=1, keepdim=True)
        return torch.cat([logits, variance], dim=1)

    def _logits_of(self, member: _Member, normal: torch.Tensor, view: View) -> torch.Tensor:
        if view == View():
            return cast(torch.Tensor, member.model(normal))
        seen = view.seen(normal, member.stride).contiguous(memory_format=channels_last(self._num_axes))
        return view.back(member.model(seen), (normal.shape[-2], normal.shape[-1]))

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Logits of normalised tiles, by the first model alone, in its own precision."""
        return cast(torch.Tensor, self._members[0].model(tiles))

    def _uploaded(self, tiles: Pixels, nodata: float | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tiles on the device, float32, channels last; and where they have no value, if they are floats."""
        planes = tiles.shape[2 : tiles.ndim - self._num_axes]
        assert all(n == 1 for n in planes), f"a model of {self._num_axes} axes takes one plane, got tiles {tiles.shape}"
        raw = torch.from_numpy(tiles.reshape(*tiles.shape[:2], *tiles.shape[-self._num_axes :]))
        if self.device.type == "cuda":
            raw = raw.pin_memory().to(self.device, non_blocking=True)
        elif self.device.type == "mps" and raw.dtype == torch.float64:  # MPS knows no float64
            raw = raw.float()
        moved = raw.to(self.device).to(torch.float32, memory_format=channels_last(self._num_axes))
        if not np.issubdtype(tiles.dtype, np.floating):
            return moved, None
        # Fill values such as -3.4e38 or NaN would reach their neighbours through the halo.
        missing = ~moved.isfinite()
        if nodata is not None:
            missing |= moved == torch.tensor(nodata, dtype=torch.float64).to(raw.dtype).to(moved)
        return moved, missing

    def _halve(self, size: int, error: Exception) -> None:
        if size == 1:
            raise SegcoreError(
                f"device {self.device}: out of memory with a single tile; give a smaller tile_px, or device: cpu"
            ) from error
        self.fits = min(self.fits, size // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _refuse_not_finite(self, logits: torch.Tensor, done: int) -> None:
        """The sum of finite logits can overflow too: look at each before it is called wrong."""
        wrong = (~torch.isfinite(logits)).flatten(1).sum(dim=1)
        if bool(wrong.any()):
            first = int(wrong.nonzero()[0])
            message = (
                f"expected finite logits, got {int(wrong[first])} that are NaN or Inf in {self.precision}; "
                "look at the pixels there, or try precision: float32"
            )
            raise NotFiniteError(message, done + first)


@contextmanager
def repeatable() -> Iterator[None]:
    """While it lasts, the same tile gives the same bits: one CPU thread per caller, fixed GPU kernels, no TF32."""
    threads = torch.get_num_threads()
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)
