"""Numerics: the model made ready for one device and precision; tiles in, class ids or logits out.

Legend: n tiles, c bands, k classes, then a tile's own axes: y and x, or z or t before them. A model of planes takes
tiles of one plane.

The device gets the image's own dtype and normalises there; what comes back is ids, one byte per pixel.
"""

import copy
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from segcore.errors import ConfigError, SegcoreError
from segcore.geometry import Ints
from segcore.inference.decision import MASK, Answers, Decision, on_host
from segcore.inference.model_grid import Pixels
from segcore.inference.prepared import Member
from segcore.inference.views import View
from segcore.models.layout import channels_last
from segcore.models.package import ModelPackage

_SUM = "sum"
"""Key of the sum of all logits among the answers on their way to the host."""


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
    """Every device of the kind that this process may use: all GPUs, but one CPU, or the GPU that has a number."""
    if str(device) != "cuda":
        return [device]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


@dataclass(frozen=True)
class Recipe:
    """How logits are made and what becomes of them; all of it decides pixels."""

    decision: Decision
    ensemble: tuple[ModelPackage, ...] = ()
    """Further models whose probabilities are averaged with the first one's."""
    views: tuple[View, ...] = (View(),)
    samples: int = 0
    """Sub-networks of each model that are averaged; 0 = the model itself (`segcore.inference.dropout`)."""
    can_compile: bool = False
    """Whether a call may ask for compiled code (`segcore.inference.compiled`)."""

    @property
    def num_looks(self) -> int:
        """How often a tile goes through a model."""
        return (1 + len(self.ensemble)) * len(self.views) * max(1, self.samples)


