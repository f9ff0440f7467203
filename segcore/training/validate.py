"""Validate: model + held-out images -> *counts*. Tiles with a halo, as prediction does it, so that scores are alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from segcore.classes import ClassInfo
from segcore.geometry import Tile, Window, tiles_in
from segcore.sampling import IGNORED, LabelledImage
from segcore.scoring.counts import Counter, Counts, class_scores, foreground_rows, overall_scores
from segcore.training.learner import Learner

_IGNORED_ID = 65535


@dataclass(frozen=True)
class TileSize:
    """How held-out images are cut."""

    tile_px: int
    halo_px: int
    stride: int

    def core(self, image: LabelledImage) -> tuple[int, ...]:
        """Sides of a write window: the tile's, or the image's rounded up to the stride where that is smaller."""
        return tuple(min(self.tile_px, -(-n // self.stride) * self.stride) for n in image.shape_yx)


@dataclass(frozen=True)
class HeldOut:
    """The tiles that are looked at: all, or every n-th, so that large sets cost no more than `limit_px`."""

    tiles: tuple[tuple[LabelledImage, int, Tile], ...]
    num_px: int

    @classmethod
    def of(cls, images: Sequence[LabelledImage], size: TileSize, limit_px: float) -> "HeldOut":
        """Tiles of whole images if they fit the limit, else a part (at least a tile) spread evenly over all of them."""
        total = sum(image.num_planes * image.shape_yx[0] * image.shape_yx[1] for image in images)
        every = max(1, int(np.ceil(total / limit_px)))
        chosen = [item for number, item in enumerate(_all_tiles(images, size)) if number % every == every // 2]
        chosen = chosen or list(islice(_all_tiles(images, size), 1))
        return cls(tuple(chosen), sum(tile.write.num_px for _, _, tile in chosen))


def _all_tiles(images: Sequence[LabelledImage], size: TileSize) -> Iterator[tuple[LabelledImage, int, Tile]]:
    for image in images:
        for plane in range(image.num_planes):
            whole = Window.whole(image.shape_yx)
            for tile in tiles_in(whole, image.shape_yx, size.core(image), (size.halo_px, size.halo_px)):
                yield image, plane, tile


def count(learner: Learner, held_out: HeldOut, num_classes: int) -> Counts:
    """Confusion counts of the masks that the learner's averaged weights give."""
    counter = Counter(range(num_classes), _IGNORED_ID)
    total = Counts.zeros(num_classes)
    with torch.inference_mode():
        for image, plane, tile in held_out.tiles:
            pixels, target = image.read_reflected(plane, tile.read)
            logits = learner.average(learner.to_input(pixels[None]))
            inside = tile.write.relative_to(tile.read.start).slices
            mask = logits[0].argmax(0)[inside].to(torch.uint8 if num_classes < 256 else torch.int32).cpu().numpy()
            truth = np.where(target[inside] == IGNORED, _IGNORED_ID, target[inside]).astype(np.uint16)
            total += counter.count(truth, mask)
    return total


def summary(counts: Counts, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """Scores as the package and the result show them: overall, and per class by name."""
    per_class = class_scores(counts.confusion)
    return {
        **overall_scores(counts.confusion, foreground_rows(classes)),
        "classes": {info.name: scores for info, scores in zip(classes, per_class, strict=True)},
    }


def main_score(counts: Counts, classes: Sequence[ClassInfo]) -> float:
    """What the best checkpoint is chosen by: mean IoU of the classes that are not background; higher is better."""
    value = overall_scores(counts.confusion, foreground_rows(classes))["foreground_iou"]
    return 0.0 if value is None else value
