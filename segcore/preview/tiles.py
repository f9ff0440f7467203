"""Tiles: what a run would see first -> *pictures side by side*, before and after augmentation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from segcore.augment import Augmenter
from segcore.classes import ClassInfo
from segcore.report import Panel, PictureRow, pictures
from segcore.report.html import percent
from segcore.sampling import IGNORED, Sampler, middle
from segcore.scoring.counts import foreground_rows
from segcore.training.data import TrainingData

MIN_PICTURE_PX, MAX_PICTURE_PX = 384, 560
"""Smaller tiles are enlarged before their outlines are drawn, larger ones shrunk."""
MAX_NAMED = 4
"""Classes in a caption."""
SHOWN_SHARE = 0.0005
NOTHING = 65535
"""In pictures, the id of ignored pixels: no class has it."""


@dataclass(frozen=True)
class SeenTile:
    """One tile, before and after."""

    image: str
    """Id of the image it is from."""
    pixels: npt.NDArray[Any]
    """(C, Y, X), in the image's own type; of a tile of several planes the middle one."""
    classes: npt.NDArray[Any]
    """(Y, X), `IGNORED` among them."""
    augmented: npt.NDArray[np.float32]
    """(C, Y, X), in the image's values."""
    augmented_classes: npt.NDArray[Any]
    """(Y, X)."""
    done: tuple[str, ...]
    """What the augmentation did."""


def seen_tiles(data: TrainingData, sampler: Sampler, augmenter: Augmenter, batch: int) -> Iterator[SeenTile]:
    """The tiles of a run in their order, without end."""
    step = 0
    while True:
        pixels, classes = sampler.tiles(step, batch)
        mean, std = (
            np.array(values, np.float32).reshape(-1, *(1,) * (pixels.ndim - 2)) for values in (data.mean, data.std)
        )
        images = [data.training[draw.image].image_id for draw in sampler.draws(step * batch, batch)]
        tiles = torch.from_numpy(np.nan_to_num((pixels.astype(np.float32) - mean) / std, posinf=0.0, neginf=0.0))
        what = augmenter.draw(step, batch)
        batch_seen = augmenter(tiles, torch.from_numpy(classes.astype(np.int64)), step)
        for k in range(batch):
            augmented = batch_seen.tiles[k].numpy() * std + mean
            done = tuple(what.names(k))
            after = batch_seen.classes[k].numpy()
            shown = [middle(values, 3) for values in (pixels[k], augmented)]
            shown_classes = [middle(values, 2) for values in (classes[k], after)]
            yield SeenTile(images[k], shown[0], shown_classes[0], shown[1], shown_classes[1], done)
        step += 1


def picture_row(tile: SeenTile, number: int, data: TrainingData) -> PictureRow:
    """Both pictures of a tile, with what was done to it."""
    before, after = _pair(tile.pixels, tile.augmented, data.bands)
    what = f"of tile {number}, {tile.image}"
    return PictureRow(
        title=f"{number}. {tile.image}",
        caption=f"{_shares(tile.classes, data.classes)}. {', '.join(tile.done).capitalize() or 'Unchanged'}.",
        panels=(
            _panel("as drawn", before, tile.classes, data.classes, what),
            _panel("as the network gets it", after, tile.augmented_classes, data.classes, what),
        ),
    )


def _pair(pixels: npt.NDArray[Any], augmented: npt.NDArray[np.float32], bands: Sequence[str]) -> list[pictures.Rgb]:
    """Both as pictures, stretched alike, so that a change of light shows."""
    both: npt.NDArray[Any] = np.concatenate([pixels.astype(np.float32), augmented], axis=-1)
    if np.issubdtype(pixels.dtype, np.integer):
        limits = np.iinfo(pixels.dtype)
        both = np.clip(np.rint(both), limits.min, limits.max).astype(pixels.dtype)
    return np.split(pictures.to_rgb(both, bands), 2, axis=1)


def _panel(
    title: str, picture: pictures.Rgb, numbers: npt.NDArray[Any], classes: Sequence[ClassInfo], what: str
) -> Panel:
    ids = np.where(numbers == IGNORED, NOTHING, numbers.astype(np.int32))
    factor = max(1, round(MIN_PICTURE_PX / len(ids)))
    large, ids = (values.repeat(factor, axis=0).repeat(factor, axis=1) for values in (picture, ids))
    drawn = pictures.outlined(large, ids, classes, foreground_rows(classes))
    drawn = pictures.shrunk(pictures.hatched(drawn, ids == NOTHING), MAX_PICTURE_PX)
    return Panel(title, pictures.photo_uri(drawn), f"{title.capitalize()}: {what}: {_shares(numbers, classes)}")


def _shares(numbers: npt.NDArray[Any], classes: Sequence[ClassInfo]) -> str:
    """`background 88.0 %, nuclei 12.0 %`; the rarest are left out where there are many."""
    found = sorted(((float((numbers == info.id).mean()), info.name) for info in classes), reverse=True)
    named = [f"{name} {percent(share)}" for share, name in found[:MAX_NAMED] if share > SHOWN_SHARE]
    ignored = float((numbers == IGNORED).mean())
    return ", ".join([*named, *([f"ignored {percent(ignored)}"] if ignored > SHOWN_SHARE else [])])
