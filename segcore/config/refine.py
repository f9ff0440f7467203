"""Refine: what the stage is asked for that makes a better mask of a finished one."""

import re
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from segcore.config.base import StageConfig
from segcore.config.predict import RESERVED_NAMES
from segcore.spatial import parse_length

SIZE_UNITS = ("px", "um2", "mm2", "m2", "ha", "mm3", "ml")
"""Of sizes; which of them mean something depends on the image."""


def parse_size(text: str) -> tuple[float, str]:
    """An area or a volume that a user asks for: `50`, `50px`, `20um2`, `0.5ha`, `2ml` -> its value and unit.

    Raises:
        ValueError: if it is no positive number with such a unit.
    """
    found = re.fullmatch(r"\s*([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµμ]*[23²³]?)\s*", text)
    unit = re.sub("[µμ]", "u", found[2]).replace("²", "2").replace("³", "3") or "px" if found else ""
    if found is None or unit not in SIZE_UNITS or not float(found[1]) > 0:
        raise ValueError(f"expected a size such as 50, 50px, 20um2, 0.5ha or 2ml, got '{text}'")
    return float(found[1]), unit


def parse_radius(text: str) -> tuple[float, str]:
    """A length; a number without a unit is in px.

    Raises:
        ValueError: if it is no positive number, or its unit is no length.
    """
    return parse_length(f"{text}px" if re.fullmatch(r"\s*[0-9.]+\s*", text) else text)


class RefineConfig(StageConfig):
    """Masks -> masks without specks and holes, and their objects."""

    model: str
    """Mask to refine: a model id in the workspace (the mask's name), or the path of a model package."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Name of the new mask under `labels/`; that of the old one with `_refined` by default."""
    images: tuple[str, ...] = ()
    """Image ids; none = every image that has the mask."""
    classes: tuple[str, ...] = ()
    """Classes to refine, by name; none = all but the background."""
    open: str | None = None
    """Radius of the opening, which takes away what is thinner: 1, 2px, 0.5um."""
    close: str | None = None
    """Radius of the closing, which fills gaps that are narrower: 1, 2px, 0.5um."""
    fill_holes: str | None = None
    """Holes of up to this size are filled: 100, 100px, 20um2, 0.1ha; mm3 and ml in volumes."""
    min_size: str | None = None
    """Connected pixels of a class that are smaller go to the class around them: 50, 50px, 10um2, 0.5ha, 2ml."""
    keep_largest: bool = False
    """Of each class only the largest connected part stays."""
    objects: bool = False
    """Write `labels/<name>_instances` too: connected pixels of one class, each with a number."""
    overwrite: bool = False
    """Replace masks that were refined with other settings."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""

    @field_validator("open", "close", "fill_holes", "min_size", mode="before")
    @classmethod
    def _take_numbers_for_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("open", "close")
    @classmethod
    def _is_a_radius(cls, text: str | None) -> str | None:
        if text is not None:
            parse_radius(text)
        return text

    @field_validator("fill_holes", "min_size")
    @classmethod
    def _is_a_size(cls, text: str | None) -> str | None:
        if text is not None:
            parse_size(text)
        return text

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name in RESERVED_NAMES:
            raise ValueError(f"name: '{self.name}' is the workspace's own; give the mask another name")
        if self.name is not None and self.name.endswith("_instances"):
            raise ValueError(f"name: '{self.name}' is what the objects of a mask are called; leave out the ending")
        if not self.changes_pixels and not self.objects:
            raise ValueError("nothing to do: expected one of open, close, fill_holes, min_size, keep_largest, objects")
        if not self.changes_pixels and self.name is not None:
            raise ValueError("name: objects alone are those of the mask itself; leave the name out")
        return self

    @property
    def changes_pixels(self) -> bool:
        """False if only the objects of the mask as it is are asked for."""
        return bool(self.open or self.close or self.fill_holes or self.min_size or self.keep_largest)
