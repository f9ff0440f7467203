"""Orders: the work units of masks for other processes; the one that leads plans, and finishes each image.

leader:  begin (plan, lease) -> orders -> crew ... counts -> finish (levels above the units, metadata)
helper:  order -> the same plan, or refusal -> pipeline -> shards and their ledger records    (`helper`)
"""

from collections.abc import Iterator
from dataclasses import dataclass

from segcore.config import PredictConfig
from segcore.geometry import Ints, Window
from segcore.inference.job import Job
from segcore.inference.run import MaskRun
from segcore.isolation import ByName, Task
from segcore.store import UNIT_SHARDS, plan_digest

_work_off = ByName("segcore.inference.helper", "work_off")


@dataclass(frozen=True, slots=True)
class Order:
    """One work unit of one mask."""

    config: PredictConfig
    """As the leader was given it; `images` is the one image."""
    name: str
    """The mask's."""
    plan: str
    """Digest of its frozen plan."""
    unit: Window
    """An aligned group of the mask's shards, over the axes without c."""
    parts: tuple[Window, ...]
    """Of it, computed one by one."""
    num_shards: int
    """That were left of it when the order was written."""


def orders(job: Job, run: MaskRun) -> Iterator[Task]:
    """What is left of an image, a task for each work unit; empties `run.units`."""
    spec = run.staging.spec
    side, image_id, plan = UNIT_SHARDS * spec.shard_px, run.image.image_id, plan_digest(run.staging.state.load())
    config = job.config.model_copy(update={"images": (image_id,), "overwrite": False, "until": None})
    units: dict[Ints, list[tuple[Window, list[Ints]]]] = {}
    while run.units:
        part, shards = run.units.popleft()
        *leading, y, x = part.start
        units.setdefault((*leading, y // side, x // side), []).append((part, shards))
    for (*leading, y, x), parts in units.items():
        depth = parts[0][0].shape[:-2]
        whole = Window((*leading, y * side, x * side), (*depth, side, side)).intersected(Window.whole(spec.shape))
        windows, num_shards = tuple(part for part, _ in parts), sum(len(shards) for _, shards in parts)
        order = Order(config, job.name, plan, whole, windows, num_shards)
        yield Task(_work_off, (order,), image_id)
