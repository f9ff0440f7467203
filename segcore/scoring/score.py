"""Score: finished masks + targets -> *counts per image* -> one document of scores.

Pixels stream by, a shard's window at a time, so memory does not grow with the image. The counts of an image
are kept in `state/<image_id>/<mask>/score.json` beside the identity of all that they were made of; a rerun
reads them back as long as that identity stands, and counts again when any of it changed.
"""

import hashlib
import heapq
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.classes import ClassInfo
from segcore.config import ScoreConfig
from segcore.errors import IncompleteError, StoreError
from segcore.geometry import Grid, Window
from segcore.measure import Peak
from segcore.progress import SILENT, Progress
from segcore.results import ItemResult, StageResult
from segcore.scoring.areas import pixel_size
from segcore.scoring.counts import Counter, Counts, class_scores, foreground_rows, overall_scores
from segcore.selection import Masked, failure, mask_name, select
from segcore.store import Image, Label, Workspace, seal, unseal

FORMAT = 1
"""Version of score.json and of the document; another one is counted again."""
WINDOW_PX = 2048
"""Side of what is read at once: the shards' side by default."""
TILE_PX = 512
"""Side of the tiles that are ranked by their share of wrong pixels."""
WORST_TILES = 8
"""Tiles kept for each image, and in total."""
LEAST_COUNTED = 0.25
"""Share of a full tile (or of a smaller image) that must be counted for the tile to be ranked."""
NO_SPLIT = "no split"


@dataclass(frozen=True, slots=True)
class ImageScore:
    """What scoring one image gave."""

    image_id: str
    split: str | None
    classes: tuple[ClassInfo, ...]
    has_target: bool
    counts: Counts
    worst_tiles: tuple[dict[str, Any], ...]
    """`{"start": [y, x] or more axes, "shape", "wrong_share", "counted_px"}`, worst first."""
    areas: dict[str, dict[str, float]]
    """Class name -> `{"px": ..., "um2": ...}` of the mask."""
    reused: bool
    level: int = 0
    """Of the image: the finest of its mask, in whose pixels all is counted."""


def score(config: ScoreConfig, progress: Progress = SILENT) -> StageResult:
    """Score every mask of one name against its target; areas also where there is none.

    A failing image is named in `items` and does not stop the others.

    Raises:
        ConfigError: if `config.model` is neither a mask's name nor a model package.
        StoreError: if there is no workspace, or no image has the mask.
    """
    with Peak() as peak:
        workspace = Workspace.open(config.workspace)
        name = mask_name(workspace, config.model)
        chosen = select(workspace, name, config.images, config.split)
        progress.start("score", len(chosen), "images")
        scored: list[ImageScore] = []
        items: list[ItemResult] = []
        for masked in chosen:
            item = _score_item(workspace, masked, scored)
            if item.state == "failed":
                progress.note(f"{item.image}: {item.error}")
            items.append(item)
            progress.advance()
    return StageResult(
        stage="score",
        items=tuple(items),
        scores=document(name, scored),
        seconds=peak.seconds,
        peak_mib=peak.mib,
        details={"mask": name, "num_reused": sum(result.reused for result in scored)},
    )


def _score_item(workspace: Workspace, masked: Masked, scored: list[ImageScore]) -> ItemResult:
    try:
        image, mask = masked.opened()
        result = score_image(workspace, image, mask)
        if scored and _table(result.classes) != _table(scored[0].classes):
            raise StoreError(
                f"image {image.image_id}: its mask has the classes {_named(result.classes)}, "
                f"that of {scored[0].image_id} has {_named(scored[0].classes)}; they cannot be scored together"
            )
    except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
        return ItemResult(state="failed", image=masked.image_id, error=failure(masked.image_id, error))
    scored.append(result)
    details = {"areas": result.areas, "reused": result.reused, "level": result.level}
    if not result.has_target:
        return ItemResult(state="skipped", image=image.image_id, details={"reason": "no target", **details})
    overall = overall_scores(result.counts.confusion, foreground_rows(result.classes))
    return ItemResult(state="done", image=image.image_id, scores=overall, details=details)


def score_image(workspace: Workspace, image: Image, mask: Label) -> ImageScore:
    """Counts of one mask, read back where they are still true.

    Raises:
        StoreError: target and mask do not fit each other (sides, classes), or hold a value without class.
        IncompleteError: the target is not finished.
    """
    target = _target(workspace, image.image_id)
    _check_fit(image, mask, target)
    identity = _identity(workspace, mask, target)
    key = f"state/{image.image_id}/{mask.name}/score.json"
    kept = _kept(workspace.objects.get(key), identity, len(mask.classes))
    try:
        counts, worst = kept or _count(image, mask, target)
    except StoreError as error:
        raise StoreError(f"image {image.image_id}: {error}") from error
    if kept is None:
        record = {"format": FORMAT, "identity": identity, "counts": counts.to_json(), "worst_tiles": worst}
        workspace.objects.put(key, json.dumps(seal(record)).encode())
    level, spacing, georef = mask.base_level, image.spacing, image.georef
    sizes = pixel_size(mask.axes, spacing and spacing.at_level(level), georef and georef.at_level(level))
    areas = {
        info.name: {"px": int(px), **{unit: int(px) * size for unit, size in sizes.items()}}
        for info, px in zip(mask.classes, counts.mask_px, strict=True)
    }
    return ImageScore(
        image_id=image.image_id,
        split=image.split,
        classes=mask.classes,
        has_target=target is not None,
        counts=counts,
        worst_tiles=tuple(worst),
        areas=areas,
        reused=kept is not None,
        level=level,
    )


