"""Views: a tile seen turned, mirrored or at another scale, and the logits turned back (test-time augmentation).

A view acts on the last two axes, y and x, of tiles (N, C, ...) and logits (N, K, ...).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import interpolate

Turns = Literal["none", "flips", "d4"]


@dataclass(frozen=True)
class View:
    """One way to look at a tile."""

    quarter_turns: int = 0
    mirrored: bool = False
    scale: float = 1.0

    def seen(self, tiles: torch.Tensor, stride: int) -> torch.Tensor:
        """The tiles in this view, their sides still multiples of the model's stride."""
        if self.mirrored:
            tiles = tiles.flip(-1)
        if self.quarter_turns:
            tiles = tiles.rot90(self.quarter_turns, (-2, -1))
        if self.scale == 1:
            return tiles
        sides = [max(stride, round(n * self.scale / stride) * stride) for n in tiles.shape[-2:]]
        return resized(tiles, (sides[0], sides[1]), antialias=self.scale < 1)

    def back(self, logits: torch.Tensor, sides: tuple[int, int]) -> torch.Tensor:
        """Logits of this view as those of the tiles; `sides` are the tiles' y and x."""
        if self.scale != 1:
            turned = sides[::-1] if self.quarter_turns % 2 else sides
            logits = resized(logits, turned, antialias=False)
        if self.quarter_turns:
            logits = logits.rot90(-self.quarter_turns, (-2, -1))
        return logits.flip(-1) if self.mirrored else logits


def resized(values: torch.Tensor, sides: tuple[int, int], antialias: bool) -> torch.Tensor:
    """Bilinear in y and x, in float32 (planes before them stay apart)."""
    planes = values.reshape(values.shape[0], -1, *values.shape[-2:])
    out = interpolate(planes.float(), sides, mode="bilinear", align_corners=False, antialias=antialias)
    return out.reshape(*values.shape[:-2], *sides).to(values.dtype)


def views_of(turns: Turns, scales: tuple[float, ...]) -> tuple[View, ...]:
    """All views; the plain one first.

    `flips` are the identity and the two mirrorings and both (4), `d4` all turns and mirrorings of a square (8).
    """
    kinds = {
        "none": [(0, False)],
        "flips": [(0, False), (0, True), (2, True), (2, False)],
        "d4": [(turn, mirrored) for mirrored in (False, True) for turn in range(4)],
    }
    sizes = (1.0, *(scale for scale in scales if scale != 1))
    return tuple(View(turn, mirrored, scale) for scale in sizes for turn, mirrored in kinds[turns])
