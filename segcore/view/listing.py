"""Listing: the images of a workspace, page by page; workspace -> *rows*. Fine for ten thousand images.

Their ids cost one request. What else is known of them is read for the rows of a page when it is asked for, and for
all of them by a thread behind, so that they can be filtered.
"""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from segcore.errors import SegcoreError, StoreError, worded
from segcore.report.rows import HEADLINE
from segcore.reports import Head, heads, table_key
from segcore.scoring.table import scores_of_images
from segcore.store import Image, Workspace
from segcore.view.shelf import version_of

PAGE_ROWS = 48
THREADS = 8
IDS_FRESH_S, SCORES_FRESH_S = 3.0, 30.0
MAX_REPORTS = 16
"""Scores come from so many reports, the newest."""


@dataclass(frozen=True)
class Row:
    """What a list says of an image."""

    id: str
    state: str
    """complete, incomplete or damaged"""
    note: str = ""
    """Why it cannot be shown."""
    version: str = ""
    split: str = ""
    group: str = ""
    size: str = ""
    """`46000 × 32914 px, 3 bands`"""


@dataclass(frozen=True)
class Query:
    """Which rows, and in which order."""

    text: str = ""
    """Words that ids or groups hold, in any case."""
    state: str = ""
    split: str = ""
    """`none` for images without one."""
    order: str = "name"
    """name, or worst: the lowest score first, those without one last."""
    page: int = 0


class Listing:
    """Safe to use from many threads."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._ids: list[str] = []
        self._rows: dict[str, Row] = {}
        self._scores: dict[str, tuple[float, str]] = {}
        self._read: dict[tuple[str, str], dict[str, float]] = {}
        """By run and when it was made: a run may be written again."""
        self._ids_s = self._scores_s = -1e9
        self._lock = threading.Lock()
        self._scanner: threading.Thread | None = None

    def page(self, query: Query) -> dict[str, Any]:
        """The rows of a page as JSON, how many there are on all of them, and of how many facts are known."""
        ids, scores = self._all_ids(), self._all_scores()
        self._scan_behind()
        chosen = [image_id for image_id in ids if self._fits(image_id, query)]
        if query.order == "worst":
            chosen.sort(key=lambda image_id: (image_id not in scores, scores.get(image_id, (0.0,))[0]))
        start = query.page * PAGE_ROWS
        shown = chosen[start : start + PAGE_ROWS]
        with ThreadPoolExecutor(THREADS) as threads:
            rows = list(threads.map(self._looked_at, shown))
        return {
            "workspace": self._workspace.uri,
            "rows": [asdict(row) | self._scored(row.id) for row in rows],
            "num_found": len(chosen),
            "num_images": len(ids),
            "num_known": len(self._rows),
            "page": query.page,
            "num_pages": -(-len(chosen) // PAGE_ROWS),
            "splits": sorted({row.split or "none" for row in list(self._rows.values())}),
            "has_scores": bool(scores),
        }

    def neighbours(self, image_id: str) -> dict[str, str | None]:
        """The images before and after one, by name."""
        ids = self._all_ids()
        at = ids.index(image_id) if image_id in ids else -1
        following = ids[at + 1] if at + 1 < len(ids) else None
        return {"before": ids[at - 1] if at > 0 else None, "after": following}

    def _scored(self, image_id: str) -> dict[str, Any]:
        score, mask = self._scores.get(image_id, (None, ""))
        return {"score": score, "scored_mask": mask}

    def score(self, image_id: str) -> tuple[float, str] | None:
        """The IoU without background of an image in the newest report that has one, and of which mask."""
        return self._all_scores().get(image_id)

    def _fits(self, image_id: str, query: Query) -> bool:
        row = self._rows.get(image_id)
        told = f"{image_id} {row.group if row else ''}".lower()
        if not all(word in told for word in query.text.lower().split()):
            return False
        if query.state and (row is None or row.state != query.state):
            return False
        return not query.split or (row is not None and (row.split or "none") == query.split)

    def _all_ids(self) -> list[str]:
        with self._lock:
            if time.monotonic() - self._ids_s > IDS_FRESH_S:
                self._ids, self._ids_s = self._workspace.begun_ids(), time.monotonic()
                for gone in self._rows.keys() - set(self._ids):
                    del self._rows[gone]
            return self._ids

    def _looked_at(self, image_id: str, with_size: bool = True) -> Row:
        row = self._rows[image_id] = row_of(self._workspace, image_id, with_size)
        return row

    def _scan_behind(self) -> None:
        """Look at the images of which nothing is known, and again at those that were not complete."""
        with self._lock:
            if self._scanner is not None and self._scanner.is_alive():
                return
            left = [i for i in self._ids if i not in self._rows or self._rows[i].state != "complete"]
            if left:
                self._scanner = threading.Thread(target=self._scan, args=(left,), name="segcore-listing", daemon=True)
                self._scanner.start()

    def _scan(self, image_ids: Iterable[str]) -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            for _ in threads.map(lambda image_id: self._looked_at(image_id, with_size=False), image_ids):
                pass

    def _all_scores(self) -> dict[str, tuple[float, str]]:
        with self._lock:
            if time.monotonic() - self._scores_s > SCORES_FRESH_S:
                self._scores, self._scores_s = self._read_scores(), time.monotonic()
            return self._scores

    def _read_scores(self) -> dict[str, tuple[float, str]]:
        """By image id, out of the newest reports; of two that have an image, the newer one's."""
        newest = heads(self._workspace)[:MAX_REPORTS]
        places = {(head.run, head.created): head for head in newest}
        self._read = {place: self._read.get(place) or image_scores(self._workspace, places[place]) for place in places}
        scores: dict[str, tuple[float, str]] = {}
        for place, head in reversed(places.items()):
            scores |= {image_id: (score, head.mask) for image_id, score in self._read[place].items()}
        return scores


def image_scores(workspace: Workspace, head: Head) -> dict[str, float]:
    """A report's score of each image, {} of one that is damaged; of its table, far smaller than report.json."""
    key = table_key(head.run)
    try:
        return scores_of_images(workspace.objects.get(key) or b"", workspace.describe(key), HEADLINE)
    except StoreError:
        return {}


def row_of(workspace: Workspace, image_id: str, with_size: bool = True) -> Row:
    """What stands in an image's attributes: one request where it is complete, and one more for its size."""
    try:
        image = workspace.complete_image(image_id)
        if image is None:
            return Row(image_id, "incomplete", "its ingest did not end: run it again")
        return Row(
            image_id,
            "complete",
            version=version_of(image),
            split=image.split or "",
            group=image.group or "",
            size=size_words(image) if with_size else "",
        )
    except (SegcoreError, KeyError, TypeError, ValueError) as error:
        return Row(image_id, "damaged", worded(error, image_id))


def size_words(image: Image) -> str:
    """How large an image is, for people; width first, as they say it."""
    sides = dict(zip(image.axes, image.shape(), strict=True))
    words = [f"{sides['x']} × {sides['y']} px"]
    for axis, one, many in (("z", "slice", "slices"), ("t", "frame", "frames"), ("c", "band", "bands")):
        if axis in sides and (axis != "c" or sides[axis] != 3):
            words.append(f"{sides[axis]} {one if sides[axis] == 1 else many}")
    return ", ".join(words)
