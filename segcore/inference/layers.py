"""Layers: probabilities and uncertainty of an image on their way to the store, at their own finest level.

    pieces of the mask's level --2x2 mean, a few times--> pieces of the layer --> whole shards --> store

A layer is an image of its own beside the mask; unusable pixels are 0 in 8-bit layers and NaN in float16.
"""

import math
from typing import Any

import numpy as np

from segcore.geometry import Ints, Window
from segcore.inference.decision import Decision, Kind
from segcore.inference.model_grid import ModelGrid, Pixels
from segcore.store import PyramidSpec, Staging, UnitWriter, fitting_shard_px
from segcore.store.pyramid import UNIT_SHARDS


def layer_spec(grid: ModelGrid, decision: Decision, kind: Kind, level: int, shard_px: int) -> PyramidSpec:
    """How a layer is stored: the image's axes, its channels in place of the bands.

    Args:
        grid: the image, at the level of the mask.
        decision: its classes and dtype.
        kind: which layer.
        level: of the image, the finest of the layer; that of the mask where it is finer.
        shard_px: of the mask; a layer's shard takes no more than a work unit of the mask.
    """
    image, level = grid.image, max(level, grid.level)
    shape = tuple(
        decision.num_channels(kind) if axis == "c" else n
        for axis, n in zip(image.axes, image.shape(level), strict=True)
    )
    side_px = min(shard_px, UNIT_SHARDS * shard_px >> (level - grid.level))
    return PyramidSpec(
        axes=image.axes,
        shape=shape,
        dtype=decision.layer_dtype,
        kind="image",
        fill=decision.unknown,
        nodata=None if decision.layer_dtype == "uint8" else decision.unknown,
        shard_px=fitting_shard_px(image.axes, shape, decision.layer_dtype, side_px),
        base_level=level,
        num_levels=image.num_levels - level,
        ngff=image.ngff,
    )


class Layer:
    """One layer being written; by the writer's thread only.

    Args:
        kind: which layer.
        staging: where it goes.
        mask_level: the finest level of the mask, in whose windows answers come.
        plan: what it is made by.
    """

    def __init__(self, kind: Kind, staging: Staging, mask_level: int, plan: dict[str, Any]) -> None:
        self.kind, self.staging, self.plan = kind, staging, plan
        self._halvings = staging.spec.base_level - mask_level
        self._channel = staging.spec.axes.index("c")
        self._writer: UnitWriter | None = None
        self._begun: dict[Ints, Pixels] = {}
        self._missing_px: dict[Ints, int] = {}

    def help_with(self, unit: Window) -> None:
        """Write the shards that take their pixels from a work unit of the mask, and coarser ones of theirs alone."""
        self._begun, self._missing_px = {}, {}
        self._writer = None if self.staging.finished else self.staging.writer(self._with_channels(self._own(unit)))

    def lacks(self, window: Window) -> bool:
        """True if a shard is left that takes pixels from a window of the mask's level, over the axes without c."""
        if self.staging.finished:
            return False
        shards = self.staging.spec.grid(0).touching(self._with_channels(self._own(window)))
        return any(not self.staging.is_done(0, shard) for shard in shards)

    def put(self, window: Window, values: Pixels) -> None:
        """Take the values (channels, ...) of a window of the mask's level that is a whole shard of the mask."""
        if self.staging.finished:
            return
        for _ in range(self._halvings):
            values = self.staging.spec.reduced(values)
        own = self._with_channels(self._own(window))
        values = np.moveaxis(values, 0, self._channel)
        assert values.shape == own.shape, f"layer {self.kind}: {values.shape} for a window of {own.shape}"
        for shard in self.staging.spec.grid(0).touching(own):
            if not self.staging.is_done(0, shard):
                self._place(shard, own, values)

    def _place(self, shard: Ints, window: Window, values: Pixels) -> None:
        target = self.staging.shard_window(shard)
        inside = target.intersected(window)
        part = values[inside.relative_to(window.start).slices]
        if inside != target:
            whole = self._begun.setdefault(shard, np.empty(target.shape, dtype=values.dtype))
            whole[inside.relative_to(target.start).slices] = part
            self._missing_px[shard] = self._missing_px.get(shard, target.num_px) - inside.num_px
            if self._missing_px[shard]:
                return
            part = self._begun.pop(shard)
            del self._missing_px[shard]
        self._writer = self._writer or self.staging.gatherer()
        self._writer.put(shard, part)

    def _own(self, window: Window) -> Window:
        """A window of the mask's level in pixels of the layer."""
        scale = (*(1,) * (window.ndim - 2), 2**self._halvings, 2**self._halvings)
        start = tuple(a // s for a, s in zip(window.start, scale, strict=True))
        stop = tuple(math.ceil(b / s) for b, s in zip(window.stop, scale, strict=True))
        return Window(start, tuple(b - a for a, b in zip(start, stop, strict=True)))

    def _with_channels(self, window: Window) -> Window:
        return window.with_axis(self._channel, self.staging.spec.shape[self._channel])
