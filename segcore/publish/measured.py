"""Measured: what `segcore measure` found of masks as they stand -> *the page's table of objects, and report.json's*."""

from collections.abc import Mapping, Sequence
from typing import Any

from segcore.classes import ClassInfo
from segcore.measurements.totals import Totals, px_of, totals_of
from segcore.report import ObjectRow, ObjectTable
from segcore.report.rows import area_text


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
    rows = (_row(info, totals[info.name]) for info in classes if info.name in totals)
    return ObjectTable(tuple(rows), len(measured), num_masks)


def _row(info: ClassInfo, total: Mapping[str, float]) -> ObjectRow:
    """One class; planes and volumes together are counted in pixels."""
    sizes = {key.partition("_")[2]: value for key, value in total.items() if "_" in key}
    sizes["px"] = px_of(total)
    count = int(total["objects"])
    each = {unit: value / count for unit, value in sizes.items()} if count else None
    return ObjectRow(info, count, area_text(sizes), area_text(each) if each else None, total.get("confidence"))
