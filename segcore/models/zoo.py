"""Zoo: networks of other libraries by name, through the extra `zoo`. tiles (N, C, Y, X) -> logits (N, K, Y, X).

    smp.unet          a network of segmentation_models_pytorch, over any of its encoders (`encoder=...`)
    timm.convnext_atto   an encoder of timm, with a small feature pyramid of ours as decoder

Weights are random: published ones come from a file, by `segcore train --init`, so that a package never asks the network
for any. How far one looks is measured, as for all.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from pydantic import Field
from torch import nn

from segcore.errors import ConfigError
from segcore.models.architecture import Architecture
from segcore.models.arguments import ModelArguments
from segcore.models.blocks import conv_norm_relu, enlarged
from segcore.models.borrowed import library, on_any_device

PREFIXES = {"smp": "segmentation_models_pytorch", "timm": "timm"}
"""Of the names, with the library behind each."""
_LIBRARY_PAPER = {
    "smp": "Iakubovskii, Segmentation Models Pytorch, 2019",
    "timm": "Wightman, PyTorch Image Models, 2019; Lin et al., Feature Pyramid Networks for Object Detection, 2017",
}
_USE = {
    "smp": "a network or an encoder that segcore has not itself, or weights that were published for it",
    "timm": "the newest encoders, with their published weights",
}
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""What makes an encoder of timm take tiles of any size: each kind has its own word, and refuses the others'."""

_UNLIKE = {"dpt"}
"""Networks of smp whose parts do not take each other's results as those of all others do."""
_FURTHER_HALVINGS = {"pan": 8}
"""Of the coarsest features, in a decoder that pools them further: smaller tiles than that fail."""


class SmpArguments(ModelArguments):
    """What a network of segmentation_models_pytorch is built from."""

    encoder: str = ""
    """Any of its encoders, `tu-` and a name for one of timm; none = the one that the library takes."""


class TimmArguments(ModelArguments):
    """What an encoder of timm gets as decoder."""

    decoder: int = Field(default=64, ge=8, multiple_of=8)
    """Feature channels of the pyramid."""


def in_zoo(name: str) -> bool:
    """Whether a name is one of another library."""
    return name.partition(".")[0] in PREFIXES and "." in name


def zoo_entry(name: str) -> Architecture:
    """The entry of a name such as `smp.unet`.

    Raises:
        ConfigError: if the extra is missing or does not load, or the library has nothing of that name.
    """
    prefix, _, own = name.partition(".")
    if not _is_known(prefix, own):
        nearest = difflib.get_close_matches(own, zoo_names(prefix), n=1)
        hint = f"did you mean {prefix}.{nearest[0]}?" if nearest else "`segcore models --zoo` lists them"
        raise ConfigError(f"architecture: {PREFIXES[prefix]} has nothing called '{own}'; {hint}")
    arguments, build = (SmpArguments, SmpNetwork) if prefix == "smp" else (TimmArguments, TimmPyramid)
    return Architecture(
        arguments,
        partial(_built, build, own),
        own,
        PREFIXES[prefix],
        _LIBRARY_PAPER[prefix],
        _USE[prefix],
        None,
        is_measured=True,
    )


def zoo_names(prefix: str) -> list[str]:
    """What a library has, without the prefix.

    Raises:
        ConfigError: if the extra is missing or does not load.
    """
    found = loaded(prefix)
    return sorted(set(found.MODEL_ARCHITECTURES_MAPPING) - _UNLIKE if prefix == "smp" else found.list_models())


def smp_encoders() -> list[str]:
    """Encoders of segmentation_models_pytorch; those of timm are further ones.

    Raises:
        ConfigError: as `zoo_names`.
    """
    return sorted(loaded("smp").encoders.encoders)


def _is_known(prefix: str, own: str) -> bool:
    return bool(loaded("timm").is_model(own)) if prefix == "timm" else own in zoo_names(prefix)


def loaded(prefix: str) -> Any:
    """The library.

    Raises:
        ConfigError: if it is not installed, or cannot be loaded.
    """
    return extra_library(PREFIXES[prefix], f"{prefix}.*")


def extra_library(name: str, architecture: str) -> Any:
    """A module of the extra `zoo`, for the architectures that are named.

    Raises:
        ConfigError: if it is not installed, or cannot be loaded.
    """
    try:
        return library(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"architecture {architecture}: needs the extra `zoo` ({error.name} is missing): pip install 'segcore[zoo]'"
        ) from error
    except Exception as error:  # whatever torchvision, which the others import too, ends with
        if "torchvision::" in str(error):
            raise ConfigError(
                f"architecture {architecture}: the installed torchvision was not built for torch {torch.__version__} "
                f"({_first_line(error)}): install the two from one place, in matching versions"
            ) from error
        raise ConfigError(f"architecture {architecture}: {name} cannot be loaded ({_first_line(error)})") from error


