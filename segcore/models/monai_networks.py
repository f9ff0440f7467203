"""MONAI networks: tiles (N, C, [Z,] Y, X) -> logits (N, K, [Z,] Y, X), built by MONAI and made to fit beside our own.

    DynUNet      the U-Net of nnU-Net: Isensee et al. (2021)
    SegResNet    residual encoder, thin decoder: Myronenko (2018)
    Swin UNETR   attention in shifted windows, convolutional decoder: Hatamizadeh et al. (2022)
    UNETR        a plain vision transformer as encoder: Hatamizadeh et al. (2022)

Names of the weights are MONAI's, so that its published weights fit (`segcore train --init`). Deep supervision is off.
In the place of MONAI's instance norm comes any of ours: `image` is the same in training, and in prediction it takes the
statistics of the whole image, so that DynUNet's and SegResNet's masks do not depend on how an image is cut.

MONAI takes a second to load: only a network that is built asks for it.
"""

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from segcore.errors import ConfigError
from segcore.models.arguments import ModelArguments
from segcore.models.blocks import Dims, Norm, normalisation
from segcore.models.borrowed import library, on_any_device

_PATCH_PX, _SWIN_STRIDE = 16, 32
_SWIN_HEADS = (3, 6, 12, 24)
_AFFINE_INSTANCE = ("instance", {"affine": True})
"""What is put into every place where one of our norms goes."""


class MonaiArguments(ModelArguments):
    """What all of them take."""

    dims: Dims = 3
    """2 = of planes, 3 = of volumes."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share that is dropped in training, where MONAI has its dropout."""
    norm: Norm = "image"
    """After each convolution: `image` is the instance norm of the papers, in prediction by the statistics of the whole
    image; or of the training set (batch), or of the tile (group)."""


class DynUNetArguments(MonaiArguments):
    """What a DynUNet is built from."""

    channels: tuple[int, ...] = Field(default=(32, 64, 128, 256, 320), min_length=3, max_length=8)
    """Feature channels of each stage, finest first; the stride is 2^(stages - 1)."""
    flat_stages: int = Field(default=0, ge=0)
    """Of a volume: stages, finest first, that leave the planes apart."""
    residual: bool = False
    """Shortcuts around the double convolutions."""


class SegResNetArguments(MonaiArguments):
    """What a SegResNet is built from."""

    first_channels: int = Field(default=16, ge=8, multiple_of=8)
    """Feature channels of the finest stage; each coarser one has twice as many."""
    depths: tuple[int, ...] = Field(default=(1, 2, 2, 4), min_length=2, max_length=6)
    """Residual blocks of each stage of the encoder, finest first; the stride is 2^(stages - 1)."""


class SwinUNETRArguments(MonaiArguments):
    """What a Swin UNETR is built from."""

    features: int = Field(default=24, ge=12, multiple_of=12)
    """Feature channels of the finest stage; each coarser one has twice as many."""
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    """Transformer blocks of each stage."""
    window: int = Field(default=7, ge=2)
    """Side of the windows within which tokens attend to each other."""


class UNETRArguments(MonaiArguments):
    """What a UNETR is built from."""

    features: int = Field(default=16, ge=8, multiple_of=8)
    """Feature channels of the finest stage of the decoder."""
    hidden: int = Field(default=768, ge=12, multiple_of=12)
    """Length of a token."""
    heads: Literal[3, 4, 6, 12] = 12
    """Of the attention."""
    grid_px: int = Field(default=96, ge=_PATCH_PX, multiple_of=_PATCH_PX)
    """Side in y and x of the tiles whose places are learnt; a tile of another size gets them resampled."""
    grid_planes: int = Field(default=96, ge=_PATCH_PX, multiple_of=_PATCH_PX)
    """Likewise in planes."""


