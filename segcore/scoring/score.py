"""Score: finished masks + targets -> *counts per image* -> one document of scores.

Pixels stream by, a shard's window at a time, so memory does not grow with the image. What was counted in an image
is kept in `state/<image_id>/<mask>/score.json` beside the identity of all that it was made of; a rerun
reads it back as long as that identity stands, and counts again when any of it changed.
"""

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segcore.classes import ClassInfo
from segcore.config import ScoreConfig
from segcore.errors import ConfigError, IncompleteError, StoreError
from segcore.isolation import Beat, Crew, Task
from segcore.measure import Peak
from segcore.progress import SILENT, Progress
from segcore.results import ItemResult, StageResult
from segcore.scoring.areas import LENGTH_UNITS, pixel_sides, pixel_size, unmeasured
from segcore.scoring.boundary import EXACT, Ruler
from segcore.scoring.counts import Counts, foreground_rows, overall_scores
from segcore.scoring.document import Against, document
from segcore.scoring.fit import check_fit, named
from segcore.scoring.identity import state_digest
from segcore.scoring.instances import InstanceCounts
from segcore.scoring.pairs import has_same_rows
from segcore.scoring.probs_stream import probs_of
from segcore.scoring.stream import Streamed, Subject, stream
from segcore.scoring.summary import BoundaryScores, ImageScore, empty_score
from segcore.selection import Masked, failure, is_of_earlier, mask_name, select
from segcore.spatial import METERS_PER_UNIT, parse_length
from segcore.store import Image, Label, Workspace, instances_name, is_instances, seal, unseal

log = logging.getLogger("segcore.scoring")

FORMAT = 3
"""Version of score.json; another one is counted again."""
HALO_PX = 64
VOLUME_HALO_PX = 32
"""How far boundaries are looked for, unless the config says otherwise."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The masks of one name, counted, and what became of each image."""

    mask: str
    images: tuple[ImageScore, ...] = ()
    items: tuple[ItemResult, ...] = ()
    against: Against | None = None


def score(config: ScoreConfig, progress: Progress = SILENT, crew: Crew | None = None) -> StageResult:
    """Score every mask of one name against its target; areas also where there is none.

    A failing image is named in `items` and does not stop the others.

    Args:
        config: which masks, and how.
        progress: hears of images.
        crew: processes that count the images, for a caller that has some; by default this one does.

    Raises:
        ConfigError: if `config.model` or `config.against` is neither a mask's name nor a model package, or the name
            of objects.
        StoreError: if there is no workspace, no image has the mask, or none has both.
    """
    with Peak() as peak:
        found = score_masks(Workspace.open(config.workspace), config, progress, crew)
    return StageResult(
        stage="score",
        items=found.items,
        scores=document(found.mask, found.images, config, found.against),
        seconds=peak.seconds,
        peak_mib=peak.mib,
        details={"mask": found.mask, "num_reused": sum(result.reused for result in found.images)},
    )


def score_masks(
    workspace: Workspace, config: ScoreConfig, progress: Progress = SILENT, crew: Crew | None = None
) -> Scored:
    """What `score` counts, image by image, before it becomes one document; raises as `score` does."""
    name = _mask_of_classes(workspace, config.model, "--model")
    other = None if config.against is None else _mask_of_classes(workspace, config.against, "--against")
    chosen = select(workspace, name, config.images, config.split)
    if crew is not None:
        _count_in(crew, chosen, config, progress)
    scored, items = _scored(workspace, chosen, config, progress)
    against = None
    if other is not None:
        chosen = select(workspace, other, config.images, config.split)
        both = [each for each in chosen if each.image_id in {item.image for item in items}]
        if not both:
            raise StoreError(f"no image in {workspace.uri} has both masks, {name} and {other}")
        if crew is not None:
            _count_in(crew, both, config, progress)
        compared, others = _scored(workspace, both, config, progress, scored[0].classes if scored else ())
        against = Against(other, compared)
        if without := len(items) - len(both):
            progress.note(f"{without} of {len(items)} images have no mask {other}; the others are compared")
        items += [_of_other(item, other) for item in others if item.state == "failed"]
    return Scored(name, tuple(scored), tuple(items), against)


def _mask_of_classes(workspace: Workspace, model: str, option: str) -> str:
    name = mask_name(workspace, model, option)
    if is_instances(name):
        mask = name.removesuffix(instances_name(""))
        raise ConfigError(f"{option} {name}: these are the objects of {mask}; score {mask}, which scores both")
    return name