def _built(build: Callable[[str, Any], nn.Module], own: str, arguments: ModelArguments) -> nn.Module:
    try:
        return on_any_device(partial(build, own, arguments))
    except (ConfigError, ValueError):
        raise
    except Exception as error:  # libraries fail in ways of their own; a user needs the reason, in one line
        raise ValueError(f"cannot be built ({_first_line(error)})") from error


class SmpNetwork(nn.Module):
    """Encoder, decoder and head of a network of segmentation_models_pytorch."""

    def __init__(self, own: str, arguments: SmpArguments) -> None:
        super().__init__()
        smp = loaded("smp")
        given: dict[str, Any] = {"encoder_weights": None}
        if arguments.encoder:
            given["encoder_name"] = _known_encoder(arguments.encoder)
        parts = smp.MODEL_ARCHITECTURES_MAPPING[own](
            in_channels=arguments.in_channels, classes=arguments.num_classes, **given
        )
        self.encoder = ("features",)
        self.stride = int(parts.encoder.output_stride) * _FURTHER_HALVINGS.get(own, 1)
        self.features, self.decoder, self.head = parts.encoder, parts.decoder, parts.segmentation_head

    def forward(self, tiles_ncyx: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, Y, X) of normalised tiles (N, C, Y, X); y and x must be multiples of the stride."""
        return cast(torch.Tensor, self.head(self.decoder(self.features(tiles_ncyx))))


def _known_encoder(encoder: str) -> str:
    names = smp_encoders()
    if encoder in names or (encoder.startswith("tu-") and loaded("timm").is_model(encoder.removeprefix("tu-"))):
        return encoder
    nearest = difflib.get_close_matches(encoder.removeprefix("tu-"), (*names, *zoo_names("timm")), n=1)
    hint = f"; did you mean {nearest[0] if nearest[0] in names else f'tu-{nearest[0]}'}?" if nearest else ""
    raise ValueError(f"segmentation_models_pytorch has no encoder '{encoder}'{hint}")


class TimmPyramid(nn.Module):
    """Features of an encoder, merged from coarse to fine, and scored at the finest.

        finest    -> 1x1 -> + -> 3x3 -> 1x1 -> scores, enlarged
                            | enlarged
        coarser   -> 1x1 -> + -> 3x3 ...
                            | enlarged
        coarsest  -> 1x1 ---+

    Lin et al., "Feature Pyramid Networks for Object Detection" (2017).
    """

    def __init__(self, own: str, arguments: TimmArguments) -> None:
        super().__init__()
        self.encoder = ("features",)
        self.features = _timm_features(own, arguments.in_channels)
        channels, strides = self.features.feature_info.channels(), self.features.feature_info.reduction()
        self.stride = int(max(strides))
        self._is_channels_last = str(getattr(self.features, "output_fmt", "")).endswith("NHWC")
        width = arguments.decoder
        self.lateral = nn.ModuleList(nn.Conv2d(n, width, 1) for n in channels)
        self.smooth = nn.ModuleList(nn.Sequential(*conv_norm_relu(width, width)) for _ in channels[1:])
        self.head = nn.Conv2d(width, arguments.num_classes, 1)

    def forward(self, tiles_ncyx: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, Y, X) of normalised tiles (N, C, Y, X); y and x must be multiples of the stride."""
        finest_first = self.features(tiles_ncyx)
        if self._is_channels_last:
            finest_first = [features.permute(0, 3, 1, 2) for features in finest_first]
        *finer, merged = [layer(features) for layer, features in zip(self.lateral, finest_first, strict=True)]
        for features, smooth in zip(reversed(finer), self.smooth, strict=True):
            merged = smooth(enlarged(merged, features.shape[2:]) + features)
        return enlarged(self.head(merged), tiles_ncyx.shape[2:])

    def renamed(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights as timm publishes them, by their names in this model; what has no place here keeps its name.

        An encoder that gives its features is flatter than the whole: `stages.0.norm` is `stages_0.norm` there.
        """
        own = {}
        for name in self.state_dict():
            published = name.removeprefix("features.").removeprefix("model.")
            own[re.sub(r"^(\w+?)_(\d+)\.", r"\1.\2.", published)] = name
        return {own.get(name, name): value for name, value in tensors.items()}


def _timm_features(own: str, in_channels: int) -> Any:
    """The encoder, for tiles of any size.

    Raises:
        ValueError: if it takes tiles of one size only.
    """
    create = loaded("timm").create_model
    for size in _ANY_SIZE:
        try:
            features = create(own, features_only=True, in_chans=in_channels, pretrained=False, **size)
            break
        except TypeError:
            if not size:
                raise
    stride = max(features.feature_info.reduction())
    if next(features.parameters()).is_meta:  # a look at shapes costs nothing there, and every model begins there
        try:
            features(torch.empty(1, in_channels, 2 * stride, 3 * stride, device="meta"))
        except (AssertionError, RuntimeError) as error:
            if "meta" not in str(error):
                raise ValueError(
                    f"its encoder takes no tiles of any size ({_first_line(error)}); choose another"
                ) from error
    return features


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
