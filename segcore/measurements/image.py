"""Image: one mask with its objects -> *its table and totals*, kept in the workspace until something of it changes.

    a window -> sums of its objects -> those that end inside: rows
                                    -> those at its faces: wait for the other windows

Memory holds some windows, a row group, and the sums of objects that lie at the faces of windows. Objects are connected
by the sides of their pixels, as all labels of objects of masks are: one that reaches no face is whole.
"""

import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from segcore.components.cells import MAX_THREADS, ahead
from segcore.components.label import STAGE, make_components
from segcore.errors import StoreError
from segcore.measure import num_cores
from segcore.measurements.columns import Columns, Ruler, columns_of
from segcore.measurements.subject import Subject, windows_of
from segcore.measurements.sums import Sums, together
from segcore.measurements.tables import Rows, opened_table, stored_table, table_of
from segcore.progress import SILENT, Progress
from segcore.scoring.counts import foreground_rows
from segcore.scoring.ground import row_areas
from segcore.selection import is_of_earlier, probs_layer
from segcore.store import Image, Label, Workspace, instances_name, latest_plan, plan_digest

FORMAT = 2
"""Of what is kept, and of the numbers in it: another one is measured again."""
WAITING_PARTS = 64
"""Windows whose sums are gathered before equal ids are added up."""


@dataclass(frozen=True)
class Measured:
    """The table of one image, in the workspace."""

    key: str
    schema: pa.Schema
    totals: dict[str, dict[str, float]]
    """By class of the foreground: objects, which may be 0, area by unit, confidence."""
    reused: bool


def known(ws: Workspace, image_id: str, mask: str) -> dict[str, dict[str, float]] | None:
    """Totals that an earlier call found of a mask as it stands, by class; None where there are none.

    Raises:
        SegcoreError: if image, mask or objects cannot be opened.
    """
    kept = opened_table(ws.objects, _key(image_id, mask))
    told = None if kept is None else _told(kept)
    if told is None:
        return None
    image, label, objects = (ws.image(image_id), *(ws.label(image_id, name) for name in (mask, instances_name(mask))))
    subject = Subject(image, label, objects, probs_layer(ws, label), told[0].get("intensity", True))
    return told[1] if _same(told[0], _identity(subject)) else None


def measured(ws: Workspace, image: Image, mask: Label, intensity: bool, progress: Progress = SILENT) -> Measured:
    """Measure the objects of a mask, or read back what stands.

    Args:
        ws: where all is.
        image: that it is of.
        mask: whose objects are measured; where it has none, its connected pixels are made objects.
        intensity: whether the image is read too.
        progress: hears of windows.

    Raises:
        SegcoreError: if objects are not finished, or of an earlier mask.
    """
    subject = Subject(image, mask, _objects(ws, image, mask), probs_layer(ws, mask), intensity)
    key, identity = _key(image.image_id, mask.name), _identity(subject)
    kept = opened_table(ws.objects, key)
    if kept is not None and (found := _kept(kept, key, identity)) is not None:
        progress.advance(windows_of(mask).num_cells)
        return found
    table = _Table(subject)
    with stored_table(ws.objects, key, table.schema) as writer:
        totals = table.fill(Rows(writer), progress)
        writer.add_key_value_metadata({"identity": json.dumps(identity), "totals": json.dumps(totals)})
    return Measured(key, table.schema, totals, reused=False)


def _objects(ws: Workspace, image: Image, mask: Label) -> Label:
    """The objects of a mask; where no model told them apart, connected pixels are made some."""
    name = instances_name(mask.name)
    state = latest_plan(ws.objects, image.image_id, name)
    if state is None or state.load(or_empty=True).get("plan", {}).get("stage") == STAGE:
        make_components(ws, image.image_id, mask.name)
    objects = ws.label(image.image_id, name)
    if is_of_earlier(objects, mask):
        raise StoreError(
            f"image {image.image_id}: {name} are the objects of an earlier mask {mask.name}; predict again"
        )
    return objects


def _identity(subject: Subject) -> dict[str, Any]:
    """All that the numbers were made of."""
    image, probs = subject.image, subject.probs
    return {
        "format": FORMAT,
        "image": [image.digest, image.attributes.get("plan"), image.valid_plan],
        "place": plan_digest(image.handed_on({})),
        "mask": [subject.mask.digest, subject.mask.attributes.get("plan")],
        "objects": [subject.objects.digest, subject.objects.attributes.get("plan")],
        "probs": None if probs is None else [probs.name, probs.digest, probs.attributes.get("plan")],
        "intensity": subject.intensity,
        "classes": [info.model_dump(mode="json") for info in subject.mask.classes],
    }


def _key(image_id: str, mask: str) -> str:
    return f"state/{image_id}/{mask}/measure.parquet"


