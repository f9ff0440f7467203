"""Results: what every stage returns, small enough for JSON; arrays stay in the workspace."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

State = Literal["done", "skipped", "left", "failed"]
"""`left`: the time was up before it; the next call goes on with it."""

STATED = ("tiles", "shards", "read_bytes", "write_bytes", "disk_bytes", "expected_cpu_s", "expected_s")
"""What a dry run of predict states of each image, and sums over them."""


HEADLINE_SPLITS = ("test", "val")
"""A score of images that were not trained on goes before one of all images."""


class ItemResult(BaseModel):
    """What became of one source or image."""

    model_config = ConfigDict(frozen=True)

    state: State
    source: str | None = None
    """The user's own file."""
    image: str | None = None
    """The image id in the workspace."""
    path: str | None = None
    """What was written."""
    error: str | None = None
    """One line, where `state` is failed."""
    scores: dict[str, Any] | None = None
    details: dict[str, Any] = {}
    """Numbers worth showing: shards written and resumed, tiles, share skipped."""


class StageResult(BaseModel):
    """What one stage did, in total and item by item."""

    model_config = ConfigDict(frozen=True)

    stage: str
    items: tuple[ItemResult, ...] = ()
    paths: tuple[str, ...] = ()
    """What a person opens next: images, masks, the package, the report."""
    scores: dict[str, Any] | None = None
    seconds: float = 0.0
    peak_mib: float = 0.0
    """Highest summed PSS of the process tree while the stage ran."""
    details: dict[str, Any] = {}

    @property
    def exit_code(self) -> int:
        return exit_code(self.items)


class StageTold(BaseModel):
    """What a report says of a stage that ran before it."""

    model_config = ConfigDict(frozen=True)

    stage: str
    done: int
    skipped: int
    failed: int
    seconds: float
    peak_mib: float

    @classmethod
    def of(cls, result: StageResult) -> "StageTold":
        """The numbers of a stage's result."""
        states = [item.state for item in result.items]
        counts = {state: states.count(state) for state in get_args(State)}
        return cls(stage=result.stage, **counts, seconds=round(result.seconds, 3), peak_mib=round(result.peak_mib, 1))


def exit_code(items: Iterable[ItemResult]) -> int:
    """0 all done (or skipped as unchanged), 3 partly done (or left for the next call), 1 all failed."""
    states = [item.state for item in items]
    if "failed" not in states:
        return 3 if "left" in states else 0
    return 1 if all(state == "failed" for state in states) else 3


def failures(results: Iterable[StageResult]) -> list[ItemResult]:
    """What failed, each source or image once: an image that fails in one stage fails in those after it too."""
    found: list[ItemResult] = []
    seen: set[str | None] = {None}
    for item in (item for result in results for item in result.items if item.state == "failed"):
        names = {item.source, item.image}
        if names <= {None} or not (names - {None}) & seen:
            found.append(item)
        seen |= names
    return found


def headline_part(scores: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
    """The scores that go first, of a document of scores: of the split that was not trained on, and its name; else of
    all images.
    """
    splits = scores.get("per_split", {})
    split = next((name for name in HEADLINE_SPLITS if name in splits), None)
    return split, splits[split] if split else scores
