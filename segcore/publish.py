"""Publish: workspace -> scores and pictures -> *reports/<run>/report.html and report.json*.

Reads what the pure `segcore.report` shows. Pictures come from coarse levels and single tiles, one at a time,
so memory does not grow with the images, and the page not with their number.
"""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore import __version__
from segcore.classes import ClassInfo
from segcore.config import ReportConfig, ScoreConfig
from segcore.errors import StoreError
from segcore.geometry import Window
from segcore.measure import Peak
from segcore.progress import SILENT, Progress
from segcore.report import BandTable, Fact, Failure, Panel, PictureRow, ReportContent, UnusualImages, pictures, render
from segcore.report.figures import confusion_svg, curves_svg, is_setting, read_curve
from segcore.report.html import number, percent
from segcore.report.reliability import reliability_panel
from segcore.report.rows import MAX_ROWS, area_text, chips, headline_score, image_rows, worst_first
from segcore.results import ItemResult, StageResult
from segcore.scoring.counts import foreground_rows
from segcore.scoring.document import document
from segcore.scoring.score import score
from segcore.selection import failure, mask_name
from segcore.store import Image, Label, Workspace, unseal
from segcore.unusual import unusual_images
from segcore.why import band_tables, saliency_rows

MAX_OVERLAYS = 24
LEVEL_PX = 1024
"""Overlays are read at the finest level whose longer side is at most this."""
MAX_DETAILED = 6
"""With more classes the table of images has no columns for each: it would not fit a page."""
PICTURE_PX = 560
"""Longer side of a picture in the page."""
LIBRARIES = ("numpy", "zarr", "tensorstore", "torch", "monai", "rasterio", "tifffile", "prefect")

Ids = npt.NDArray[Any]


def report(config: ReportConfig, progress: Progress = SILENT) -> StageResult:
    """Score what is not scored yet, and write the report of a mask.

    Raises:
        ConfigError: if `config.model` is neither a mask's name nor a model package.
        StoreError: if there is no workspace, no image has the mask, or the report cannot be written.
    """
    with Peak() as peak:
        created = datetime.now(UTC)
        run = config.run or created.strftime("%Y%m%dT%H%M%SZ")
        workspace = Workspace.open(config.workspace)
        config, scored = _scored(config, workspace, progress)
        assert scored.scores is not None, "score always gives a document"
        pages = _Pictures(workspace, scored.scores, progress)
        content = _content(config, workspace, scored, pages, f"{created:%Y-%m-%d %H:%M} UTC, run {run}")
        html, data = f"reports/{run}/report.html", f"reports/{run}/report.json"
        workspace.objects.put(data, _report_json(run, created, config, scored, content))
        workspace.objects.put(html, render(content).encode())
    return StageResult(
        stage="report",
        items=(*scored.items, *pages.items()),
        paths=(workspace.describe(html), workspace.describe(data)),
        scores=scored.scores,
        seconds=peak.seconds,
        peak_mib=peak.mib,
        details={"mask": scored.details["mask"], "run": run, "num_overlays": len(content.overlays)},
    )


def _scored(config: ReportConfig, workspace: Workspace, progress: Progress) -> tuple[ReportConfig, StageResult]:
    """Scores; where there is no mask but failures to tell of, none, and that as one failure more."""
    try:
        return config, score(_score_config(config), progress)
    except StoreError as error:
        if not config.failures:
            raise
        name = mask_name(workspace, config.model)
        config = config.model_copy(update={"failures": (*config.failures, (f"mask {name}", str(error)))})
        return config, StageResult(
            stage="score", scores=document(name, [], _score_config(config)), details={"mask": name}
        )


def _score_config(config: ReportConfig) -> ScoreConfig:
    return ScoreConfig(**config.model_dump(include=set(ScoreConfig.model_fields)))


