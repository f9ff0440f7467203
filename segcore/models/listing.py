"""Listing: architectures -> *rows for a user who has to choose one*."""

import importlib.util
import math
import statistics
import time
from typing import Any, NamedTuple

import torch

from segcore.errors import ConfigError
from segcore.geometry import rounded_up
from segcore.models import ModelConfig, axes_of, build_model, find_architecture, strides_of, takes
from segcore.models.architecture import Told
from segcore.models.arguments import ModelArguments
from segcore.models.image_norm import standing
from segcore.models.receptive import receptive_field
from segcore.models.zoo import smp_encoders, zoo_names

BANDS, CLASSES = 3, 2
"""Of the networks whose weights are counted."""
FRAME = (1080, 1920)
"""Height and width of what `ms_per_frame` is of."""
MEASURED_PX, MEASURED_VOLUME = 512, (4, 128)
"""Side of a tile; planes and side of one of a volume or a sequence."""
REPEATS, ENOUGH_S = 3, 2.0
"""A tile is repeated so often, but not once so many seconds are spent."""
CHOSEN = ("channels", "norm")
"""Arguments that `train` chooses by images and device, where they are not given."""


class Speed(NamedTuple):
    """Of one network on one device, float32, normalised tiles in memory."""

    mpx_per_s: float
    ms_per_frame: float
    """Of 1080 x 1920 px, halo not counted."""


def described(name: str) -> dict[str, Any]:
    """What there is to know of an architecture with its default arguments, JSON.

    Raises:
        ConfigError: if there is no such architecture.
    """
    entry = find_architecture(name)
    told = entry.told or _told(name)
    context_px = _measured_context_px(name) if entry.is_measured else entry.context_px
    return {
        "name": name,
        "title": entry.title,
        "family": entry.family,
        "paper": entry.paper,
        "use": entry.use,
        "axes": list(told.axes),
        "bands": BANDS,
        "classes": CLASSES,
        "parameters": told.parameters,
        "stride": told.stride,
        "context_px": context_px,
        "tiling_is_exact": context_px is not None,
        "missing": missing(entry.library),
        "chosen": [argument for argument in CHOSEN if takes(name, argument)],
        "arguments": arguments_of(name),
    }


def missing(library: str) -> str:
    """What a user has to install before an architecture can be built; empty where nothing is known to be missing."""
    if not library or importlib.util.find_spec(library) is not None:
        return ""
    return f"needs the extra `zoo` ({library} is missing): pip install 'segcore[zoo]'"


def _told(name: str) -> Told:
    model = _built(name, "meta")
    parameters = sum(weight.numel() for weight in model.parameters())
    return Told(parameters, strides_of(model)[0], axes_of(model))


def _measured_context_px(name: str) -> int | None:
    model = _built(name, "cpu")
    stride = int(model.stride)  # type: ignore[arg-type]
    context = receptive_field(model, BANDS, (stride, stride), finest=False).context
    return None if context is None else max(context)


def zoo_listed() -> dict[str, list[str] | str]:
    """What other libraries have, or in its place the line that says why there is nothing."""
    try:
        smp, timm = ([f"{prefix}.{own}" for own in zoo_names(prefix)] for prefix in ("smp", "timm"))
    except ConfigError as error:
        return {"zoo": str(error)}
    return {"smp": smp, "encoders of smp": [f"encoder={name}" for name in smp_encoders()], "timm": timm}


def arguments_of(name: str) -> dict[str, dict[str, Any]]:
    """By name: default and meaning of what may be given with `--arguments`."""
    found = {}
    for argument, field in find_architecture(name).arguments.model_fields.items():
        if argument not in ModelArguments.model_fields:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            found[argument] = {"default": default, "meaning": " ".join((field.description or "").split())}
    return found


@torch.inference_mode()
def measured_speed(name: str, device: torch.device) -> Speed:
    """The median of a few tiles with random weights, as the network is in use; of the slowest, a single tile."""
    model = standing(_built(name, "cpu").eval()).to(device)
    (stride, stride_planes), volume = strides_of(model), len(axes_of(model)) > 2
    planes = (rounded_up(MEASURED_VOLUME[0], stride_planes),) if volume else ()
    side = rounded_up(MEASURED_VOLUME[1] if volume else MEASURED_PX, stride)
    tiles = torch.randn(1, BANDS, *planes, side, side, device=device)
    times: list[float] = []
    while len(times) <= REPEATS and sum(times) < ENOUGH_S:
        began = time.perf_counter()
        float(model(tiles).sum())  # waits for the device
        times.append(time.perf_counter() - began)
    px_per_s = math.prod(tiles.shape[2:]) / statistics.median(times[1:] or times)  # the first one warms up
    return Speed(px_per_s / 1e6, 1e3 * FRAME[0] * FRAME[1] / px_per_s)


def _built(name: str, device: str) -> torch.nn.Module:
    with torch.device(device):
        return build_model(ModelConfig(architecture=name, arguments={"in_channels": BANDS, "num_classes": CLASSES}))
