"""Steps: what is done to the mask of one image, in its own pixels; config, mask -> *steps* -> plan."""

import math

from pydantic import BaseModel, ConfigDict

from segcore.classes import ClassInfo
from segcore.components.cells import Coder, Codes
from segcore.config import RefineConfig, parse_radius, parse_size
from segcore.errors import ConfigError, StoreError
from segcore.geometry import Ints
from segcore.refine.morphology import Ball, closed, context, opened
from segcore.refine.rules import Holes, Rule, Settle, Small
from segcore.scoring.areas import LENGTH_UNITS, pixel_sides, pixel_size, unmeasured
from segcore.scoring.counts import foreground_rows
from segcore.spatial import METERS_PER_UNIT
from segcore.store import Image, Label

ROUNDING = 1e-9


class Steps(BaseModel):
    """All that decides the pixels, beside the mask: for `plan.json`."""

    model_config = ConfigDict(frozen=True)

    classes: tuple[int, ...]
    """Rows of the class table that are refined."""
    background: int | None
    """Row of the background."""
    is_plain: bool
    """True if what is taken from a class can only become background: there is one class beside it."""
    open: Ball | None
    close: Ball | None
    hole_px: int
    """0 = holes stay."""
    min_px: int
    keep_largest: bool

    @property
    def balls(self) -> tuple[Ball | None, Ball | None]:
        return self.open, self.close

    def context(self, ndim: int) -> Ints:
        """How far around a pixel `local` looks."""
        return context(self.balls, ndim)

    def local(self, codes: Codes, coder: Coder) -> Codes:
        """What depends on the pixels around alone: opening, then closing."""
        if self.open is not None:
            codes = opened(codes, self.classes, self.open, coder.ignore, self._instead(coder))
        if self.close is not None:
            free = [coder.undecided] if self.background is None else [coder.undecided, self.background]
            codes = closed(codes, self.classes, self.close, coder.ignore, free)
        return codes

    def rules(self, coder: Coder) -> tuple[Rule, ...]:
        """What depends on whole components, one rule after the other."""
        settle = Settle(coder.undecided, self.background or 0)
        found: list[Rule] = [settle] if self.open is not None and not self.is_plain else []
        if self.hole_px and self.background is not None:
            found.append(Holes(self.background, self.hole_px))
        if self.min_px > 1 or self.keep_largest:
            has_background = self.background is not None
            found.append(Small(self.classes, self.min_px, self.keep_largest, self._instead(coder), not has_background))
            found += [] if self.is_plain else [settle]
        return tuple(found)

    def num_passes(self, coder: Coder) -> int:
        """How often every cell of a mask is looked at."""
        return len(self.rules(coder)) + 1

    def _instead(self, coder: Coder) -> int:
        if not self.is_plain:
            return coder.undecided
        assert self.background is not None, "a mask of one class without a background is not plain"
        return self.background


def steps_of(config: RefineConfig, image: Image, mask: Label) -> Steps:
    """What a config means for a mask.

    Raises:
        ConfigError: if the mask has no such class, or nothing is asked for.
        StoreError: if its pixel size is not known, or is in degrees, and a size is given in another unit than px.
    """
    background = _background(mask.classes)
    if config.fill_holes is not None and background is None:
        raise StoreError(
            f"image {image.image_id}: mask {mask.name} has no class called background that could have holes; leave out "
            "--fill-holes: --min-size gives what is small to the class around it"
        )
    rows = [row for row in foreground_rows(mask.classes) if row != background]
    return Steps(
        classes=_asked(config, mask),
        background=background,
        is_plain=background is not None and len(rows) == 1,
        open=_ball(config.open, "--open", image, mask),
        close=_ball(config.close, "--close", image, mask),
        hole_px=math.floor(_px(config.fill_holes, "--fill-holes", image, mask) + ROUNDING),
        min_px=max(1, math.ceil(_px(config.min_size, "--min-size", image, mask) - ROUNDING)),
        keep_largest=config.keep_largest,
    )


def _background(classes: tuple[ClassInfo, ...]) -> int | None:
    """Its row; None where no class is called that."""
    rest = set(range(len(classes))) - set(foreground_rows(classes))
    return min(rest) if rest else None


def _asked(config: RefineConfig, mask: Label) -> tuple[int, ...]:
    names = [info.name for info in mask.classes]
    for name in config.classes:
        if name not in names:
            raise ConfigError(f"classes: mask {mask.name} has the classes {', '.join(names)}, got '{name}'")
    background = _background(mask.classes)
    asked = [row for row, name in enumerate(names) if name in config.classes] or foreground_rows(mask.classes)
    return tuple(row for row in asked if row != background)


def _ball(text: str | None, option: str, image: Image, mask: Label) -> Ball | None:
    """The ball of a radius: 2px, 1um."""
    if text is None:
        return None
    radius, unit = parse_radius(text)
    if unit == "px":
        return Ball(radius=radius, sides=tuple(0.0 if axis == "t" else 1.0 for axis in mask.axes))
    spacing, georef, level = image.spacing, image.georef, mask.base_level
    sides, own = pixel_sides(mask.axes, spacing and spacing.at_level(level), georef and georef.at_level(level))
    if own == "px":
        why = unmeasured(spacing, georef, f"{option} {text}", f"{option} 2px")
        raise StoreError(f"image {image.image_id}: {why}")
    return Ball(radius=radius * METERS_PER_UNIT[unit] / LENGTH_UNITS[own], sides=sides)


def _px(text: str | None, option: str, image: Image, mask: Label) -> float:
    """A size in pixels of the mask; 0 where none is given."""
    if text is None:
        return 0.0
    value, unit = parse_size(text)
    if unit == "px":
        return value
    spacing, georef, level = image.spacing, image.georef, mask.base_level
    axes = tuple(axis for axis in mask.axes if axis != "t")  # every plane of a sequence stands for itself
    sizes = pixel_size(axes, spacing and spacing.at_level(level), georef and georef.at_level(level))
    if not sizes:
        why = unmeasured(spacing, georef, f"{option} {text}", f"{option} 50px")
        raise StoreError(f"image {image.image_id}: {why}")
    if unit not in sizes:
        raise StoreError(
            f"image {image.image_id}: {option} {text}: expected one of {', '.join(('px', *sizes))}, got {unit}"
        )
    return value / sizes[unit]
