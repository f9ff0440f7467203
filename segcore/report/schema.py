"""Schema: what report.json holds, as pydantic models -> *its JSON schema*; `segcore report --schema` prints it.

The models say what a reader may rely on; keys that they do not name may be added at any time, so readers pass over what
they do not know. Scores are null where they are not defined (a class that is nowhere, an image without objects).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from segcore.classes import ClassInfo
from segcore.results import ItemResult, StageTold

Share = Annotated[float, Field(ge=0, le=1)] | None
Scores = dict[str, float | None]
"""By name. All are in 0..1, but for `kappa` (-1..1) and the lengths `hd95` and `assd`."""
Probs = dict[str, Any] | None
"""Scores of probabilities: auc, ap, ece (of all classes their means), `num_images`, and `reliability`: by bin, px,
confidence and accuracy.
"""
Span = Annotated[list[float], Field(min_length=2, max_length=2)] | None
"""From, to; null where there is none."""
Count = Annotated[int, Field(ge=0)]


class Open(BaseModel):
    """A record that may hold more than is named here."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)


class FailureEntry(Open):
    """A source or image that came to nothing."""

    source: str
    error: str
    """One line."""


class ClassEntry(Open):
    """The scores of one class."""

    iou: Share
    dice: Share
    precision: Share
    recall: Share
    accuracy: Share
    target_px: Count
    """Pixels of the class in the target, whatever the mask says."""
    mask_px: Count
    num_images: Count | None = None
    """Images where it occurs; not of a single image."""
    image_mean: Scores | None = None
    """iou and dice, taken in each image and averaged; not of a single image."""
    boundary: Scores | None = None
    """hd95, assd (in the unit that `boundary` of all classes names), nsd, boundary_iou."""
    probs: Probs = None
    instances: Scores | None = None
    """pq, sq, f1... where the foreground has several classes and objects were scored."""


class Drawn(Open):
    """How the images were drawn again for the intervals."""

    level: float
    resamples: Count
    seed: int
    unit: Literal["images", "groups"]
    num_units: Count


class Interval(Drawn):
    """95 % intervals."""

    overall: dict[str, Span]
    per_class: dict[str, dict[str, Span]]
    instances: dict[str, Span] | None = None
    probs: dict[str, Span] | None = None


class Summary(Open):
    """The scores of a set of images."""

    num_scored: Count | None = None
    overall: Scores
    per_class: dict[str, ClassEntry]
    """By the class's name."""
    confusion: list[list[Count]]
    """Pixels; rows are classes of the target, columns those of the mask, both in the order of `classes`."""
    excluded_px: dict[str, Count]
    """Pixels that do not count: `ignored`, `unpredicted`, `invalid`."""
    interval: Interval | None = None
    """null where fewer than two images (or groups) can be drawn."""
    boundary: dict[str, Any] | None = None
    """unit, tolerance, cap of the boundary scores, where they were taken."""
    instances: Scores | None = None
    """Scores of objects, whatever their class, where there are any."""
    probs: Probs = None


class Tile(Open):
    """A tile with many wrong pixels."""

    start: list[Count]
    """In the axes of the mask, y and x last."""
    shape: list[Count]
    wrong_share: Share
    counted_px: Count


class NamedTile(Tile):
    """One of all images'."""

    image: str
    level: Count = 0
    """Of the image, in whose pixels it lies."""


class ImageEntry(Open):
    """One image; those without a target have no scores."""

    split: str | None
    has_target: bool
    areas: dict[str, dict[str, float]]
    """Class -> unit (px, um2, mm2, m2, ha, mm3, ml) -> area or volume of the mask."""
    level: Count = 0
    """Of the image, in whose pixels all is counted."""
    overall: Scores | None = None
    per_class: dict[str, ClassEntry] | None = None
    confusion: list[list[Count]] | None = None
    excluded_px: dict[str, Count] | None = None
    boundary: dict[str, Any] | None = None
    instances: Scores | None = None
    probs: Probs = None
    worst_tiles: list[Tile] = []


class Difference(Open):
    """A score of two masks on the same images."""

    value: float | None
    other: float | None
    difference: float | None
    """value - other."""
    interval: Span = None
    """Of the difference."""


class Comparison(Drawn):
    """A mask against another one, on the images with a target that both have."""

    mask: str
    """The other's name."""
    num_images: Count
    overall: dict[str, Difference]
    per_class: dict[str, dict[str, Difference]]
    instances: dict[str, Difference] | None = None
    probs: dict[str, Difference] | None = None


class SinceEntry(Comparison):
    """A mask against that of an earlier report of its series."""

    run: str
    created: str
    num_left_out: Count
    """Images of both whose pixels or target have changed."""
    per_split: dict[str, Comparison]


class ScoresDocument(Summary):
    """What `segcore score --json` gives under `scores`, too."""

    format: int
    mask: str
    classes: list[ClassInfo]
    num_images: Count
    settings: dict[str, Any]
    """The rules that the scores were made by."""
    per_split: dict[str, Summary]
    per_group: dict[str, Summary]
    per_image: dict[str, ImageEntry]
    """By image id."""
    worst_tiles: list[NamedTile]
    against: Comparison | None = None


class PaceEntry(Open):
    """How fast the masks were made; of those of which it is known."""

    num_images: Count
    skipped_share: Share
    """Of the tiles."""
    mpx_per_s: float
    seconds: float
    ended: str


class ObjectsEntry(Open):
    """What `segcore measure` found of the masks as they stand; other images are left out."""

    classes: dict[str, dict[str, float]]
    """Class -> objects, area or volume by unit (`area_px`, `area_um2`...), confidence; of all images. A unit that not
    all images with such objects have is left out."""
    images: dict[str, dict[str, dict[str, float]]]
    """The same by image id."""


class BandsEntry(Open):
    """Which band mattered, by one method of `segcore explain`."""

    says: str
    """What the values are."""
    note: str
    """Of what, and how they were found."""
    classes: list[str]
    values: dict[str, list[float | None]]
    """Band -> one value for each class."""


class ReportDocument(Open):
    """report.json."""

    format: Literal[2]
    run: str
    created: str
    """UTC, ISO 8601."""
    title: str
    mask: str
    failures: list[FailureEntry]
    items: list[ItemResult]
    """What became of each image."""
    scores: ScoresDocument
    since: SinceEntry | None
    """null where there is no earlier report with the same images."""
    stages: list[StageTold]
    """What ran before the report, where a flow made it."""
    objects: ObjectsEntry | None = None
    """null where nothing was measured."""
    pace: PaceEntry | None
    bands: list[BandsEntry] = []
    """Empty where nobody asked."""
    provenance: dict[str, dict[str, str]]
    """Heading -> fact -> value."""


def report_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of report.json."""
    schema = ReportDocument.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "segcore report.json"}
