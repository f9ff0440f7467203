"""Looking: the tiles of one image through the model, in float32 and with gradients; image, tiles -> *sums and maps*."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from segcore.config import ExplainConfig
from segcore.errors import ConfigError
from segcore.explain.attribution import band_occlusion, coarsest_features, grad_cam, integrated_gradients
from segcore.geometry import Tile, Window
from segcore.inference.adapt import sample_for
from segcore.inference.model_grid import ModelGrid
from segcore.inference.normalised import normalised
from segcore.inference.tiling import read_reflected, read_validity
from segcore.models.image_norm import adapted
from segcore.models.package import ModelPackage
from segcore.stretch import stretch_of

Floats = npt.NDArray[np.float32]


@dataclass
class Sums:
    """Of a class, over all tiles that were looked at; ratios are taken once, at the end."""

    tiles: int = 0
    px: int = 0
    probability: float = 0.0
    """Of the class, over its pixels."""
    first: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    """By band: the probability without it, or what it adds to it."""
    second: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    """By band: pixels that get another class without it."""
    baseline: float = 0.0
    """The probability where all is the training set's mean."""

    def add(self, other: "Sums") -> None:
        self.tiles, self.px = self.tiles + other.tiles, self.px + other.px
        self.probability += other.probability
        self.baseline += other.baseline
        self.first = other.first + (self.first if self.first.size else 0)
        self.second = other.second + (self.second if self.second.size else 0)


@dataclass(frozen=True)
class Map:
    """What a method says of the pixels of a window of the mask's grid."""

    window: Window
    """Over the axes without c."""
    values: Floats
    """0 and more; NaN where a pixel is not usable."""


class Looker:
    """One image and the model made ready for it.

    Args:
        config: which method, and how.
        package: the model.
        grid: the image.
        device: where the model runs.
    """

    def __init__(self, config: ExplainConfig, package: ModelPackage, grid: ModelGrid, device: torch.device) -> None:
        self._config, self._contract, self._grid, self._device = config, package.contract, grid, device
        self._stretch = stretch_of(grid.image) if package.contract.stretch else None
        self._network: nn.Module = package.load_weights(device).requires_grad_(False)
        self._num_classes = len(package.classes)
        if package.adapts:
            sample = sample_for(package.contract, grid, self._stretch)
            self._network = adapted(self._network, torch.cat([self._normalised(part) for part in sample]))
        self._features: nn.Module | None = None

    def _model(self, tiles: torch.Tensor) -> torch.Tensor:
        """The logits of classes, without those of border and depth behind them."""
        logits: torch.Tensor = self._network(tiles)[:, : self._num_classes]
        return logits

    def look(self, tile: Tile, class_id: int) -> tuple[Sums, Map] | None:
        """What the method finds in one tile; None if the model gives none of its usable pixels the class."""
        normal = self._normalised(read_reflected(self._grid, tile.read, self._stretch))
        inner = tile.write.relative_to(tile.read.start).slices[-(normal.ndim - 2) :]
        window = self._grid.mask_window(tile.write)
        valid = read_validity(self._grid, window)
        counted = torch.zeros(normal.shape[2:], dtype=torch.bool, device=self._device)
        with torch.no_grad():
            counted[inner] = (self._model(normal)[0].argmax(dim=0) == class_id)[inner]
        if valid is not None and not self._grid.is_resampled:
            counted[inner] &= torch.from_numpy(valid.reshape(counted[inner].shape)).to(self._device)
        px = int(counted.sum())
        if not px:
            return None
        sums, values = self._method(normal, class_id, counted)
        sums.tiles, sums.px = 1, px
        found = self._grid.on_mask(values[inner].cpu().numpy().reshape(tile.write.shape), tile.write, window)
        return sums, Map(window, np.where(True if valid is None else valid, found, np.nan).astype(np.float32))

    def _method(self, tile: torch.Tensor, class_id: int, counted: torch.Tensor) -> tuple[Sums, torch.Tensor]:
        if self._config.method == "band_occlusion":
            occluded = band_occlusion(self._model, tile, class_id, counted)
            bands = np.asarray(occluded.without, np.float32), np.asarray(occluded.lost_px, np.float32)
            return Sums(0, 0, occluded.probability, *bands), occluded.most
        if self._config.method == "integrated_gradients":
            found = integrated_gradients(self._model, tile, class_id, counted, self._config.steps)
            by_band = found.attributions.flatten(1).sum(dim=1).cpu().numpy()
            sums = Sums(0, 0, found.probability, by_band, baseline=found.baseline)
            return sums, found.attributions.sum(dim=0).relu()
        with torch.no_grad():
            probability = float(self._model(tile)[0].softmax(dim=0)[class_id][counted].sum())
        if self._features is None:
            name = self._config.features or coarsest_features(self._network, tile, self._contract.strides)
            self._features = _module(self._network, name)
        return Sums(0, 0, probability), grad_cam(self._model, self._features, tile, class_id, counted)

    def _normalised(self, pixels: npt.NDArray[np.generic]) -> torch.Tensor:
        """Pixels (C, ...) of one tile -> (1, C, *axes of the model) on the device; what is missing is average."""
        return torch.from_numpy(normalised(self._contract, self._grid.image, pixels)).to(self._device)


def _module(model: nn.Module, name: str) -> nn.Module:
    """A part of the network.

    Raises:
        ConfigError: if there is none of that name, with some that there are.
    """
    parts = dict(model.named_modules())
    if name not in parts:
        from_top = ", ".join(child for child, _ in model.named_children())
        raise ConfigError(f"features: the network has no module '{name}'; its parts are {from_top}")
    found: nn.Module = parts[name]
    return found