def _content(
    config: ReportConfig, workspace: Workspace, scored: StageResult, pages: "_Pictures", created: str
) -> ReportContent:
    scores, mask = pages.document, scored.details["mask"]
    overlays, worst, saliency = pages.overlays(), pages.worst_tiles(), pages.saliency()
    failures = _failures(config, scored.items, pages.failures.values())
    rows = image_rows(scores, scored.items)
    model = _model(workspace, scores, mask)
    return ReportContent(
        title=config.title,
        subtitle=f"Mask {mask} in {workspace.uri}",
        created=created,
        chips=chips(scores, scored.items, len(failures)),
        classes=pages.classes,
        failures=failures,
        scores=scores if scores["num_scored"] else None,
        images=rows[:MAX_ROWS],
        detailed=_detailed(pages.classes),
        num_images_left_out=max(0, len(rows) - MAX_ROWS),
        confusion=_confusion(scores),
        reliability=reliability_panel(scores, pages.classes),
        overlays=overlays,
        num_overlays_left_out=max(0, len(scores["per_image"]) - MAX_OVERLAYS),
        worst=worst,
        bands=pages.bands(),
        saliency=saliency,
        unusual=pages.unusual(),
        curves=_curves(workspace, model),
        provenance=_provenance(config, workspace, scores, mask, model),
    )


def _detailed(classes: Sequence[ClassInfo]) -> tuple[ClassInfo, ...]:
    """The classes with columns of their own in the table of images: not the background, and none if there are many."""
    rows = foreground_rows(classes)
    return tuple(classes[row] for row in rows) if len(rows) <= MAX_DETAILED else ()


def _failures(config: ReportConfig, items: Sequence[ItemResult], of_pictures: Iterable[Failure]) -> tuple[Failure, ...]:
    """Every source or image that failed, by its first reason: an earlier stage of a flow, the scores, the pictures."""
    before = [Failure(source, error) for source, error in config.failures]
    own = [Failure(item.image or item.source or "?", item.error or "") for item in items if item.state == "failed"]
    first: dict[str, Failure] = {}
    for failed in (*before, *own, *of_pictures):
        first.setdefault(failed.source, failed)
    return tuple(first.values())


