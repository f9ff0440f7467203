"""Search: where it is worth looking, known from coarse maps before a pixel of level 0 is read.

    nodata, AOI, foreground, screen --CoarseMap each--> Search --window of a tile--> look, or why not

A tile is looked at if it touches a marked square on every map. All of it is then the model's answer, the same as
without a search; a tile that is not looked at is neither read nor inferred.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segcore.config import PredictConfig
from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.inference.coarse import CoarseMap, factor_for, level_of, map_of_label, map_of_usable, plane_shape
from segcore.inference.job import Job
from segcore.inference.model_grid import ModelGrid, Valid
from segcore.inference.tiling import Tiling
from segcore.ingest.entries import matching_aoi
from segcore.isolation import ByName, ChildPool, Task
from segcore.models.package import ModelPackage
from segcore.sources import SourceInfo
from segcore.store import Image, Label, Workspace
from segcore.store.plan import latest_plan

Reason = Literal["nodata", "aoi", "foreground", "screen"]
"""Why a tile is not looked at: the first of these that holds."""

touched_by_aoi = ByName("segcore.targets.aoi", "touched")


@dataclass(frozen=True, eq=False)
class Search:
    """Of one image."""

    grid: ModelGrid
    maps: tuple[tuple[Reason, CoarseMap], ...] = ()
    skipped_id: int | None = None
    """In the mask, of tiles outside the foreground and the screen; None = `ignore`, as for the other reasons."""

    def why_not(self, window: Window) -> Reason | None:
        """Why a window of the model grid need not be looked at; None = look."""
        scale = (*(1,) * (window.ndim - 2), 2**self.grid.level, 2**self.grid.level)
        own = self.grid.mask_window(window)
        start, shape = (tuple(n * s for n, s in zip(side, scale, strict=True)) for side in (own.start, own.shape))
        fine = Window(start, shape)
        return next((reason for reason, found in self.maps if not found.touches(fine)), None)

    def filled_with(self, reason: Reason | None) -> int | None:
        """The id of a tile that is skipped for a reason, where it is not `ignore`."""
        return self.skipped_id if reason in ("foreground", "screen") else None

    def looks_in(self, window: Window, tiling: Tiling) -> bool:
        """True if a tile is looked at whose write window shares a pixel with this one."""
        return any(self.why_not(tile.write) is None for tile in tiling.tiles(window))


@dataclass(frozen=True, eq=False)
class Scope:
    """What narrows the search of one image, before its maps are made."""

    frozen: dict[str, Any]
    """JSON for the plan: what of it decides pixels; empty if nothing does."""
    makers: tuple[tuple[Reason, Callable[[], CoarseMap | None]], ...]
    skipped_id: int | None
    grid: ModelGrid

    def search(self) -> Search:
        """Make the maps."""
        made = ((reason, make()) for reason, make in self.makers)
        maps = tuple((reason, found) for reason, found in made if found is not None)
        return Search(self.grid, maps, self.skipped_id)


def scope_of(ws: Workspace, job: Job, grid: ModelGrid) -> Scope:
    """What a config asks for, of one image.

    Raises:
        SegcoreError: if a label or the AOI is not there, or does not fit the image.
    """
    config, image, frozen = job.config, grid.image, dict[str, Any]()
    makers: list[tuple[Reason, Callable[[], CoarseMap | None]]] = [("nodata", lambda: map_of_usable(image))]
    if config.aoi is not None:
        area = _map_of_aoi(config.aoi, image)
        frozen["aoi"] = hashlib.sha256(area.marked.tobytes()).hexdigest()
        makers.append(("aoi", lambda: area))
    label = _foreground_of(ws, job, image)
    if label is not None:
        frozen["foreground"] = {"label": label.name, "plan": label.attributes.get("plan"), "digest": label.digest}
        makers.append(("foreground", lambda: map_of_label(label, image, lambda ids: _marked(label, ids))))
    if config.screen is not None:
        screen = ws.label(image.image_id, screen_name(job))
        ids = _screen_ids(config, screen)
        frozen["screen"] = {"digest": screen.digest, "ids": ids, "margin_px": config.screen_margin_px}
        makers.append(("screen", lambda: _map_of_screen(screen, image, ids, config.screen_margin_px)))
    skipped_id = _skipped_id(config, job.package, image)
    if "foreground" in frozen or "screen" in frozen:
        frozen["skipped_as"] = job.ignore if skipped_id is None else skipped_id
    return Scope(frozen, tuple(makers), skipped_id, grid)


def _marked(label: Label, ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where a label says something; of objects every number is one."""
    return np.asarray(ids != 0 if label.tells_objects else (ids != 0) & (ids != label.ignore))


