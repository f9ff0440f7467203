"""Classes: ids, names and colours, the same in targets, model packages, masks and reports."""

from pydantic import BaseModel, ConfigDict, Field

IGNORE = 255
"""Class id of pixels that count as neither right nor wrong (in uint8; 65535 in uint16)."""

RGB = tuple[int, int, int]

PALETTE: tuple[RGB, ...] = (
    (0, 0, 0),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Colours for classes that have none of their own: Okabe & Ito's, which colour-blind people can tell apart."""


BACKGROUND = "background"
OTHER_ZERO: RGB = (136, 34, 85)
"""Of class 0 where it is no background (Paul Tol's wine): black is the colour of what is not looked for."""


def is_background(name: str) -> bool:
    """True of the name of a class that is what nobody looks for, in any case."""
    return name.strip().lower() == BACKGROUND


def default_color(number: int, name: str) -> RGB:
    """The colour of a class that has none of its own: black if it is the background."""
    if is_background(name):
        return PALETTE[0]
    return (OTHER_ZERO, *PALETTE[1:])[number % len(PALETTE)]


class ClassInfo(BaseModel):
    """One class: `id` is the pixel value in targets and masks."""

    model_config = ConfigDict(frozen=True)

    id: int = Field(ge=0, le=65535)
    name: str
    color: RGB
    """Red, green, blue, 0..255."""


def default_classes(num_classes: int) -> tuple[ClassInfo, ...]:
    """Names and colours for classes of which only the number is known."""
    names = ("background", "foreground") if num_classes == 2 else tuple(f"class {i}" for i in range(num_classes))
    return tuple(ClassInfo(id=i, name=names[i], color=default_color(i, names[i])) for i in range(num_classes))
