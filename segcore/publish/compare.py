"""Compare: two masks (or two reports, of two workspaces too) -> *compare.html and compare.json*: the first against the
second, over the images that both have.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from segcore.config import ReportConfig
from segcore.errors import ConfigError, StoreError, utf8
from segcore.progress import Progress
from segcore.publish.pictured import MAX_BYTES
from segcore.publish.settings import Settings, ruler_notes, settings
from segcore.publish.sides import OutdatedError, Side, find_side, score_config
from segcore.report import (
    Chip,
    ComparedImage,
    ComparisonContent,
    Failure,
    Panel,
    PictureRow,
    pictures,
    render_comparison,
)
from segcore.report.html import number, percent, points, tone
from segcore.report.rows import HEADLINE, HEADLINE_LABELS, MAX_ROWS, detailed, headline_labels
from segcore.results import ItemResult, StageResult, headline_part
from segcore.scoring.counts import foreground_rows
from segcore.scoring.fit import named
from segcore.scoring.pairs import compared_by_split, differences, has_same_rows, pairs
from segcore.scoring.summary import ImageScore
from segcore.selection import failure
from segcore.shown import coarse_plane, read_ids, read_picture
from segcore.store import Label, Workspace

MAX_PICTURES = 12
FORMAT = 1
"""Version of compare.json."""

Pairs = Sequence[tuple[ImageScore, ImageScore]]


@dataclass(frozen=True, slots=True)
class _Found:
    """What a comparison tells."""

    sides: tuple[Side, Side]
    paired: Pairs
    """Those that changed most first."""
    rows: Mapping[str, dict[str, Any]]
    """Image id -> its differences; of those with a target."""
    settings: Settings
    scored: dict[str, Any] | None
    """As under `against`, with `per_split`; None where no image of both has a target."""

    @property
    def headline(self) -> tuple[str | None, Mapping[str, Any]]:
        """What goes first, as in a report: the split that was not trained on, and its part of `scored`; else all."""
        return headline_part(self.scored or {})

    @property
    def ordered(self) -> list[dict[str, Any]]:
        """The rows, in the order of the pairs."""
        return [self.rows[one.image_id] for one, _ in self.paired if one.image_id in self.rows]


def compare(config: ReportConfig, workspace: Workspace, run: str, created: datetime, progress: Progress) -> StageResult:
    """Write the comparison of `config.compare`.

    Raises:
        ConfigError: if a side is neither a mask, a model nor a report, or the two have different classes.
        StoreError: if they share no image.
    """
    assert config.compare is not None, "a comparison without two sides"
    one, other = (find_side(workspace, given, config, progress) for given in config.compare)
    found = _found(one, other, config)
    shown = _Pictures(one, other, progress)
    changed = shown.rows(found.paired)
    outdated = shown.outdated()
    for note in outdated:
        progress.note(note)
    items = (*_items(one, other), *shown.items)
    content = _content(found, items, changed, outdated, f"{created:%Y-%m-%d %H:%M} UTC, run {run}")
    html, data = f"reports/{run}/compare.html", f"reports/{run}/compare.json"
    told = {"format": FORMAT, "run": run, "created": created.isoformat(timespec="seconds"), **_told(found, content)}
    workspace.objects.put(data, utf8(json.dumps(told, ensure_ascii=False)))
    workspace.objects.put(html, utf8(render_comparison(content)))
    split, first = found.headline
    overall = first.get("overall", {})
    return StageResult(
        stage="report",
        items=items,
        paths=(workspace.describe(html), workspace.describe(data)),
        details={
            "run": run,
            "compared": [name for name, _ in content.sides],
            "num_images": len(found.paired),
            "num_pictures": len(changed),
            **({"split": split} if split else {}),
            "difference": {key: overall[key]["difference"] for key in HEADLINE_LABELS["overall"] if key in overall},
        },
    )


def _found(one: Side, other: Side, config: ReportConfig) -> _Found:
    if one.images and other.images and not has_same_rows(one.classes, other.classes):
        raise ConfigError(
            f"compare: {one.name} has the classes {named(one.classes)}, {other.name} has {named(other.classes)}; "
            "expected the same ones in the same order"
        )
    paired = pairs(one.images, other.images)
    if not paired:
        raise StoreError(
            f"compare: {one.name} and {other.name} share no image with the same content and target at the same level"
        )
    rules = score_config(config)
    rows = {row["image"]: row for row in differences(paired, rules)}
    paired = sorted(paired, key=lambda pair: _change(pair, rows), reverse=True)
    made = settings(config, rules, dict(zip(_labels(one, other), (one, other), strict=True)))
    return _Found((one, other), paired, rows, made, compared_by_split(paired, other.name, rules) if rows else None)


def _content(
    found: _Found,
    items: Sequence[ItemResult],
    changed: tuple[PictureRow, ...],
    outdated: tuple[str, ...],
    created: str,
) -> ComparisonContent:
    one, other = found.sides
    first, second = _labels(one, other)
    return ComparisonContent(
        title=f"{first} against {second}",
        created=created,
        sides=((first, one.what), (second, other.what)),
        chips=_chips(len(found.paired), *found.headline, headline_labels(one.classes)),
        classes=one.classes,
        failures=tuple(Failure(item.image or "?", item.error or "") for item in items if item.state == "failed"),
        compared=found.scored,
        images=tuple(_row(row) for row in found.ordered[:MAX_ROWS]),
        num_images_left_out=max(0, len(found.rows) - MAX_ROWS),
        detailed=detailed(one.classes),
        pictures=changed,
        num_pictures_left_out=len(found.paired) - len(changed),
        headline_split=found.headline[0],
        notes=(*_notes(one, other, len(found.paired)), *ruler_notes(found.sides, found.paired), *outdated),
        provenance=found.settings.provenance,
    )


def _told(found: _Found, content: ComparisonContent) -> dict[str, Any]:
    """The same facts for programs."""
    return {
        "sides": [
            {"name": side.name, "what": side.what, "mask": side.mask, **made}
            for side, made in zip(found.sides, found.settings.sides, strict=True)
        ],
        "settings": found.settings.rules,
        "num_images": len(found.paired),
        "notes": content.notes,
        "failures": [{"source": failed.source, "error": failed.error} for failed in content.failures],
        "compared": found.scored,
        "images": found.ordered,
        "provenance": {
            heading: {fact.key: fact.value for fact in facts} for heading, facts in content.provenance.items()
        },
    }


def _change(pair: tuple[ImageScore, ImageScore], rows: Mapping[str, Any]) -> tuple[float, float]:
    """How much an image changed: its score; where there is none, the share of the mask that went to other classes."""
    row = rows.get(pair[0].image_id)
    difference = row["overall"][HEADLINE]["difference"] if row else None
    one, other = (each.counts.mask_px.astype(np.float64) for each in pair)
    moved = np.abs(one - other).sum() / max(2 * max(one.sum(), other.sum()), 1)
    return -1.0 if difference is None else abs(difference), float(moved)


def _items(one: Side, other: Side) -> tuple[ItemResult, ...]:
    """What became of the images that were scored now; those of which the second failed are said to be of it."""
    failed = [item for item in other.items if item.state == "failed"]
    return (*one.items, *(item.model_copy(update={"error": f"{other.name}: {item.error}"}) for item in failed))


def _labels(one: Side, other: Side) -> tuple[str, str]:
    return (one.name, other.name) if one.name != other.name else (f"{one.name} (A)", f"{other.name} (B)")


def _chips(
    num_images: int, split: str | None, scored: Mapping[str, Any], shown_of: Mapping[str, Mapping[str, str]]
) -> tuple[Chip, ...]:
    shown = [Chip("images of both", number(num_images))]
    where = f", {split}" if split else ""
    for kind, labels in shown_of.items():
        for key, label in labels.items():
            row = scored.get(kind, {}).get(key)
            if row and row["difference"] is not None:
                low, high = row["interval"] or (None, None)
                detail = "" if low is None else f"{points(low)} to {points(high)}"
                both = f"{label}{where}: {percent(row['value'])} against {percent(row['other'])}"
                shown.append(Chip(both, points(row["difference"]), tone(row, scored["num_units"]), detail))
    return tuple(shown)


def _notes(one: Side, other: Side, num_paired: int) -> tuple[str, ...]:
    """Which images of either are not compared."""
    found = []
    for side in (one, other):
        left_out = len(side.images) - num_paired
        if left_out:
            found.append(
                f"{number(left_out)} of the {number(len(side.images))} images of {side.name} are not compared: the "
                "other has none with the same content and target at the same level."
            )
    return tuple(found)


def _row(row: Mapping[str, Any]) -> ComparedImage:
    class_iou = {name: scores["iou"] for name, scores in row["per_class"].items()}
    return ComparedImage(row["image"], row["split"] or "", row["overall"], class_iou)


class _Pictures:
    """Both masks of the images that changed most; one that cannot be shown says why: a report's mask that was made
    again since is nothing that failed.
    """

    def __init__(self, one: Side, other: Side, progress: Progress) -> None:
        self.items: list[ItemResult] = []
        """Images of which a picture failed."""
        self._outdated: Counter[str] = Counter()
        """Why images cannot be shown, though nothing failed."""
        self._num_left_out = 0
        self._sides, self._labels, self._progress = (one, other), _labels(one, other), progress

    def rows(self, paired: Pairs) -> tuple[PictureRow, ...]:
        """Image, both masks over it, and where they differ."""
        found: list[PictureRow] = []
        bytes_left = MAX_BYTES
        self._progress.start("report", min(len(paired), MAX_PICTURES), "pictures")
        for pair in paired[:MAX_PICTURES]:
            if bytes_left > 0 and (row := self._try(pair)) is not None:
                found.append(row)
                bytes_left -= row.num_bytes
            self._progress.advance()
        self._num_left_out = len(paired) - min(len(paired), MAX_PICTURES)
        return tuple(found)

    def outdated(self) -> tuple[str, ...]:
        """How many images cannot be shown because a report's mask stands no more; one line for each reason."""
        of = f" of the {MAX_PICTURES} that changed most" if self._num_left_out else ""
        return tuple(
            f"{number(num)} {'image' if num == 1 else 'images'}{of} cannot be shown: {why}"
            for why, num in self._outdated.items()
        )

    def _try(self, pair: tuple[ImageScore, ImageScore]) -> PictureRow | None:
        image_id = pair[0].image_id
        try:
            masks = self._masks(pair)
            return None if masks is None else self._row(pair, masks)
        except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
            message = f"no picture of it: {failure(image_id, error)}"
            self.items.append(ItemResult(state="failed", image=image_id, error=message))
            return None

    def _masks(self, pair: tuple[ImageScore, ImageScore]) -> list[Label] | None:
        """Both masks; None where one stands no more, and that is counted."""
        masks, gone = [], []
        for side, label, score in zip(self._sides, self._labels, pair, strict=True):
            try:
                masks.append(side.mask_of(score))
            except OutdatedError as error:
                gone.append(f"the mask of {label} {error}")
        if gone:
            self._outdated[" and ".join(gone)] += 1
            return None
        return masks

    def _row(self, pair: tuple[ImageScore, ImageScore], masks: Sequence[Label]) -> PictureRow:
        workspace, image_id = self._sides[0].workspace, pair[0].image_id
        image, classes = workspace.image(image_id), self._sides[0].classes
        window, level = coarse_plane(image, masks[0].base_level)
        picture, valid = read_picture(image, window, level)
        sides = picture.shape[:2]
        ids = tuple(read_ids(mask, window, level, valid, sides) for mask in masks)
        target = workspace.label(image_id, "target") if pair[0].has_target else None
        target_ids = None if target is None else read_ids(target, window, level, valid, sides)
        known = [info.id for info in classes]
        read = ids if target_ids is None else (*ids, target_ids)
        counted = np.logical_and.reduce([np.isin(each, known) for each in read])
        panels = [Panel("image", pictures.photo_uri(picture), f"Image {image_id}")]
        for label, each in zip(self._labels, ids, strict=True):
            tinted = pictures.overlay(picture, each, classes, foreground_rows(classes))
            panels.append(Panel(label, pictures.photo_uri(tinted), f"Mask of {label} over image {image_id}"))
        changed = pictures.changes(picture, (ids[0], ids[1]), target_ids, counted)
        panels.append(Panel("where they differ", pictures.photo_uri(changed), f"Differences of {image_id}"))
        return PictureRow(image_id, _caption(ids, counted), tuple(panels))


def _caption(ids: tuple[Any, ...], counted: Any) -> str:
    differs = (ids[0] != ids[1])[counted]
    return f"{percent(float(differs.mean()) if differs.size else None)} of the pixels shown differ"
