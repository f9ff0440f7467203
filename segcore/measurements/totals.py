"""Totals: what masks hold, by class -> *that of several images*; and what `segcore measure` found of them before."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from segcore.errors import SegcoreError
from segcore.measurements.image import known
from segcore.progress import SILENT, Progress
from segcore.store import Workspace

Totals = dict[str, dict[str, float]]
"""Class -> `objects`; area or volume by unit, as the columns of the table are called; `confidence`, where there is
one."""
THREADS = 8
"""Images that are asked after side by side."""


def px_of(row: dict[str, float]) -> float:
    """Pixels of a class, in planes or volumes."""
    return next(value for key, value in row.items() if key.endswith("_px"))


def totals_of(images: Sequence[Totals]) -> Totals:
    """Totals of several images, by class; of confidence the mean over pixels."""
    found: Totals = {}
    for totals in images:
        for name, row in totals.items():
            total = found.setdefault(name, {})
            px = px_of(row)
            for key, value in row.items():
                total[key] = total.get(key, 0) + value * (px if key == "confidence" else 1)
            if "confidence" in row:
                total["sure_px"] = total.get("sure_px", 0) + px
    for total in found.values():
        if sure_px := total.pop("sure_px", 0):
            total["confidence"] /= sure_px
    return found


def totals_known(ws: Workspace, mask: str, image_ids: Iterable[str], progress: Progress = SILENT) -> dict[str, Totals]:
    """By image id, what was measured of the masks of this name as they stand; the others are left out.

    One of which it cannot be read is named to `progress`: a report without it is still one.
    """

    def of(image_id: str) -> Totals | None:
        try:
            return known(ws, image_id, mask)
        except SegcoreError as error:
            progress.note(f"image {image_id}: its objects are left out of the report ({error})")
            return None

    with ThreadPoolExecutor(THREADS) as threads:
        ids = list(image_ids)
        found = zip(ids, threads.map(of, ids), strict=True)
        return {image_id: totals for image_id, totals in found if totals is not None}