def _count_in(crew: Crew, chosen: Sequence[Masked], config: ScoreConfig, progress: Progress) -> None:
    """Let others count; what they keep is read back, and what failed there says so when it is tried here."""
    masks = [masked.mask for masked in chosen if masked.mask is not None]
    progress.start("count", len(masks), "images")
    tasks = (Task(count_image, (config, mask.image_id, mask.name), mask.image_id) for mask in masks)
    for outcome in crew.run(tasks):
        log.debug("counted %s (%s)", outcome.task.label, outcome.error or "done")
        progress.advance()


def count_image(beat: Beat, config: ScoreConfig, image_id: str, name: str) -> None:
    """Count one image, in a process that helps, and keep the counts in the workspace."""
    workspace = Workspace.open(config.workspace)
    score_image(workspace, workspace.image(image_id), workspace.label(image_id, name), config)


def _scored(
    workspace: Workspace,
    chosen: Sequence[Masked],
    config: ScoreConfig,
    progress: Progress,
    classes: Sequence[ClassInfo] = (),
) -> tuple[list[ImageScore], list[ItemResult]]:
    """Counted one by one; `classes`: the rows that all must have, by default those of the first."""
    progress.start("score", len(chosen), "images")
    scored: list[ImageScore] = []
    items: list[ItemResult] = []
    for masked in chosen:
        item = _score_item(workspace, masked, config, scored, classes, progress)
        if item.state == "failed":
            progress.note(item.error or "")
        items.append(item)
        progress.advance()
    return scored, items


def _of_other(item: ItemResult, other: str) -> ItemResult:
    """What failed, with the mask that ours is held against named."""
    return item.model_copy(update={"error": f"against {other}: {item.error}"})


def _score_item(
    workspace: Workspace,
    masked: Masked,
    config: ScoreConfig,
    scored: list[ImageScore],
    classes: Sequence[ClassInfo],
    progress: Progress,
) -> ItemResult:
    try:
        image, mask = masked.opened()
        result = score_image(workspace, image, mask, config, progress)
        expected = classes or (scored[0].classes if scored else result.classes)
        if not has_same_rows(result.classes, expected):
            raise StoreError(
                f"image {image.image_id}: its mask has the classes {named(result.classes)}, "
                f"others have {named(expected)}; they cannot be scored together"
            )
    except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
        return ItemResult(state="failed", image=masked.image_id, error=failure(masked.image_id, error))
    scored.append(result)
    details = {"areas": result.areas, "reused": result.reused, "level": result.level}
    if not result.is_scored:
        reason = "no pixel that counts" if result.has_target else "no target"
        return ItemResult(state="skipped", image=image.image_id, details={"reason": reason, **details})
    empty = empty_score(config.both_empty)
    overall = overall_scores(result.counts.confusion, foreground_rows(result.classes), empty)
    return ItemResult(state="done", image=image.image_id, scores=overall, details=details)


def score_image(
    workspace: Workspace, image: Image, mask: Label, config: ScoreConfig, progress: Progress = SILENT
) -> ImageScore:
    """Counts of one mask, read back where they are still true.

    Raises:
        StoreError: target and mask do not fit each other (sides, classes), hold a value without class, or the
            tolerance cannot be measured in this image.
        IncompleteError: the target is not finished.
    """
    subject = _subject(workspace, image, mask, progress)
    check_fit(subject)
    ruler = _ruler(subject, config) if config.boundary == "on" else None
    identity = {label: state_digest(workspace, image.image_id, label) for label in _made_of(subject)}
    key = f"state/{image.image_id}/{mask.name}/score.json"
    kept = _kept(workspace.objects.get(key), identity, subject, ruler)
    try:
        found = kept or stream(subject, ruler)
        probs = probs_of(workspace, subject, identity, progress) if config.probs == "on" else None
    except StoreError as error:
        raise StoreError(f"image {image.image_id}: {error}") from error
    if kept is None:
        workspace.objects.put(key, json.dumps(seal(_record(identity, found))).encode())
    level, spacing, georef = mask.base_level, image.spacing, image.georef
    sizes = pixel_size(mask.axes, spacing and spacing.at_level(level), georef and georef.at_level(level))
    areas = {
        info.name: {"px": int(px), **{unit: int(px) * size for unit, size in sizes.items()}}
        for info, px in zip(mask.classes, found.counts.mask_px, strict=True)
    }
    return ImageScore(
        image_id=image.image_id,
        split=image.split,
        classes=mask.classes,
        has_target=subject.has_target,
        counts=found.counts,
        worst_tiles=tuple(found.worst_tiles),
        areas=areas,
        reused=kept is not None,
        level=level,
        group=image.group,
        boundary=found.boundary if ruler else None,
        instances=found.instances,
        source=image.source,
        image_digest=image.digest,
        mask_digest=mask.digest,
        probs=probs,
    )