def screen_name(job: Job) -> str:
    """Name of the screen's mask under `labels/`."""
    return screen_of(job.name)


def screen_of(mask: str) -> str:
    """The same, by the name of the mask."""
    return f"{mask}.screen"


def screen_config(job: Job, image_ids: tuple[str, ...]) -> PredictConfig:
    """How the screen is run: where the mask itself would look, all else as its model has it."""
    config = job.config
    asked = ("workspace", "foreground", "aoi", "spacing_tolerance")
    how = ("device", "precision", "compile", "tile_workers", "shard_px", "overwrite", "until", "dry_run")
    values = {key: getattr(config, key) for key in (*asked, *how)}
    return PredictConfig.model_validate(
        {**values, "model": config.screen, "name": screen_name(job), "images": image_ids}
    )


def _foreground_of(ws: Workspace, job: Job, image: Image) -> Label | None:
    """The label that says where to look; None = everywhere."""
    wanted = job.config.foreground
    if wanted == "off":
        return None
    if wanted != "auto" and wanted == job.name:
        raise ConfigError(f"foreground {wanted}: the mask is to have the same name; give the mask another")
    return own_foreground(image) if wanted == "auto" else ws.label(image.image_id, wanted)


def own_foreground(image: Image) -> Label | None:
    """What ingest marked; None = everywhere."""
    ws = Workspace(image.objects)
    if not ws.is_complete(image.image_id, "foreground"):
        return None
    plan = latest_plan(ws.objects, image.image_id, "foreground")
    # Of nodata it says no more than the image itself does, and by the mode of a coarse level: thin parts are lost.
    if plan is not None and plan.load()["plan"].get("foreground") == "nodata":
        return None
    return ws.label(image.image_id, "foreground")


def _skipped_id(config: PredictConfig, package: ModelPackage, image: Image) -> int | None:
    """The class of what is not looked at; None = `ignore`.

    Raises:
        ConfigError: if the model has no such class.
    """
    names = {info.name: info.id for info in package.classes}
    if config.skipped_as not in ("auto", "ignore", *names):
        raise ConfigError(
            f"skipped_as: expected auto, ignore or a class of the model ({', '.join(names)}), got {config.skipped_as}"
        )
    if config.skipped_as == "ignore" or image.pixels_tell:  # which of them are usable is only known by reading them
        return None
    if config.skipped_as == "auto":
        return next((index for name, index in names.items() if name.lower() == "background"), None)
    return names[config.skipped_as]


def _map_of_aoi(pattern: str, image: Image) -> CoarseMap:
    """Squares that the polygons of a file touch; the file is read in a process of its own.

    Raises:
        SegcoreError: if it cannot be read, or does not lie on the image.
    """
    uri = matching_aoi(pattern, image.source)
    assert uri is not None, f"a pattern always names a file, got {pattern}"
    placed = SourceInfo(
        uri=image.source,
        reader="image",
        reader_version="",
        axes=image.axes,
        shape=image.shape(),
        dtype=image.dtype.name,
        channels=image.channels,
        spacing=image.spacing,
        georef=image.georef,
        num_bytes=0,
        details=image.attributes.get("details", {}),
    )
    factor = factor_for(plane_shape(image)[-2:])
    with ChildPool(1) as pool:
        (outcome,) = pool.run([Task(touched_by_aoi, (uri, placed, factor), label=uri)])
    if outcome.error is not None:
        raise outcome.error
    return CoarseMap(outcome.result, factor)


def _screen_ids(config: PredictConfig, screen: Label) -> list[int]:
    """The ids in the screen's mask that ask for a closer look.

    Raises:
        ConfigError: if the screen's model has no such class.
    """
    known = {info.name: info.id for info in screen.classes}
    unknown = [name for name in config.screen_classes if name not in known]
    if unknown:
        raise ConfigError(f"screen_classes: the screen has the classes {', '.join(known)}, got '{unknown[0]}'")
    return sorted(known[name] for name in config.screen_classes) or sorted(set(known.values()) - {0})


def _map_of_screen(screen: Label, image: Image, ids: list[int], margin_px: int) -> CoarseMap:
    def wanted(pixels: Valid) -> Valid:
        return np.isin(pixels, ids)

    found = map_of_label(screen, image, wanted)
    return found.grown(-(-margin_px // (found.factor >> level_of(screen, image))))
