"""Measured: what `segcore measure` found of masks as they stand -> *the page's table of objects, and report.json's*."""

from collections.abc import Mapping, Sequence
from typing import Any

from segcore.classes import ClassInfo
from segcore.measurements.totals import Totals, px_of, totals_of
from segcore.report import ObjectRow, ObjectTable
from segcore.report.rows import area_text, common_units


def objects_document(measured: Mapping[str, Totals]) -> dict[str, Any] | None:
    """The totals for programs; None where nothing was measured.

    Args:
        measured: by image id.
    """
    return {"classes": totals_of(list(measured.values())), "images": dict(measured)} if measured else None


def object_table(measured: Mapping[str, Totals], num_masks: int, classes: Sequence[ClassInfo]) -> ObjectTable | None:
    """The totals for people; None where nothing was measured.

    Args:
        measured: by image id.
        num_masks: that the report is about.
        classes: of the masks; what is of no class of them is not shown.
    """
    if not measured:
        return None
    totals = totals_of(list(measured.values()))
    shown = [info for info in classes if info.name in totals]
    sizes = [_sizes(totals[info.name]) for info in shown]
    means = [_each(size, int(totals[info.name]["objects"])) for info, size in zip(shown, sizes, strict=True)]
    of_size, of_mean = common_units(sizes), common_units(mean for mean in means if mean)
    rows = (
        ObjectRow(
            info,
            int(totals[info.name]["objects"]),
            area_text(size, of_size),
            area_text(mean, of_mean) if mean else None,
            totals[info.name].get("confidence"),
        )
        for info, size, mean in zip(shown, sizes, means, strict=True)
    )
    return ObjectTable(tuple(rows), len(measured), num_masks)


def _sizes(total: Mapping[str, float]) -> dict[str, float]:
    """Of all objects of a class, by unit; planes and volumes together are counted in pixels."""
    sizes = {key.partition("_")[2]: value for key, value in total.items() if "_" in key}
    return {**sizes, "px": px_of(total)}


def _each(sizes: Mapping[str, float], count: int) -> dict[str, float] | None:
    return {unit: value / count for unit, value in sizes.items()} if count else None
