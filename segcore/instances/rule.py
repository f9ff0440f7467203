"""Rule: how objects are made of the mask's foreground and the layer `depth`, and how far that looks."""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SEED_DEPTH = 128
"""Of 255: where an object's own seed begins."""
NUM_PARTS = 2
"""Logits behind those of the classes, of a model that tells objects apart: border, depth."""
LEVELS = 8
"""Steps in which the depth goes down from that of seeds to nothing."""


class Rule(BaseModel):
    """What decides the objects, beside mask and depth; part of the package of a model that tells objects apart."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    depth_px: int = Field(ge=1)
    """Distance from an object's rim, in px, from which on the depth is 1."""
    min_px: int = Field(default=1, ge=1)
    """Objects of fewer pixels are left out."""

    def scaled(self, step: tuple[float, ...]) -> "Rule":
        """The same on a mask of smaller or larger pixels.

        Args:
            step: sides (y, x) of a pixel that this is for, in pixels of the mask.
        """
        return Rule(
            depth_px=max(1, math.ceil(self.depth_px * max(step))), min_px=max(1, round(self.min_px * math.prod(step)))
        )

    @property
    def min_seed_px(self) -> int:
        """Smaller seeds are noise; one that reaches the rim of the image may be larger, and counts."""
        return 2 * self.depth_px

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Least depth (of 255), and steps of growth at it; the last one takes all of the foreground."""
        steps = -(-self.depth_px // 4)
        sloping = tuple((SEED_DEPTH * k // LEVELS, steps) for k in range(LEVELS - 1, 0, -1))
        return (*sloping, (0, 2 * self.depth_px))

    @property
    def context_px(self) -> int:
        """How far around a window it takes to know the objects in it, and which of them go on beside it."""
        return sum(steps for _, steps in self.levels) + self.min_seed_px + 2

    def frozen(self) -> dict[str, Any]:
        """For a plan: all that decides."""
        return {**self.model_dump(), "seed_depth": SEED_DEPTH, "min_seed_px": self.min_seed_px, "levels": self.levels}
