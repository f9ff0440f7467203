"""Content: everything that a report shows, gathered before a line of HTML is written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from segcore.classes import ClassInfo
from segcore.results import State


@dataclass(frozen=True, slots=True)
class Failure:
    """A source or image that came to nothing, and why in one line."""

    source: str
    error: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture, already encoded; `alt` says in words what it shows."""

    title: str
    uri: str
    """`data:image/...`"""
    alt: str


@dataclass(frozen=True, slots=True)
class PictureRow:
    """Pictures that belong side by side: an image with its mask, or one tile."""

    title: str
    caption: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Chip:
    """A number in the headline."""

    label: str
    value: str
    tone: Literal["plain", "good", "bad"] = "plain"
    detail: str = ""
    """Its interval."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the provenance."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image in the table of images."""

    image: str
    split: str
    state: State
    note: str
    """Why there is no score, or how much was left out of it; empty where nothing is to be said."""
    overall: Mapping[str, float | None]
    """As `counts.overall_scores` gives them; empty without a target."""
    class_iou: Mapping[str, float | None]
    """Class name -> IoU; empty without a target."""
    areas: Mapping[str, str]
    """Class name -> area in the unit of the image, ready to read."""


@dataclass(frozen=True, slots=True)
class BandTable:
    """Which band mattered, class by class."""

    title: str
    note: str
    """What the numbers are of, and how they were found."""
    classes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    """Band and its numbers, one for each class."""
    most: float
    """The largest of them: the length of a whole bar."""


@dataclass(frozen=True, slots=True)
class UnusualRow:
    """An image, and how far it is from the training images."""

    image: str
    score: float
    """Times as far as usual."""
    percentile: float
    is_unusual: bool
    words: str
    picture: Panel


@dataclass(frozen=True, slots=True)
class UnusualImages:
    """The images that are the least like the training images, the most unusual first."""

    num_training: int
    num_images: int
    """That were compared; more than there are rows."""
    num_unusual: int
    rows: tuple[UnusualRow, ...]


@dataclass(frozen=True, slots=True)
class ReportContent:
    """What `render` turns into a page. Strings are plain text: they are escaped there."""

    title: str
    subtitle: str
    created: str
    chips: tuple[Chip, ...]
    classes: tuple[ClassInfo, ...]
    failures: tuple[Failure, ...] = ()
    scores: Mapping[str, Any] | None = None
    """The document of `score` (see docs): overall, per_class, per_split, confusion; None where nothing was scored."""
    images: tuple[ImageRow, ...] = ()
    detailed: tuple[ClassInfo, ...] = ()
    """Classes with an IoU and an area of their own in the table of images."""
    num_images_left_out: int = 0
    confusion: Panel | None = None
    reliability: Panel | None = None
    overlays: tuple[PictureRow, ...] = ()
    num_overlays_left_out: int = 0
    worst: tuple[PictureRow, ...] = ()
    bands: tuple[BandTable, ...] = ()
    saliency: tuple[PictureRow, ...] = ()
    """Where the model looked, with what was asked of `segcore explain`."""
    unusual: UnusualImages | None = None
    curves: Panel | None = None
    provenance: Mapping[str, tuple[Fact, ...]] = field(default_factory=dict)
    """Heading -> facts."""
