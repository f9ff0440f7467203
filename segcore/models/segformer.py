"""SegFormer: tiles (N, C, Y, X) -> logits (N, K, Y, X). Transformer stages at 1/4 to 1/32, and a decoder of 1x1 layers.

    stage    patches overlap (7x7 by 4, then 3x3 by 2) -> [attention, feed-forward with a 3x3 in it] x depth
    decoder  each stage -> 1x1 -> 1/4, side by side -> 1x1 -> scores -x4-> logits

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers" (2021). Keys and values
are taken from a coarser grid (`_REDUCTIONS`), queries from every pixel; there is no positional encoding, the 3x3 tells
where the borders are. Attention sees the whole tile, so that no halo is enough.
"""

from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from segcore.models.arguments import ModelArguments
from segcore.models.blocks import conv_norm_relu, enlarged


class _Size(NamedTuple):
    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    decoder: int


SIZES = {
    "b0": _Size((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "b1": _Size((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "b2": _Size((64, 128, 320, 512), (3, 4, 6, 3), 768),
}
"""Table 6 of the paper."""
_HEADS, _REDUCTIONS, _EXPANSION = (1, 2, 5, 8), (8, 4, 2, 1), 4


class SegFormerArguments(ModelArguments):
    """What a SegFormer is built from."""

    size: Literal["b0", "b1", "b2"] = "b0"
    """Of the encoder, as the paper names them."""


class SegFormer(nn.Module):
    """Mix Transformer encoder, all-MLP decoder."""

    def __init__(self, arguments: SegFormerArguments) -> None:
        super().__init__()
        size = SIZES[arguments.size]
        self.encoder = ("stages",)
        self.stride = 32
        before = (arguments.in_channels, *size.channels)
        self.stages = nn.ModuleList(_Stage(before[i], size.channels[i], size.depths[i], i) for i in range(4))
        self.to_decoder = nn.ModuleList(nn.Conv2d(n, size.decoder, 1) for n in size.channels)
        self.merge = nn.Sequential(*conv_norm_relu(4 * size.decoder, size.decoder, kernel=1))
        self.head = nn.Conv2d(size.decoder, arguments.num_classes, 1)

    def forward(self, tiles_ncyx: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, Y, X) of normalised tiles (N, C, Y, X); y and x must be multiples of 32."""
        features, beside = tiles_ncyx, []
        for stage, layer in zip(self.stages, self.to_decoder, strict=True):
            features = stage(features)
            beside.append(layer(features))
        finest = beside[0].shape[2:]
        scores = self.head(self.merge(torch.cat([enlarged(each, finest) for each in reversed(beside)], dim=1)))
        return enlarged(cast(torch.Tensor, scores), tiles_ncyx.shape[2:])


class _Stage(nn.Module):
    """Patches and the blocks over them; (N, n_in, y, x) -> (N, n_out, y / stride, x / stride)."""

    def __init__(self, n_in: int, n_out: int, depth: int, number: int) -> None:
        super().__init__()
        side, stride = (7, 4) if number == 0 else (3, 2)
        self.patches = nn.Conv2d(n_in, n_out, side, stride, side // 2)
        self.first_norm = nn.LayerNorm(n_out)
        self.blocks = nn.ModuleList(_Block(n_out, _HEADS[number], _REDUCTIONS[number]) for _ in range(depth))
        self.last_norm = nn.LayerNorm(n_out)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        patches = self.patches(features)
        y, x = patches.shape[2:]
        tokens = self.first_norm(patches.flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens, y, x)
        return _on_grid(self.last_norm(tokens), y, x)


class _Block(nn.Module):
    """Efficient self-attention and Mix-FFN, each with a shortcut; (N, y * x, C) -> the same."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.reduce = nn.Conv2d(channels, channels, reduction, reduction) if reduction > 1 else None
        self.reduced_norm = nn.LayerNorm(channels) if reduction > 1 else None
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        self.feed_norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, _EXPANSION * channels)
        self.depthwise = nn.Conv2d(
            _EXPANSION * channels, _EXPANSION * channels, 3, padding=1, groups=_EXPANSION * channels
        )
        self.narrow = nn.Linear(_EXPANSION * channels, channels)

    def forward(self, tokens: torch.Tensor, y: int, x: int) -> torch.Tensor:
        tokens = tokens + self._attended(self.attention_norm(tokens), y, x)
        wide = self.widen(self.feed_norm(tokens))
        wide = self.depthwise(_on_grid(wide, y, x)).flatten(2).transpose(1, 2)
        return tokens + cast(torch.Tensor, self.narrow(F.gelu(wide)))

    def _attended(self, tokens: torch.Tensor, y: int, x: int) -> torch.Tensor:
        seen = tokens
        if self.reduce is not None and self.reduced_norm is not None:
            seen = self.reduced_norm(self.reduce(_on_grid(tokens, y, x)).flatten(2).transpose(1, 2))
        key, value = self.key_value(seen).chunk(2, dim=-1)
        query, key, value = (self._by_head(part) for part in (self.query(tokens), key, value))
        found = F.scaled_dot_product_attention(query, key, value)
        return cast(torch.Tensor, self.out(found.transpose(1, 2).flatten(2)))

    def _by_head(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, tokens, C) -> (N, heads, tokens, C / heads)."""
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


def _on_grid(tokens: torch.Tensor, y: int, x: int) -> torch.Tensor:
    """(N, y * x, C) -> (N, C, y, x)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, y, x)