def _target(workspace: Workspace, image_id: str) -> Label | None:
    """The image's target, or None where it has none; a target that is not finished is an error."""
    try:
        return workspace.label(image_id, "target")
    except IncompleteError:
        raise
    except StoreError:
        if "target" in workspace.label_names(image_id):
            raise
        return None


def _check_fit(image: Image, mask: Label, target: Label | None) -> None:
    where, level = f"image {image.image_id}", mask.base_level
    sides = tuple(n for n, axis in zip(image.shape(level), image.axes, strict=True) if axis != "c")
    if mask.shape() != sides:
        raise StoreError(
            f"{where}: mask {mask.name} has sides {mask.shape()}, expected the image's {sides} at level {level}"
        )
    if not mask.classes:
        raise StoreError(f"{where}: mask {mask.name} has no class table; predict it again with --overwrite")
    if len({info.name for info in mask.classes}) < len(mask.classes):
        raise StoreError(f"{where}: two classes of mask {mask.name} have one name: {_named(mask.classes)}")
    if target is None:
        return
    if target.shape(level) != sides:
        raise StoreError(
            f"{where}: its target has sides {target.shape(level)}, expected the image's {sides} at level {level}"
        )
    if _table(target.classes) != _table(mask.classes):
        raise StoreError(
            f"{where}: its target has the classes {_named(target.classes)}, mask {mask.name} has "
            f"{_named(mask.classes)}; score a model that was trained on this target's classes"
        )


def _table(classes: Sequence[ClassInfo]) -> list[tuple[int, str]]:
    return sorted((info.id, info.name) for info in classes)


def _named(classes: Sequence[ClassInfo]) -> str:
    return "(" + ", ".join(f"{info.id} {info.name}" for info in classes) + ")"


def _identity(workspace: Workspace, mask: Label, target: Label | None) -> dict[str, str]:
    """Digests of the frozen plans and metadata of all that the counts are made of: same plans = same pixels."""
    labels = [mask.name, "image", "valid", *(["target"] if target is not None else [])]
    return {label: _state_digest(workspace, mask.image_id, label) for label in labels}


def _state_digest(workspace: Workspace, image_id: str, label: str) -> str:
    prefix = f"state/{image_id}/{label}"
    numbers = sorted(int(folder) for folder in workspace.objects.folders(prefix) if folder.isdigit())
    digest = hashlib.sha256(str(numbers).encode())
    for part in ("plan.json", "finished.json"):
        digest.update(workspace.objects.get(f"{prefix}/{numbers[-1]}/{part}") or b"" if numbers else b"")
    return digest.hexdigest()


def _kept(data: bytes | None, identity: dict[str, str], num_classes: int) -> tuple[Counts, list[dict[str, Any]]] | None:
    """Counts of an earlier run, if they are of the same pixels; a damaged record is counted again."""
    try:
        record = unseal(data or b"{}")
        if record["format"] != FORMAT or record["identity"] != identity:
            return None
        counts = Counts.from_json(record["counts"])
        return (counts, list(record["worst_tiles"])) if counts.num_classes == num_classes else None
    except (ValueError, KeyError, TypeError):
        return None


Pieces = tuple[Window, "npt.NDArray[Any] | None", "npt.NDArray[Any]", "npt.NDArray[np.bool_]"]


def _count(image: Image, mask: Label, target: Label | None) -> tuple[Counts, list[dict[str, Any]]]:
    """Stream an image at the mask's own level; the next window is read while one is counted."""
    level = mask.base_level
    counter = Counter([info.id for info in mask.classes], mask.ignore)
    shape = mask.shape()
    grid = Grid(shape, (*(1,) * (len(shape) - 2), WINDOW_PX, WINDOW_PX))
    windows = [grid.window(index) for index in grid.indices()]
    least_px = LEAST_COUNTED * min(TILE_PX, shape[-2]) * min(TILE_PX, shape[-1])

    def read(window: Window) -> Pieces:
        pixels = None if target is None else _same_ignore(target.read(window, level), target.ignore, mask.ignore)
        return window, pixels, mask.read(window), image.read_valid(window, level)

    total = Counts.zeros(counter.num_classes)
    ranked: list[tuple[float, tuple[int, ...], dict[str, Any]]] = []
    with ThreadPoolExecutor(1, thread_name_prefix="segcore-score-read") as reader:
        ahead = reader.submit(read, windows[0])
        for number in range(len(windows)):
            pieces = ahead.result()
            if number + 1 < len(windows):
                ahead = reader.submit(read, windows[number + 1])
            total += _count_tiles(counter, pieces, least_px, ranked)
    return total, [tile for _, _, tile in sorted(ranked, key=lambda entry: entry[:2], reverse=True)]


