"""Measure: masks of one name -> *reports/<run>/objects.parquet, objects.csv and measurements.json*."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from segcore import __version__
from segcore.config import MeasureConfig
from segcore.errors import ConfigError, StoreError
from segcore.measure import Peak
from segcore.measurements.image import Measured, measured
from segcore.measurements.subject import windows_of
from segcore.measurements.tables import Rows, fitted, harmless, opened_table, stored_csv, stored_table
from segcore.measurements.totals import Totals, totals_of
from segcore.progress import SILENT, Progress
from segcore.results import ItemResult, StageResult
from segcore.selection import Masked, failure, mask_name, select
from segcore.store import Workspace, instances_name, is_instances


def measure(config: MeasureConfig, progress: Progress = SILENT) -> StageResult:
    """Measure the objects of every mask of one name.

    What was measured of an image is kept beside it, so that a call that was killed goes on with the next image. A
    failing image is named in `items` and does not stop the others.

    Returns:
        `details["classes"]` has the totals by class; the items' details those of each image.

    Raises:
        ConfigError: if `config.model` is neither a mask's name nor a model package, or the name of objects.
        StoreError: if there is no workspace, or no image has the mask.
    """
    with Peak() as peak:
        run = config.run or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        ws = Workspace.open(config.workspace)
        name = mask_name(ws, config.model)
        if is_instances(name):
            mask = name.removesuffix(instances_name(""))
            raise ConfigError(
                f"--model {name}: these are the objects of {mask}; measure {mask}, whose classes they have"
            )
        chosen = select(ws, name, config.images, config.split)
        masks = [masked.mask for masked in chosen if masked.mask is not None]
        progress.start("measure", sum(windows_of(mask).num_cells for mask in masks), "windows")
        found: list[Measured] = []
        items = tuple(_item(ws, masked, config, found, progress) for masked in chosen)
        classes = totals_of([one.totals for one in found])
        keys = _written(ws, f"reports/{run}", found) if found else []
        if found:
            keys.append(f"reports/{run}/measurements.json")
            ws.objects.put(keys[-1], json.dumps(_document(run, name, items, classes), indent=1).encode())
    return StageResult(
        stage="measure",
        items=items,
        paths=tuple(ws.describe(key) for key in keys),
        seconds=peak.seconds,
        peak_mib=peak.mib,
        details={"mask": name, "run": run, "objects": sum(int(row["objects"]) for row in classes.values()),
                 "classes": classes},
    )  # fmt: skip


def _item(
    ws: Workspace, masked: Masked, config: MeasureConfig, found: list[Measured], progress: Progress
) -> ItemResult:
    try:
        image, mask = masked.opened()
        one = measured(ws, image, mask, config.intensity == "on", progress)
    except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
        message = failure(masked.image_id, error)
        progress.note(message)
        return ItemResult(state="failed", image=masked.image_id, error=message)
    found.append(one)
    details = {"objects": sum(int(row["objects"]) for row in one.totals.values()), "classes": one.totals}
    return ItemResult(
        state="done", source=image.source, image=image.image_id, details={**details, "reused": one.reused}
    )


def _written(ws: Workspace, folder: str, found: Sequence[Measured]) -> list[str]:
    """One table of all images, as Parquet and CSV, a row group at a time; their keys.

    Raises:
        StoreError: if a table that was just measured cannot be read.
    """
    schema = pa.unify_schemas([one.schema.remove_metadata() for one in found])
    parquet, csv = f"{folder}/objects.parquet", f"{folder}/objects.csv"
    with stored_table(ws.objects, parquet, schema) as writer, stored_csv(ws.objects, csv, schema) as lines:
        rows = Rows(writer)
        for one in found:
            table = opened_table(ws.objects, one.key)
            if table is None:
                raise StoreError(f"{ws.describe(one.key)}: damaged or gone; run `segcore measure` again")
            for group in range(table.num_row_groups):
                own = fitted(table.read_row_group(group), schema)
                rows.add(own)
                lines.write_table(harmless(own))
        rows.flush()
    return [parquet, csv]


def _document(run: str, mask: str, items: Sequence[ItemResult], classes: Totals) -> dict[str, Any]:
    """Totals for programs, JSON."""
    return {
        "format": 1,
        "run": run,
        "mask": mask,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "code_version": __version__,
        "classes": classes,
        "images": {item.image: item.details for item in items if item.state == "done"},
        "failures": {item.image: item.error for item in items if item.state == "failed"},
    }
