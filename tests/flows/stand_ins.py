"""Stand-ins for the stages, for tests of what is around them."""

from collections.abc import Callable

from segcore.config import StageConfig
from segcore.progress import Progress
from segcore.results import ItemResult, StageResult

Stage = Callable[[StageConfig, Progress], StageResult]

GOOD = ItemResult(state="done", source="a.tif", image="a-01234567", scores={"miou": 0.75})
BAD = ItemResult(state="failed", source="b.tif", error="b.tif: not an image")
LEFT = ItemResult(state="left", source="c.tif", image="c-01234567")
