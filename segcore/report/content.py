"""Content: everything that a report shows, gathered before a line of HTML is written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from segcore.classes import ClassInfo
from segcore.results import StageTold, State

ERRORS = "errors"
"""Title of the picture of the wrong pixels."""


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

    @property
    def num_bytes(self) -> int:
        """Of the page that it takes."""
        return len(self.uri)


@dataclass(frozen=True, slots=True)
class PictureRow:
    """Pictures that belong side by side: an image with its mask, or one tile."""

    title: str
    caption: str
    panels: tuple[Panel, ...]

    @property
    def shows_errors(self) -> bool:
        """True if one of them is of the wrong pixels; there is none without a target."""
        return any(panel.title == ERRORS for panel in self.panels)

    @property
    def num_bytes(self) -> int:
        """Of the page that they take."""
        return sum(panel.num_bytes for panel in self.panels)


@dataclass(frozen=True, slots=True)
class Chip:
    """A number in the headline."""

    label: str
    value: str
    tone: Literal["plain", "good", "bad"] = "plain"
    detail: str = ""
    """Its interval."""
    change: str = ""
    """Since the last report."""
    change_tone: Literal["plain", "good", "bad"] = "plain"


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
    areas: Mapping[str, tuple[str, float]]
    """Class name -> area in the unit of the column, ready to read, and the number to sort by."""
    source: str = ""
    """Name of its file, where that is not told already, and not hidden."""
    change: float | None = None
    """Of the IoU without background, since the last report."""
    skipped: float | None = None
    """Share of its tiles that were not inferred."""
    num_objects: int | None = None
    """That were measured."""


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
class ComparedImage:
    """One image in the table of a comparison; `value` of the first mask, `other` of the second."""

    image: str
    split: str
    overall: Mapping[str, Mapping[str, float | None]]
    """Score -> `value`, `other`, `difference`."""
    class_iou: Mapping[str, Mapping[str, float | None]]
    """Class name -> the same of its IoU."""


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
class ObjectRow:
    """The objects of one class in all images."""

    info: ClassInfo
    num_objects: int
    size: str
    """Area or volume of them all, ready to read."""
    mean_size: str | None
    """None where there is no object."""
    confidence: float | None
    """Mean over their pixels, where probabilities were kept."""


@dataclass(frozen=True, slots=True)
class ObjectTable:
    """What was measured."""

    rows: tuple[ObjectRow, ...]
    num_images: int
    """That were measured."""
    num_masks: int
    """That the report is about."""


@dataclass(frozen=True, slots=True)
class ReportContent:
    """What `render` turns into a page. Strings are plain text: they are escaped there."""

    title: str
    subtitle: str
    created: str
    chips: tuple[Chip, ...]
    classes: tuple[ClassInfo, ...]
    failures: tuple[Failure, ...] = ()
    num_failures_left_out: int = 0
    scores: Mapping[str, Any] | None = None
    """The document of `score` (see docs): overall, per_class, per_split, confusion; None where nothing was scored."""
    since: Mapping[str, Any] | None = None
    """The scores against those of an earlier report, as in report.json; None where there is none."""
    headline_split: str | None = None
    """Whose scores go first, where images have splits."""
    images: tuple[ImageRow, ...] = ()
    detailed: tuple[ClassInfo, ...] = ()
    """Classes with an IoU and a size of their own in the table of images."""
    num_images_left_out: int = 0
    objects: ObjectTable | None = None
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
    stages: tuple[StageTold, ...] = ()
    pace: tuple[Fact, ...] = ()
    """How fast the masks were made, and what was skipped."""
    provenance: Mapping[str, tuple[Fact, ...]] = field(default_factory=dict)
    """Heading -> facts."""


@dataclass(frozen=True, slots=True)
class ComparisonContent:
    """What `render_comparison` turns into a page: two masks, the first against the second."""

    title: str
    created: str
    sides: tuple[tuple[str, str], tuple[str, str]]
    """Of each mask its name in the tables (A, B), and what it is."""
    chips: tuple[Chip, ...]
    classes: tuple[ClassInfo, ...]
    failures: tuple[Failure, ...]
    compared: Mapping[str, Any] | None
    """As `since` in report.json, with a part for each split; None where no image of both has a target."""
    images: tuple[ComparedImage, ...]
    """Those that changed most first."""
    num_images_left_out: int
    detailed: tuple[ClassInfo, ...]
    pictures: tuple[PictureRow, ...]
    num_pictures_left_out: int
    headline_split: str | None = None
    """Whose scores go first, where images have splits."""
    notes: tuple[str, ...] = ()
    """What was not compared, and why."""
    provenance: Mapping[str, tuple[Fact, ...]] = field(default_factory=dict)
    """Heading -> facts: the rules, what made each mask, versions."""
