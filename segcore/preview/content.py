"""Content: everything that the page of a preview shows, and the page itself."""

from dataclasses import dataclass
from pathlib import Path

from segcore.classes import ClassInfo
from segcore.report import Chip, Fact, PictureRow
from segcore.report.html import templates

_TEMPLATES = templates(Path(__file__).parent)


@dataclass(frozen=True, slots=True)
class ClassRow:
    """How much of the pixels is of one class."""

    info: ClassInfo
    in_images: float
    """Share of the usable pixels of the training images."""
    in_tiles: float
    """Share of the usable pixels of sampled tiles."""


@dataclass(frozen=True, slots=True)
class BandRow:
    """What a band is normalised by."""

    name: str
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class AugmentRow:
    """One operation of the augmentation."""

    name: str
    share: float
    """Of the tiles."""
    reason: str


@dataclass(frozen=True, slots=True)
class PreviewContent:
    """What `render` turns into a page. Strings are plain text: they are escaped there."""

    title: str
    subtitle: str
    created: str
    chips: tuple[Chip, ...]
    tiles: tuple[PictureRow, ...]
    classes: tuple[ClassRow, ...]
    num_sampled: int
    """Tiles that `in_tiles` is of."""
    augments: tuple[AugmentRow, ...]
    bands: tuple[BandRow, ...]
    is_stretched: bool
    chosen: tuple[Fact, ...]
    """Settings that nobody gave."""


def render(content: PreviewContent) -> str:
    """The page as text; it loads nothing, and a content policy forbids it to."""
    return _TEMPLATES.get_template("preview.html.j2").render(content=content)
