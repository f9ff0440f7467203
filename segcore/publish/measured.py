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
    rows = (_row(info, totals[info.name], measured) for info in classes if info.name in totals)
    return ObjectTable(tuple(rows), len(measured), num_masks)


def _row(info: ClassInfo, total: Mapping[str, float], measured: Mapping[str, Totals]) -> ObjectRow:
    """One class; in units that all of its images have, since what some do not have would be missing in the sum."""
    own = [totals[info.name] for totals in measured.values() if info.name in totals]
    shared = set.intersection(*map(set, own))
    sizes = {key.partition("_")[2]: value for key, value in total.items() if key in shared and "_" in key}
    sizes |= {} if "px" in sizes else {"px": sum(map(px_of, own))}
    each = {unit: value / total["objects"] for unit, value in sizes.items()}
    return ObjectRow(info, int(total["objects"]), area_text(sizes), area_text(each), total.get("confidence"))
