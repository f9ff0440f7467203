"""Job: what one call of predict does to every image, with what `auto` means settled."""

import hashlib
from dataclasses import dataclass, replace

import torch

from segcore.config import PredictConfig
from segcore.inference.model_grid import ModelGrid
from segcore.inference.numerics import Recipe, devices_of
from segcore.inference.survey import Seen
from segcore.inference.tile_choice import blend_for, is_tuned, tiling_for
from segcore.inference.tiling import Tiling
from segcore.inference.tuning import WORKERS_PER_GPU, Tuning
from segcore.measure import num_cores
from segcore.models.package import ModelPackage


@dataclass(frozen=True)
class Job:
    """What one call of predict does to every image."""

    config: PredictConfig
    package: ModelPackage
    device: torch.device
    recipe: Recipe
    precision: str = "float32"
    batch: int = 1
    tuning: Tuning | None = None
    images: tuple[Seen, ...] = ()
    """Those that the model can take."""

    def tiling(self, grid: ModelGrid) -> Tiling:
        """The tile grid of an image."""
        return tiling_for(self.config, self.package, grid, self.tuning, self.shaped)

    def shaped(self, tiling: Tiling) -> Tiling:
        """The grid, its tiles cut at the far borders where they may.

        Those of a batch have one shape, a model that looks at the whole tile sees as much everywhere, a view at another
        scale is rounded by the tile's sides, and each further shape would have to be compiled.
        """
        looks_whole = self.package.contract.global_context or bool(self.config.view_scales)
        return replace(tiling, is_cut=not (self.batch > 1 or looks_whole or self.is_compiled(tiling)))

    def is_compiled(self, tiling: Tiling) -> bool:
        """True if an image's tiles go through compiled code: on request, or where the image takes the fastest tile."""
        is_wanted = self.config.compile == "on" or is_tuned(self.config, self.package.contract, tiling.shape)
        return self.recipe.can_compile and is_wanted

    @property
    def adapts(self) -> bool:
        """Whether a model is to be adapted to each image."""
        return any(package.adapts for package in (self.package, *self.recipe.ensemble))

    @property
    def name(self) -> str:
        """Name of the masks under `labels/`."""
        return self.config.name or self.model_id

    @property
    def model_id(self) -> str:
        """Of the model, or of all models of an ensemble together."""
        if not self.recipe.ensemble:
            return self.package.model_id
        digests = "".join(package.digest for package in (self.package, *self.recipe.ensemble))
        return f"ensemble-{hashlib.sha256(digests.encode()).hexdigest()[:8]}"

    @property
    def blend(self) -> str:
        """What `auto` means for this model."""
        return blend_for(self.config, self.package.contract)

    @property
    def ignore(self) -> int:
        """Id of unusable pixels in the mask."""
        return ignore_of(self.package)

    @property
    def dtype(self) -> str:
        """Of the mask: uint8 while ids and `ignore` fit."""
        return "uint8" if len(self.package.classes) <= 255 else "uint16"

    @property
    def tile_workers(self) -> int:
        """Threads that run the model: those asked for, else one per core, or a few for each GPU."""
        if self.config.tile_workers:
            return self.config.tile_workers
        return num_cores() if self.device.type == "cpu" else WORKERS_PER_GPU * len(devices_of(self.device))


def ignore_of(package: ModelPackage) -> int:
    """Id of unusable pixels in the masks of a model: 255 while it fits."""
    return 255 if len(package.classes) <= 255 else 65535