class DynUNet(nn.Module):
    """nnU-Net's U-Net: strided convolutions down, transposed ones up, a double convolution per stage."""

    def __init__(self, arguments: DynUNetArguments) -> None:
        super().__init__()
        dims, flat, stages = arguments.dims, arguments.flat_stages, len(arguments.channels)
        if flat and dims == 2:
            raise ValueError("flat_stages: expected dims=3, since planes alone have nothing to leave apart")
        steps = [(1,) * dims, *((1 if stage < flat else 2, 2, 2)[-dims:] for stage in range(stages - 1))]
        parts = _nets().DynUNet(
            spatial_dims=dims,
            in_channels=arguments.in_channels,
            out_channels=arguments.num_classes,
            kernel_size=[(1 if stage < flat else 3, 3, 3)[-dims:] for stage in range(stages)],
            strides=steps,
            upsample_kernel_size=steps[1:],
            filters=arguments.channels,
            dropout=arguments.dropout or None,
            norm_name=_AFFINE_INSTANCE,
            res_block=arguments.residual,
        )
        # MONAI holds the same parts once more, nested; a package stores each weight once.
        self.input_block, self.downsamples, self.bottleneck = parts.input_block, parts.downsamples, parts.bottleneck
        self.upsamples, self.output_block = parts.upsamples, parts.output_block
        self.encoder = ("input_block", "downsamples", "bottleneck")
        self.axes = ("z", "y", "x")[-dims:]
        self.stride, self.stride_planes = 2 ** (stages - 1), 2 ** max(0, stages - 1 - flat)
        _put_norms(self, arguments)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, [Z,] Y, X) of normalised tiles; sides must be multiples of the strides."""
        features, skips = tiles, []
        for stage in (self.input_block, *self.downsamples):
            features = stage(features)
            skips.append(features)
        features = self.bottleneck(features)
        for up in self.upsamples:
            features = up(features, skips.pop())
        return cast(torch.Tensor, self.output_block(features))


def segresnet(arguments: SegResNetArguments) -> Any:
    """A SegResNet; sides of its tiles are multiples of the stride."""
    model = _nets().SegResNet(
        spatial_dims=arguments.dims,
        init_filters=arguments.first_channels,
        in_channels=arguments.in_channels,
        out_channels=arguments.num_classes,
        dropout_prob=arguments.dropout or None,
        norm=_AFFINE_INSTANCE,
        blocks_down=arguments.depths,
        blocks_up=(1,) * (len(arguments.depths) - 1),
    )
    model.encoder = ("convInit", "down_layers")
    return _fitted(model, arguments, 2 ** (len(arguments.depths) - 1))


def swin_unetr(arguments: SwinUNETRArguments) -> Any:
    """A Swin UNETR; its windows lie on the tile, and the deepest see most of it."""
    _need_einops("swinunetr")
    model = on_any_device(
        lambda: _nets().SwinUNETR(
            spatial_dims=arguments.dims,
            in_channels=arguments.in_channels,
            out_channels=arguments.num_classes,
            depths=arguments.depths,
            num_heads=_SWIN_HEADS,
            window_size=arguments.window,
            feature_size=arguments.features,
            norm_name=_AFFINE_INSTANCE,
            drop_rate=arguments.dropout,
        )
    )
    model.encoder = ("swinViT",)
    model.sees_whole_tile = True
    return _fitted(model, arguments, _SWIN_STRIDE)


class UNETR(nn.Module):
    """A vision transformer over 16 px patches, the features of every third layer decoded by convolutions.

    MONAI's takes tiles of one size. The learnt places are a grid like any other: for a tile of another size they are
    resampled linearly, as in Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021).
    """

    def __init__(self, arguments: UNETRArguments) -> None:
        super().__init__()
        _need_einops("unetr")
        grid_px = (arguments.grid_planes, arguments.grid_px, arguments.grid_px)[-arguments.dims :]
        parts = _nets().UNETR(
            spatial_dims=arguments.dims,
            in_channels=arguments.in_channels,
            out_channels=arguments.num_classes,
            img_size=grid_px,
            feature_size=arguments.features,
            hidden_size=arguments.hidden,
            mlp_dim=4 * arguments.hidden,
            num_heads=arguments.heads,
            norm_name=_AFFINE_INSTANCE,
            dropout_rate=arguments.dropout,
        )
        self.vit, self.out = parts.vit, parts.out
        self.encoder1, self.encoder2 = parts.encoder1, parts.encoder2
        self.encoder3, self.encoder4 = parts.encoder3, parts.encoder4
        self.decoder2, self.decoder3 = parts.decoder2, parts.decoder3
        self.decoder4, self.decoder5 = parts.decoder4, parts.decoder5
        for block in self.vit.blocks:
            block.norm_cross_attn = nn.Identity()  # MONAI's is of cross-attention, which there is not
        self._grid = tuple(side // _PATCH_PX for side in grid_px)
        self.encoder = ("vit",)
        self.sees_whole_tile = True
        _fitted(self, arguments, _PATCH_PX)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, [Z,] Y, X) of normalised tiles; all sides must be multiples of 16."""
        patches = self.vit.patch_embedding.patch_embeddings(tiles)
        grid = patches.shape[2:]
        places = _on_grid(self.vit.patch_embedding.position_embeddings, self._grid)
        if grid != places.shape[2:]:
            mode = "trilinear" if len(grid) == 3 else "bilinear"
            places = F.interpolate(places, grid, mode=mode, align_corners=False)
        tokens = self.vit.patch_embedding.dropout((patches + places).flatten(2).transpose(1, 2))
        seen = []
        for block in self.vit.blocks:
            tokens = block(tokens)
            seen.append(_on_grid(tokens, grid))
        features = self.decoder5(_on_grid(self.vit.norm(tokens), grid), self.encoder4(seen[9]))
        features = self.decoder4(features, self.encoder3(seen[6]))
        features = self.decoder3(features, self.encoder2(seen[3]))
        return cast(torch.Tensor, self.out(self.decoder2(features, self.encoder1(tiles))))


def _on_grid(tokens: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """(N, tokens, C) -> (N, C, *grid)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)


def _fitted(model: Any, arguments: MonaiArguments, stride: int) -> Any:
    """The model with our norms and with what the engine asks of every model."""
    model.axes = ("z", "y", "x")[-arguments.dims :]
    model.stride = model.stride_planes = stride
    return _put_norms(model, arguments)


def _put_norms(model: Any, arguments: MonaiArguments) -> Any:
    """Put the norm that is asked for into the place of each instance norm."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.InstanceNorm2d | nn.InstanceNorm3d) and child.affine:
                setattr(parent, name, normalisation(arguments.norm, child.num_features, arguments.dims))
    return model


def _nets() -> Any:
    return library("monai.networks.nets")


def _need_einops(name: str) -> None:
    """Refuse a network that MONAI builds with einops.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        library("einops")
    except ImportError as error:
        raise ConfigError(f"architecture {name}: needs the extra `volumes`: pip install 'segcore[volumes]'") from error