KEPT_BYTES, LEAST_KEPT = 256 << 20, 4
"""Weights of adapted networks that stay at hand, and for how many images at least."""


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
        self._room = [batch]
        self._of_images: OrderedDict[str, Network] = OrderedDict()
        self._keeping = threading.Lock()
        self.adapting = threading.Lock()
        """For who adapts it to an image: one at a time."""
        self.decision = recipe.decision
        self.can_compile = recipe.can_compile
        self._recipe = recipe
        self._num_axes = len(package.contract.axes)
        self._members = [
            Member(each, device, precision, recipe.samples, recipe.can_compile) for each in (package, *recipe.ensemble)
        ]

    @property
    def fits(self) -> int:
        """Tiles that go through the device at once: less than `batch` after it ran out of memory, for any image."""
        return self._room[0]

    @property
    def adapts(self) -> bool:
        """Whether a model is to be adapted to each image."""
        return any(member.adapts for member in self._members)

    def adapted(self, sample: Pixels, nodata: float | None = None) -> "Network":
        """The network for one image, by a sample of it; itself if its models have no image norms.

        Args:
            sample: windows of the image (K, C, ...), in its own dtype.
            nodata: the image's.

        Raises:
            SegcoreError: if the device has not the memory for the sample.
        """
        if not self.adapts:
            return self
        with torch.inference_mode():
            own = copy.copy(self)
            try:
                uploaded = self._uploaded(sample, nodata)
                own._members = [member.adapted(*uploaded) for member in self._members]
            except torch.OutOfMemoryError as error:
                raise SegcoreError(
                    f"device {self.device}: out of memory with a sample of {sample[:, 0].size} px of an image; give "
                    "device: cpu"
                ) from error
            self.wait()  # other workers have streams of their own
        return own

    @property
    def adapted_bytes(self) -> int:
        """Of the weights of a network that is adapted to an image; 0 if it needs not be."""
        return sum(member.num_bytes for member in self._members if member.adapts)

    @property
    def num_kept(self) -> int:
        """Images whose networks stay at hand."""
        return max(LEAST_KEPT, KEPT_BYTES // max(1, self.adapted_bytes))

    def of_image(self, image_id: str) -> "Network | None":
        """The network that was kept for an image."""
        with self._keeping:
            found = self._of_images.pop(image_id, None)
            if found is not None:
                self._of_images[image_id] = found  # the last one that was asked for is the last one to go
            return found

    def keep(self, image_id: str, network: "Network") -> None:
        """Keep the network of an image, for as long as there is room."""
        with self._keeping:
            self._of_images[image_id] = network
            while len(self._of_images) > self.num_kept:
                self._of_images.popitem(last=False)

    @contextmanager
    def tile_worker(self) -> Iterator[None]:
        """While it lasts, the calling thread runs tiles: one core of a CPU, or a stream of its own on a GPU.

        With a stream for each of a few workers, one uploads and one fetches its mask while another computes.
        """
        with torch.inference_mode():
            if self.device.type == "cuda":
                stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
                stream.wait_stream(torch.cuda.default_stream(self.device))  # on which the model was made ready
                with torch.cuda.device(self.device), torch.cuda.stream(stream):
                    yield
                return
            if self.device.type == "cpu":
                torch.set_num_threads(1)  # per thread: many tiles at once beat many threads on one tile
            yield

    def wait(self) -> None:
        """Until all that the calling worker asked for is computed, on any GPU, so that others may go on with it."""
        for device in devices_of(self.device) if self.device.type == "cuda" else ():
            torch.cuda.current_stream(device).synchronize()

    def ids(self, tiles: Pixels, halo: Ints, nodata: float | None = None, compiled: bool = False) -> Pixels:
        """The mask among the `answers`."""
        return self.answers(tiles, halo, nodata, compiled)[MASK]

    def answers(self, tiles: Pixels, halo: Ints, nodata: float | None = None, compiled: bool = False) -> Answers:
        """Class ids of the tiles' centres, and layers.

        Args:
            tiles: (N, C, ...) with N up to `batch`, in the image's own dtype.
            halo: dropped on both sides of each axis, px.
            nodata: the image's; in float images it, and what is not finite, is taken for average, band by band.
            compiled: whether to use compiled code; only where the recipe can compile.

        Returns:
            The mask (N, ...) without the halo, uint8, or uint16 for more than 255 classes; layers (N, channels, ...).

        Raises:
            NotFiniteError: if a logit is NaN or Inf.
            SegcoreError: if the device has not the memory for one tile.
        """
        parts = []
        for call in self._calls(tiles, nodata, compiled):
            sides = zip(halo, call.logits.shape[2:], strict=True)
            centre = (slice(None), slice(None), *(slice(h, n - h) for h, n in sides))
            found = on_host({**self.decision(call.logits[centre]), _SUM: call.total})
            self._check(call, float(found.pop(_SUM)))
            parts.append(found)
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts])[: len(tiles)] for name in parts[0]}

    def logits(self, tiles: Pixels, nodata: float | None = None, compiled: bool = False) -> torch.Tensor:
        """Logits (N, K, ...), float32, on the device, with the variance behind them where a layer needs it."""
        parts = []
        for call in self._calls(tiles, nodata, compiled):
            self._check(call, float(call.total))
            parts.append(call.logits.float())
        return (parts[0] if len(parts) == 1 else torch.cat(parts))[: len(tiles)]

    def _calls(self, tiles: Pixels, nodata: float | None, compiled: bool) -> Iterator["_Call"]:
        """The logits of all tiles, in calls of `fits` tiles, fewer each time the device runs out of memory."""
        done = 0
        while done < len(tiles):
            size = min(self.fits, len(tiles))
            part = tiles[done : done + size]
            if len(part) < size:
                part = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            looks = partial(self._looks, part, nodata, compiled)
            try:
                logits, total = self._seen(looks())
            except torch.OutOfMemoryError as error:
                self._halve(size, error)
                continue
            yield _Call(logits.reshape(*logits.shape[:2], *part.shape[2:]), total, looks, done)
            done += size

    def _seen(self, looks: Iterator[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits, of several looks those of their mean probabilities; and the sum of all that went into them.

        Of what is no class (border and depth) the logits themselves are averaged.
        """
        count = self._recipe.num_looks
        if count == 1:
            logits = next(looks)
            return logits, logits.sum(dtype=torch.float32)
        num_classes = self.decision.num_classes
        total = squares = sums = others = torch.zeros((), device=self.device)
        for look in looks:
            logits = look.float()
            sums = sums + logits.sum()
            probs = logits[:, :num_classes].softmax(dim=1)
            total = total + probs
            others = others + logits[:, num_classes:]
            if self.decision.needs_variance:
                squares = squares + probs.square()
        mean = total / count
        logits = torch.cat([mean.clamp_min(torch.finfo(torch.float32).tiny).log(), others / count], dim=1)
        if not self.decision.needs_variance:
            return logits, sums
        variance = (squares / count - mean.square()).clamp_min(0).amax(dim=1, keepdim=True)
        return torch.cat([logits, variance], dim=1), sums

    def _looks(self, tiles: Pixels, nodata: float | None, compiled: bool) -> Iterator[torch.Tensor]:
        """Logits of the tiles by each model, in each view, by each sample."""
        uploaded = self._uploaded(tiles, nodata)
        if self._recipe.num_looks == 1 and not compiled:
            yield self.forward(self._members[0].normalised(*uploaded))
            return
        for member in self._members:
            normal = member.normalised(*uploaded)
            for view in self._recipe.views:
                seen = normal
                if view != View():
                    seen = view.seen(normal, member.stride).contiguous(memory_format=channels_last(2 + self._num_axes))
                for sample in member.sampled(compiled):
                    yield view.back(sample(seen), (normal.shape[-2], normal.shape[-1]))

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Logits of normalised tiles by a single look, in the model's own precision."""
        return self._members[0].sampled(compiled=False)[0](tiles)

    def _uploaded(self, tiles: Pixels, nodata: float | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tiles on the device, float32, channels last; and where they have no value, if they are floats."""
        planes = tiles.shape[2 : tiles.ndim - self._num_axes]
        assert all(n == 1 for n in planes), f"a model of {self._num_axes} axes takes one plane, got tiles {tiles.shape}"
        raw = torch.from_numpy(tiles.reshape(*tiles.shape[:2], *tiles.shape[-self._num_axes :]))
        if self.device.type == "cuda":
            raw = raw.pin_memory().to(self.device, non_blocking=True)
        elif self.device.type == "mps" and raw.dtype == torch.float64:  # MPS knows no float64
            raw = raw.float()
        moved = raw.to(self.device).to(torch.float32, memory_format=channels_last(2 + self._num_axes))
        # Fill values such as -3.4e38, -32768 or NaN would reach their neighbours through the halo.
        if not np.issubdtype(tiles.dtype, np.floating):
            return moved, None if nodata is None else (moved == nodata).all(dim=1, keepdim=True)
        missing = ~moved.isfinite()
        if nodata is not None:
            missing |= moved == float(torch.tensor(nodata, dtype=torch.float64).to(raw.dtype).to(torch.float32))
        return moved, missing

    def _halve(self, size: int, error: Exception) -> None:
        if size == 1:
            raise SegcoreError(
                f"device {self.device}: out of memory with a single tile; give a smaller tile_px, or device: cpu"
            ) from error
        self._room[0] = min(self.fits, size // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _check(self, call: "_Call", total: float) -> None:
        """Refuse logits whose sum, by now on the host, is not finite; that of finite ones may have overflown."""
        if not math.isfinite(total):
            for logits in call.again():
                self._refuse_not_finite(logits, call.done)

    def _refuse_not_finite(self, logits: torch.Tensor, done: int) -> None:
        wrong = (~torch.isfinite(logits)).flatten(1).sum(dim=1)
        if bool(wrong.any()):
            first = int(wrong.nonzero()[0])
            message = (
                f"expected finite logits, got {int(wrong[first])} that are NaN or Inf in {self.precision}; "
                "look at the pixels there, or try precision: float32"
            )
            raise NotFiniteError(message, done + first)


@dataclass(frozen=True)
class _Call:
    """One call of the network that may still be under way on the device."""

    logits: torch.Tensor
    total: torch.Tensor
    """Sum of all logits of all looks; () float32."""
    again: Callable[[], Iterator[torch.Tensor]]
    """The looks once more, to find the wrong one."""
    done: int
    """Tiles before these."""


@contextmanager
def repeatable() -> Iterator[None]:
    """While it lasts, the same tile gives the same bits: one CPU thread per caller, fixed GPU kernels, no TF32."""
    threads = torch.get_num_threads()
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)
