"""Totals: what masks hold, by class -> *that of several images*; and what `segcore measure` found of them before."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from segcore.errors import SegcoreError
from segcore.measurements.image import known
from segcore.progress import SILENT, Progress
from segcore.store import Workspace

Totals = dict[str, dict[str, float]]
"""Class -> `objects`, which may be 0; area or volume by unit, as the columns of the table are called; `confidence`,
where there is one."""
THREADS = 8
"""Images that are asked after side by side."""


def px_of(row: Mapping[str, float]) -> float:
    """Pixels of a class, in planes and volumes."""
    return sum(value for key, value in row.items() if key.endswith("_px"))


def totals_of(images: Sequence[Totals]) -> Totals:
    """Totals of several images, by class; of confidence the mean over pixels.

    A unit that not all images with objects of a class have is left out: the sum would be that of some. Pixels stay.
    """
    names = dict.fromkeys(name for totals in images for name in totals)
    return {name: _total([totals[name] for totals in images if name in totals]) for name in names}


def _total(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """One class, of several images."""
    counted = [row for row in rows if row["objects"]] or rows
    columns = dict.fromkeys(key for row in rows for key in row if key != "confidence")
    total = {
        key: sum(row.get(key, 0) for row in rows)
        for key in columns
        if key.endswith("_px") or all(key in row for row in counted)
    }
    sure = [row for row in rows if "confidence" in row]
    if sure:
        total["confidence"] = sum(row["confidence"] * px_of(row) for row in sure) / sum(map(px_of, sure))
    return total


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