def _told(table: pq.ParquetFile) -> tuple[dict[str, Any], dict[str, dict[str, float]]] | None:
    """What a table was made of, and its totals; None where it does not say."""
    try:
        metadata = {name.decode(): value.decode() for name, value in (table.metadata.metadata or {}).items()}
        return json.loads(metadata["identity"]), json.loads(metadata["totals"])
    except (KeyError, ValueError):
        return None


def _same(kept: dict[str, Any], identity: dict[str, Any]) -> bool:
    return bool(kept == json.loads(json.dumps(identity)))


def _kept(table: pq.ParquetFile, key: str, identity: dict[str, Any]) -> Measured | None:
    """What an earlier call measured, if it saw the same."""
    told = _told(table)
    if told is None or not _same(told[0], identity):
        return None
    try:
        for group in range(table.num_row_groups):  # a damaged one is told by its checksum
            table.read_row_group(group)
    except (OSError, pa.ArrowException):
        return None
    return Measured(key, table.schema_arrow, told[1], reused=True)


class _Table:
    """The rows of one image, as they come."""

    def __init__(self, subject: Subject) -> None:
        image, mask = subject.image, subject.mask
        georef = image.georef
        is_plane = georef is not None and "z" not in mask.axes
        on_ground = is_plane and row_areas(georef.at_level(mask.base_level), 0, 1) is not None if georef else False
        self._subject, self._ruler = subject, Ruler.of(image, mask, on_ground)
        self._classes = tuple(dict.fromkeys(mask.classes[row].name for row in foreground_rows(mask.classes)))
        self._channels = () if subject.probs is None else subject.probs.channels
        self._totals: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.schema: pa.Schema = self._rows(_no_sums(subject, len(self._ruler.axes), len(self._channels))).schema

    def fill(self, rows: Rows, progress: Progress) -> dict[str, dict[str, float]]:
        """Measure window by window; the totals by class."""
        waiting: list[Sums] = []
        grid = windows_of(self._subject.mask)
        with ThreadPoolExecutor(min(MAX_THREADS, num_cores()), thread_name_prefix="segcore-measure") as threads:
            try:
                for found, at_face in ahead(threads, self._subject.sums, map(grid.window, grid.indices())):
                    rows.add(self._rows(found.of(~at_face)))
                    waiting.append(found.of(at_face))
                    if len(waiting) > WAITING_PARTS:
                        waiting = [together(waiting)]
                    progress.advance()
            finally:
                threads.shutdown(cancel_futures=True)
        rows.add(self._rows(together(waiting)))
        rows.flush()
        return self._summed()

    def _summed(self) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for name, sums in self._totals.items():
            sure_px, sure = sums.pop("sure_px"), sums.pop("sure")
            px = f"{self._ruler.what}_px"
            found[name] = {"objects": int(sums.pop("objects")), **sums, px: int(sums[px])}
            if sure_px:
                found[name]["confidence"] = sure / sure_px
        return found

    def _rows(self, sums: Sums) -> pa.Table:
        columns = columns_of(sums, self._ruler, self._subject.mask, self._subject.bands, self._channels)
        self._count(columns)
        return table_of(columns, self._subject.image.image_id)

    def _count(self, columns: Columns) -> None:
        """Add to the totals, where a class without objects has 0; of confidence the mean over pixels."""
        area = f"{self._ruler.what}_px"
        for name in self._classes:
            own, total = columns["class"] == name, self._totals[name]
            total["objects"] += int(own.sum())
            for column in (area, *(f"{self._ruler.what}_{unit}" for unit in self._ruler.sizes)):
                total[column] += columns[column][own].sum().item()
            sure = columns["confidence"][own] if "confidence" in columns else np.full(int(own.sum()), np.nan)
            known = ~np.isnan(sure)
            total["sure_px"] += float(columns[area][own][known].sum())
            total["sure"] += float((sure * columns[area][own])[known].sum())


def _no_sums(subject: Subject, ndim: int, num_channels: int) -> Sums:
    """Of no object: what columns there are."""
    num_classes, num_bands = len(subject.mask.classes), len(subject.bands)
    ints, floats = np.zeros(0, np.int64), np.zeros(0)
    return Sums(
        id=ints, area=ints, low=ints.reshape(0, 1).repeat(ndim, 1), high=ints.reshape(0, 1).repeat(ndim, 1),
        mean=np.zeros((0, ndim)), spread=np.zeros((0, ndim, ndim)), steps=np.zeros((0, 3), np.int64), ground=floats,
        classes=np.zeros((0, num_classes), np.int64), known=np.zeros((0, num_bands), np.int64),
        value=np.zeros((0, num_bands)), least=np.zeros((0, num_bands)), most=np.zeros((0, num_bands)),
        sure_px=ints, sure=np.zeros((0, num_channels)),
    )  # fmt: skip