def _same_ignore(pixels: npt.NDArray[Any], ignore: int, wanted: int) -> npt.NDArray[Any]:
    """A uint8 target beside a uint16 mask (or the reverse): the one's ignore becomes the other's."""
    if ignore == wanted:
        return pixels
    return np.where(pixels == ignore, np.uint16(wanted), pixels.astype(np.uint16))


def _count_tiles(
    counter: Counter, pieces: Pieces, least_px: float, ranked: list[tuple[float, tuple[int, ...], dict[str, Any]]]
) -> Counts:
    """Counts of one window, taken tile by tile; the worst tiles stay in the heap `ranked`."""
    window, target, mask, valid = pieces
    total = Counts.zeros(counter.num_classes)
    grid = Grid(window.shape, (*(1,) * (window.ndim - 2), TILE_PX, TILE_PX))
    for index in grid.indices():
        tile = grid.window(index)
        at = tile.slices
        counts = counter.count(None if target is None else target[at], mask[at], valid[at])
        total += counts
        if counts.counted_px < least_px or counts.wrong_px == 0:
            continue
        start = tuple(a + b for a, b in zip(window.start, tile.start, strict=True))
        share = counts.wrong_px / counts.counted_px
        entry = {"start": list(start), "shape": list(tile.shape), "wrong_share": share, "counted_px": counts.counted_px}
        # The negated start breaks ties in favour of the first in raster order.
        heapq.heappush(ranked, (share, tuple(-a for a in start), entry))
        if len(ranked) > WORST_TILES:
            heapq.heappop(ranked)
    return total


def document(name: str, scored: Sequence[ImageScore]) -> dict[str, Any]:
    """The scores of a run as plain JSON.

    Keys: `format`, `mask`, `classes` (id, name, color, in the order of the confusion's rows), `num_images`,
    `num_scored`, `overall`, `per_class`, `confusion` (rows target, columns mask), `excluded_px`, `per_split`
    (the same for each split), `per_image`, `worst_tiles`. Scores are in 0..1, None where they do not exist. Pixels are
    those of an image's `level`, where one is named, else of level 0.
    """
    classes = scored[0].classes if scored else ()
    with_target = [result for result in scored if result.has_target]
    splits = sorted({result.split or NO_SPLIT for result in with_target})
    worst = [{"image": result.image_id, **_leveled(result), **t} for result in with_target for t in result.worst_tiles]
    return {
        "format": FORMAT,
        "mask": name,
        "classes": [info.model_dump(mode="json") for info in classes],
        "num_images": len(scored),
        "num_scored": len(with_target),
        **_summary(classes, with_target),
        "per_split": {}
        if splits == [NO_SPLIT]
        else {
            split: _summary(classes, [result for result in with_target if (result.split or NO_SPLIT) == split])
            for split in splits
        },
        "per_image": {result.image_id: _image_entry(result) for result in scored},
        "worst_tiles": sorted(worst, key=lambda tile: -tile["wrong_share"])[:WORST_TILES],
    }


def _leveled(result: ImageScore) -> dict[str, int]:
    """Whose pixels are meant, where they are not those of level 0."""
    return {"level": result.level} if result.level else {}


def _summary(classes: Sequence[ClassInfo], results: Sequence[ImageScore]) -> dict[str, Any]:
    total = sum((result.counts for result in results), Counts.zeros(len(classes)))
    per_class = class_scores(total.confusion)
    rows = zip(classes, per_class, total.target_px, total.mask_px, strict=True)
    return {
        "num_scored": len(results),
        "overall": overall_scores(total.confusion, foreground_rows(classes)),
        "per_class": {
            info.name: {**scores, "target_px": int(in_target), "mask_px": int(in_mask)}
            for info, scores, in_target, in_mask in rows
        },
        "confusion": total.confusion.tolist(),
        "excluded_px": {
            "ignored": total.ignored_px,
            "unpredicted": total.unpredicted_px,
            "invalid": total.invalid_px,
        },
    }


def _image_entry(result: ImageScore) -> dict[str, Any]:
    entry: dict[str, Any] = {"split": result.split, "has_target": result.has_target, "areas": result.areas}
    entry |= _leveled(result)
    if result.has_target:
        entry |= _summary(result.classes, [result])
        del entry["num_scored"]
        entry["worst_tiles"] = list(result.worst_tiles)
    return entry