def _subject(workspace: Workspace, image: Image, mask: Label, progress: Progress) -> Subject:
    """The mask with the target and, where there are both, the objects of both."""
    image_id = image.image_id
    target, target_objects = (_label(workspace, image_id, name) for name in ("target", instances_name("target")))
    mask_objects = None if target_objects is None else _label(workspace, image_id, instances_name(mask.name))
    if mask_objects is None:
        return Subject(image, mask, target)
    if is_of_earlier(mask_objects, mask):
        progress.note(
            f"image {image_id}: {mask_objects.name} are the objects of an earlier mask {mask.name}; they are not scored"
        )
        return Subject(image, mask, target)
    return Subject(image, mask, target, mask_objects, target_objects)


def _label(workspace: Workspace, image_id: str, name: str) -> Label | None:
    """A label of the image, or None where it has none; one that is not finished is an error."""
    try:
        return workspace.label(image_id, name)
    except IncompleteError:
        raise
    except StoreError:
        if name in workspace.label_names(image_id):
            raise
        return None


def _ruler(subject: Subject, config: ScoreConfig) -> Ruler:
    """How boundaries are measured in the mask's pixels."""
    image, axes, level = subject.image, subject.mask.axes, subject.mask.base_level
    spacing, georef = image.spacing, image.georef
    sides, unit = pixel_sides(axes, spacing and spacing.at_level(level), georef and georef.at_level(level))
    side = min(side for side in sides if side > 0)
    value, of = parse_length(config.tolerance)
    if of == "px":
        tolerance = value * side
    elif unit == "px":
        why = unmeasured(spacing, georef, f"a tolerance of {config.tolerance}", "--tolerance 2px")
        raise StoreError(f"image {image.image_id}: {why}")
    else:
        tolerance = value * METERS_PER_UNIT[of] / LENGTH_UNITS[unit]
    cap = side * (config.boundary_halo_px or (VOLUME_HALO_PX if "z" in axes else HALO_PX))
    if tolerance > cap * EXACT:
        raise StoreError(
            f"image {image.image_id}: the tolerance of {tolerance:.4g} {unit} is longer than the distances that are "
            f"measured, {cap:.4g} {unit}; a larger --boundary-halo-px measures longer ones"
        )
    return Ruler(sides, unit, min(tolerance, cap), cap)


def _made_of(subject: Subject) -> list[str]:
    return ["image", "valid", *(label.name for label in subject.labels)]


def _record(identity: dict[str, str], found: Streamed) -> dict[str, Any]:
    boundary, objects = found.boundary, found.instances
    return {
        "format": FORMAT,
        "identity": identity,
        "counts": found.counts.to_json(),
        "worst_tiles": found.worst_tiles,
        "boundary": boundary and {"ruler": dataclasses.asdict(boundary.ruler), "classes": boundary.classes},
        "instances": objects and objects.to_json(),
    }


def _kept(data: bytes | None, identity: dict[str, str], subject: Subject, ruler: Ruler | None) -> Streamed | None:
    """What an earlier run counted, if it saw the same pixels by the same ruler; a damaged record is counted again."""
    try:
        record = unseal(data or b"{}")
        if record["format"] != FORMAT or record["identity"] != identity:
            return None
        counts, boundary, objects = Counts.from_json(record["counts"]), None, record["instances"]
        if ruler is not None and subject.has_target:
            kept = record["boundary"]
            if kept is None or kept["ruler"] != json.loads(json.dumps(dataclasses.asdict(ruler))):
                return None
            boundary = BoundaryScores(ruler, tuple(kept["classes"]))
        instances = None if objects is None else InstanceCounts.from_json(objects)
        num_classes = {counts.num_classes} if instances is None else {counts.num_classes, len(instances.tp) - 1}
        if num_classes != {len(subject.mask.classes)}:
            return None
        return Streamed(counts, list(record["worst_tiles"]), boundary, instances)
    except (ValueError, KeyError, TypeError):
        return None
