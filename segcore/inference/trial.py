"""Trial: what a model says of some shards of images, by the real pipeline, told to a listener; nothing is written.

What it tells is what `predict` would write by default: training validates by it, so that its scores are those that
users get.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from segcore.config import PredictConfig
from segcore.geometry import Ints, Window
from segcore.inference.batch import Batches
from segcore.inference.begin import begin
from segcore.inference.contract import check_contract
from segcore.inference.decision import Decision, Kind
from segcore.inference.job import Job, ignore_of
from segcore.inference.night import networks_of, threads_of, unit_loads
from segcore.inference.numerics import Network, Recipe, repeatable
from segcore.inference.pipeline import Load, Pipeline, Work
from segcore.inference.run import Answered, MaskRun
from segcore.models.package import ModelPackage
from segcore.store import Image, Staging, Workspace

SHARD_PX = 512
"""What is told of at once, and may be left out: the tile of a usual package, and much less than a mask's shard."""

SEED = 0
"""Of which shards are looked at where not all are."""


class Diverted:
    """Work whose shards go to a listener instead of the store; the constructor reads."""

    def __init__(self, read: Callable[[], Work], tell: Callable[[Answered], None]) -> None:
        work = read()
        self.in_order, self.run, self.tiles = work.in_order, work.run, work.tiles
        self.answer, self.add, self._complete, self._tell = work.answer, work.add, work.complete, tell

    def complete(self, network: Network) -> list[Answered]:
        for shard in self._complete(network):
            self._tell(shard)
        return []


@dataclass(frozen=True)
class Part:
    """Some shards of a work unit of one image."""

    run: MaskRun
    unit: Window
    shards: tuple[Ints, ...]

    @property
    def num_px(self) -> int:
        return sum(self.run.staging.shard_window(shard).num_px for shard in self.shards)


class Trial:
    """Images, planned for one architecture and contract; each call tries the weights of a package on parts of them.

    Args:
        package: whose weights do not matter yet.
        images: that meet its contract.
        device: where the model runs.
        precision: of the model.
        tile_workers: threads that run it; 0 = as many as predict takes.
        layers: that are told of beside the mask.

    Raises:
        ContractError: if an image does not meet the contract.
    """

    def __init__(
        self,
        package: ModelPackage,
        images: Sequence[Image],
        device: torch.device,
        precision: str,
        tile_workers: int = 0,
        layers: tuple[Kind, ...] = (),
    ) -> None:
        workspace = Workspace.open("memory://segcore-trial", create=True)
        config = PredictConfig(
            workspace=workspace.uri, model="-", foreground="off", shard_px=SHARD_PX, tile_workers=tile_workers
        )
        recipe = Recipe(Decision(len(package.classes), ignore_of(package), layers))
        self._job = Job(config, package, device, recipe, precision)
        batches = Batches(networks_of(self._job)[0], package.contract)
        grids = [check_contract(package.contract, image).grid for image in images]
        found = [begin(workspace, self._job, grid, batches, opened_by=Staging.peek) for grid in grids]
        self._runs = [run for run in found if run is not None]

    def parts(self, limit_px: float) -> list[Part]:
        """All shards, or one of each n neighbours (at least one), so that they have about `limit_px` pixels.

        Which one is drawn by a seed: the n-th of each could lie at the same place of every image.
        """
        units = [Part(run, unit, tuple(shards)) for run in self._runs for unit, shards in run.units]
        every = max(1, -(-sum(part.num_px for part in units) // max(1, int(limit_px))))
        total = sum(len(part.shards) for part in units)
        rng = np.random.default_rng((SEED, total, every))
        chosen = {start + int(rng.integers(min(every, total - start))) for start in range(0, total, every)}
        found: list[Part] = []
        number = 0
        for part in units:
            own = tuple(shard for i, shard in enumerate(part.shards, number) if i in chosen)
            number += len(part.shards)
            if own:
                found.append(Part(part.run, part.unit, own))
        return found

    def run(self, package: ModelPackage, parts: Sequence[Part], tell: Callable[[Answered], None]) -> None:
        """Infer, and tell of each shard; `tell` is called by many threads at once.

        Args:
            package: of the same architecture and contract.
            parts: of `parts`.
            tell: listens.

        Raises:
            SegcoreError: if an image cannot be read, or the model gives NaN or Inf.
        """
        job = Job(self._job.config, package, self._job.device, self._job.recipe, self._job.precision)
        with repeatable():
            Pipeline(networks_of(job), threads_of(job), _nothing, _nothing).run(self._loads(job, parts, tell))
        for run in self._runs:
            if run.error is not None:
                raise run.error

    def _loads(self, job: Job, parts: Sequence[Part], tell: Callable[[Answered], None]) -> Iterator[Load]:
        for part in parts:
            for load in unit_loads(job, part.run, part.unit, part.shards):
                yield Load(part.run, partial(Diverted, load.read, tell))


def _nothing(run: MaskRun) -> None:
    pass
