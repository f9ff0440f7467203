"""Preview: settings of a training -> *the page*, and the numbers on it as a result."""

from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segcore.augment import Augmenter
from segcore.config import PreviewConfig
from segcore.errors import SegcoreError
from segcore.inference.numerics import resolve_device
from segcore.measure import Peak
from segcore.preview.content import AugmentRow, BandRow, ClassRow, PreviewContent, render
from segcore.preview.tiles import SeenTile, picture_row, seen_tiles
from segcore.progress import SILENT, Progress
from segcore.report import Chip, Fact
from segcore.report.html import number
from segcore.results import StageResult
from segcore.sampling import keep_what_fits
from segcore.store import Workspace
from segcore.training.bands import with_bands
from segcore.training.choice import Choice, choose, class_shares
from segcore.training.data import TrainingData, gather, sampler_of

PAGE = "reports/preview/preview.html"
MIN_SAMPLED = 64
"""Class shares are taken over at least so many tiles."""


def preview(config: PreviewConfig, progress: Progress = SILENT) -> StageResult:
    """Write a page of what the network would see in a training with these settings. Nothing is trained.

    Returns:
        `paths[0]` is the page; `details` has the shares of classes and augmentation.

    Raises:
        ConfigError: if there is nothing to learn from, or the settings don't fit the images.
        SegcoreError: if the page cannot be written.
    """
    with Peak() as peak:
        workspace = Workspace.open(config.workspace)
        data = gather(workspace, config.model_copy(update={"task": "semantic"}))  # it shows classes
        keep_what_fits(data.training, config.cache_mib)
        content = _content(config, data, workspace.uri, progress)
        path = "" if config.dry_run else _written(workspace, config.output, render(content))
    return StageResult(
        stage="preview",
        paths=(path,) if path else (),
        seconds=peak.seconds,
        peak_mib=peak.mib,
        details=_details(content),
    )


def _content(config: PreviewConfig, data: TrainingData, uri: str, progress: Progress) -> PreviewContent:
    named, _ = with_bands(config, data.bands)
    choice = choose(named, data, resolve_device(config.device))
    augments = choice.augments
    for image in data.training:
        image.tile_planes = choice.tile_planes
    augmenter = Augmenter(augments, config.seed, data.mean, data.std)
    sampler = sampler_of(config, data, choice.tile_px)
    num_sampled = max(MIN_SAMPLED, config.tiles)
    progress.start("preview", num_sampled, "tiles")
    rows, sampled = [], np.zeros(len(data.classes))
    for k, tile in enumerate(islice(seen_tiles(data, sampler, augmenter, choice.batch), num_sampled)):
        sampled += class_pixels(tile, len(data.classes))
        if k < config.tiles:
            rows.append(picture_row(tile, k + 1, data))
        progress.advance()
    return PreviewContent(
        title="What the network sees",
        subtitle=f"Training images of {uri}",
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        chips=_chips(data, choice),
        tiles=tuple(rows),
        classes=_class_rows(data, sampled),
        num_sampled=num_sampled,
        augments=tuple(AugmentRow(name, share, augments.reasons[name]) for name, share in augments.shares.items()),
        bands=tuple(BandRow(*row) for row in zip(data.bands, data.mean, data.std, strict=True)),
        is_stretched=data.stretch,
        chosen=tuple(Fact(name, reason) for name, reason in choice.reasons.items() if name != "augments"),
    )


def class_pixels(tile: SeenTile, num_classes: int) -> npt.NDArray[np.int64]:
    """Pixels of each class in a tile as drawn."""
    return np.bincount(tile.classes[tile.classes >= 0].ravel(), minlength=num_classes)


def _class_rows(data: TrainingData, sampled: npt.NDArray[np.float64]) -> tuple[ClassRow, ...]:
    in_images, in_tiles = class_shares(data), sampled / max(1.0, sampled.sum())
    return tuple(ClassRow(info, in_images[info.name], float(in_tiles[info.id])) for info in data.classes)


def _chips(data: TrainingData, choice: Choice) -> tuple[Chip, ...]:
    return (
        Chip("training images", number(len(data.training))),
        Chip("held out", number(len(data.validation))),
        Chip("classes", number(len(data.classes))),
        Chip("tile", _tile_words(choice)),
        Chip("tiles a step", number(choice.batch)),
    )


def _tile_words(choice: Choice) -> str:
    return f"{choice.tile_px} px" if choice.tile_planes == 1 else f"{choice.tile_px} px, {choice.tile_planes} planes"


def _written(workspace: Workspace, output: str | None, page: str) -> str:
    """Write the page; where it is."""
    if output is None:
        workspace.objects.put(PAGE, page.encode())
        return workspace.describe(PAGE)
    try:
        Path(output).write_text(page, encoding="utf-8")
    except OSError as error:
        raise SegcoreError(
            f"preview: {output} cannot be written ({error.strerror or error}); give another --output"
        ) from error
    return output


def _details(content: PreviewContent) -> dict[str, object]:
    return {
        "tiles": len(content.tiles),
        "augments": {row.name: row.share for row in content.augments},
        "reasons": {row.name: row.reason for row in content.augments},
        "class_shares": {
            row.info.name: {"images": round(row.in_images, 4), "tiles": round(row.in_tiles, 4)}
            for row in content.classes
        },
        "mean": [row.mean for row in content.bands],
        "std": [row.std for row in content.bands],
    }