def _report_json(
    run: str, created: datetime, config: ReportConfig, scored: StageResult, content: ReportContent
) -> bytes:
    """The same facts for programs: the document of scores, what became of each image, provenance."""
    document = {
        "format": 1,
        "run": run,
        "created": created.isoformat(timespec="seconds"),
        "title": config.title,
        "mask": scored.details["mask"],
        "failures": [{"source": failure.source, "error": failure.error} for failure in content.failures],
        "items": [item.model_dump(mode="json", exclude_none=True) for item in scored.items],
        "scores": scored.scores,
        "provenance": {
            heading: {fact.key: fact.value for fact in facts} for heading, facts in content.provenance.items()
        },
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


class _Pictures:
    """Reads pictures from the workspace; one that cannot be read is named in `failures`, the rest go on."""

    def __init__(self, workspace: Workspace, document: Mapping[str, Any], progress: Progress) -> None:
        self.document = document
        self.classes = tuple(ClassInfo.model_validate(value) for value in document["classes"])
        self.failures: dict[str, Failure] = {}
        """By image id, the first of each."""
        self._workspace, self._progress = workspace, progress
        self._shown = worst_first(document)[:MAX_OVERLAYS]
        progress.start("report", len(self._shown) + len(document["worst_tiles"]), "pictures")

    def items(self) -> tuple[ItemResult, ...]:
        """The images of which a picture failed."""
        return tuple(ItemResult(state="failed", image=i, error=failed.error) for i, failed in self.failures.items())

    def overlays(self) -> tuple[PictureRow, ...]:
        """Image, target, mask and overlay of the worst images, at a coarse level."""
        return tuple(row for image_id in self._shown if (row := self._try(image_id, None)) is not None)

    def worst_tiles(self) -> tuple[PictureRow, ...]:
        """Image, target, mask and errors of the worst tiles, at the mask's finest level."""
        tiles = self.document["worst_tiles"]
        return tuple(row for tile in tiles if (row := self._try(tile["image"], tile)) is not None)

    def saliency(self) -> tuple[PictureRow, ...]:
        """What layers of `segcore explain` show of the worst images."""
        try:
            return saliency_rows(self._workspace, self.document["mask"], self._shown)
        except Exception as error:  # noqa: BLE001 - without these pictures the report is still one
            self._progress.note(f"report: no picture of why: {type(error).__name__}: {error}")
            return ()

    def bands(self) -> tuple[BandTable, ...]:
        """What tables of `segcore explain` say of the bands."""
        try:
            return band_tables(self._workspace, self.document["mask"], list(self.document["per_image"]))
        except Exception as error:  # noqa: BLE001 - a damaged table is written anew by the next `segcore explain`
            self._progress.note(f"report: no table of bands: {type(error).__name__}: {error}")
            return ()

    def unusual(self) -> UnusualImages | None:
        """The images that `segcore drift` found the least like the training images."""
        try:
            return unusual_images(self._workspace, self.document["mask"], list(self.document["per_image"]))
        except Exception as error:  # noqa: BLE001 - without this list the report is still one
            self._progress.note(f"report: no list of unusual images: {type(error).__name__}: {error}")
            return None

    def _try(self, image_id: str, tile: Mapping[str, Any] | None) -> PictureRow | None:
        try:
            image = self._workspace.image(image_id)
            mask = self._workspace.label(image_id, self.document["mask"])
            has_target = self.document["per_image"][image_id]["has_target"]
            target = self._workspace.label(image_id, "target") if has_target else None
            return self._overlay(image, mask, target) if tile is None else self._tile(image, mask, target, tile)
        except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
            self.failures.setdefault(image_id, Failure(image_id, f"no picture of it: {failure(image_id, error)}"))
            return None
        finally:
            self._progress.advance()

    def _overlay(self, image: Image, mask: Label, target: Label | None) -> PictureRow:
        levels = range(mask.base_level, image.num_levels)
        level = next((n for n in levels if max(image.shape(n)[-2:]) <= LEVEL_PX), levels[-1])
        window = _middle_plane(mask, Window.whole(image.shape(level)[-2:]), level - mask.base_level)
        picture, mask_ids, target_ids = self._read(image, mask, target, window, level)
        tinted = pictures.overlay(picture, mask_ids, self.classes, foreground_rows(self.classes))
        what = f"of {image.image_id}"
        panels = [Panel("image", pictures.photo_uri(picture), f"Image {what}")]
        if target_ids is not None:
            panels.append(self._flat("target", target_ids, what))
        panels.append(self._flat("mask", mask_ids, what))
        panels.append(Panel("mask over image", pictures.photo_uri(tinted), f"Mask over image {what}"))
        return PictureRow(image.image_id, self._caption(image, mask), tuple(panels))

    def _tile(self, image: Image, mask: Label, target: Label | None, tile: Mapping[str, Any]) -> PictureRow | None:
        assert target is not None, f"a worst tile of {image.image_id} without a target"
        window = Window(tuple(tile["start"]), tuple(tile["shape"]))
        picture, mask_ids, target_ids = self._read(image, mask, target, window, mask.base_level)
        assert target_ids is not None
        known = [info.id for info in self.classes]
        counted = np.isin(target_ids, known) & np.isin(mask_ids, known)
        wrong = pictures.errors(picture, target_ids, mask_ids, counted)
        top, left = window.start[-2:]
        what = f"of the tile at y {top}, x {left} of {image.image_id}"
        caption = f"y {top}, x {left}: {percent(tile['wrong_share'])} of {number(tile['counted_px'])} px wrong"
        panels = (
            Panel("image", pictures.photo_uri(picture), f"Image {what}"),
            self._flat("target", target_ids, what),
            self._flat("mask", mask_ids, what),
            Panel("errors", pictures.photo_uri(wrong), f"Wrong pixels {what}"),
        )
        return PictureRow(image.image_id, caption, panels)

    def _flat(self, title: str, ids: Ids, what: str) -> Panel:
        shares = [f"{info.name} {percent(float((ids == info.id).mean()))}" for info in self.classes[:8]]
        return Panel(title, pictures.ids_uri(ids, self.classes), f"{title.capitalize()} {what}: {', '.join(shares)}")

    def _read(
        self, image: Image, mask: Label, target: Label | None, window: Window, level: int
    ) -> tuple[pictures.Rgb, Ids, Ids | None]:
        """Picture (Y, X, 3), mask ids and target ids (Y, X) of a plane, shrunk to fit the page."""
        pixels = image.read(_with_channels(image, window, level), level)
        plane = pixels.reshape(-1, *pixels.shape[-2:])
        valid = image.read_valid(window, level).reshape(plane.shape[-2:])
        picture = pictures.shrunk(pictures.to_rgb(plane, image.channels, valid), PICTURE_PX)

        def ids_of(label: Label) -> Ids:
            ids = label.read(window, level - label.base_level).reshape(valid.shape)
            return pictures.sampled(np.where(valid, ids, label.ignore), picture.shape[:2])

        return picture, ids_of(mask), None if target is None else ids_of(target)

    def _caption(self, image: Image, mask: Label) -> str:
        entry = self.document["per_image"][image.image_id]
        height, width = mask.shape()[-2:]
        parts = [f"{width} x {height} px" + (f" at level {mask.base_level}" if mask.base_level else "")]
        if image.split:
            parts.append(image.split)
        if headline_score(entry) is not None:
            parts.append(f"IoU without background {percent(headline_score(entry))}")
        rows = foreground_rows(self.classes)[:6]
        parts += [f"{self.classes[r].name} {area_text(entry['areas'][self.classes[r].name])}" for r in rows]
        return " · ".join(parts)


def _middle_plane(label: Label, plane: Window, level: int) -> Window:
    """A window over all axes of a label: the middle of z and t, the given one of y and x."""
    lead = label.shape(level)[:-2]
    return Window((*(n // 2 for n in lead), *plane.start), (*(1 for _ in lead), *plane.shape))


def _with_channels(image: Image, window: Window, level: int) -> Window:
    """A label's window with all channels of its image."""
    at = image.axes.index("c")
    start, shape = list(window.start), list(window.shape)
    start.insert(at, 0)
    shape.insert(at, image.shape(level)[at])
    return Window(tuple(start), tuple(shape))


def _confusion(document: Mapping[str, Any]) -> Panel | None:
    if not document["num_scored"]:
        return None
    confusion = np.asarray(document["confusion"], np.int64)
    names = [info["name"] for info in document["classes"]]
    return Panel(
        "Confusion matrix: of the pixels of each target class (row), the share that the mask gives to each class",
        pictures.svg_uri(confusion_svg(confusion, names)),
        "Confusion matrix; its numbers are in report.json, and per class in the table above",
    )


def _model(workspace: Workspace, document: Mapping[str, Any], mask: str) -> dict[str, Any]:
    """What model.json says of the model that made the first mask; {} if it lies in no package of this workspace."""
    first = next(iter(document["per_image"]), None)
    made_by = {} if first is None else workspace.label(first, mask).attributes.get("model", {})
    return _json(workspace.objects.get(f"models/{made_by.get('id', mask)}/model.json"))


def _curves(workspace: Workspace, model: Mapping[str, Any]) -> Panel | None:
    """Training curves of the run that made the model, if it lies in this workspace."""
    run = model.get("training", {}).get("run")
    text = workspace.objects.get(f"runs/{run}/curve.csv") if isinstance(run, str) and "/" not in run else None
    curve = read_curve(text.decode("utf-8", "replace")) if text else {}
    svg = curves_svg(curve)
    if svg is None:
        return None
    last = "; ".join(f"{name} ends at {points[-1][1]:.4g}" for name, points in curve.items() if not is_setting(name))
    return Panel(f"Training of run {run}", pictures.svg_uri(svg), f"Training curves: {last}")


def _provenance(
    config: ReportConfig, workspace: Workspace, document: Mapping[str, Any], mask: str, model: Mapping[str, Any]
) -> dict[str, tuple[Fact, ...]]:
    asked = config.model_dump(mode="json", exclude={"failures"}, exclude_defaults=True)
    facts = {"Report": _facts(asked)}
    if model:
        facts["Model"] = _facts({key: model[key] for key in model if key not in ("classes", "format")})
    first = next(iter(document["per_image"]), None)
    if first is not None:
        plan_number = workspace.label(first, mask).attributes.get("plan")
        plan = _json(workspace.objects.get(f"state/{first}/{mask}/{plan_number}/plan.json"))
        facts[f"Plan of the first mask ({first})"] = _facts(plan)
    found = {"segcore": __version__, "Python": platform.python_version(), "platform": platform.platform()}
    facts["Versions"] = _facts(found | {name: _version(name) for name in LIBRARIES})
    return facts


def _facts(values: Mapping[str, Any], at: str = "") -> tuple[Fact, ...]:
    """Nested settings as dotted keys; long values are cut."""
    facts: list[Fact] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            facts += _facts(value, f"{at}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            facts.append(Fact(f"{at}{key}", text if len(text) <= 240 else text[:239] + "…"))
    return tuple(facts)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def _json(data: bytes | None) -> dict[str, Any]:
    """An object of the workspace as JSON; {} where there is none, or no mapping in it."""
    try:
        return unseal(data or b"{}")
    except ValueError:
        return {}
