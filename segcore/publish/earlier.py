"""Earlier: the report that a new one is held against -> *what changed since*.

A mask of a later training has another name (its model's id ends in another digest), and is held against the one
before: what counts is the lineage, the name without the digest.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segcore.config import ScoreConfig
from segcore.errors import StoreError
from segcore.report.rows import HEADLINE
from segcore.reports import Head, heads, lineage, table_key
from segcore.scoring.pairs import both_scored, compared_by_split, differences, has_same_rows, matched, pairs
from segcore.scoring.summary import ImageScore
from segcore.scoring.table import Table, from_parquet
from segcore.store import Workspace

MOST_TRIED = 20
"""Earlier tables that are read in search of one with the same images."""


@dataclass(frozen=True, slots=True)
class Since:
    """What changed since an earlier report."""

    head: Head
    document: dict[str, Any]
    """As under `against`: of the images that both have."""
    changes: dict[str, float]
    """Image id -> difference of its IoU without background."""
    num_left_out: int
    """Images of both whose pixels or target have changed."""

    def as_json(self) -> dict[str, Any]:
        return {
            "run": self.head.run,
            "created": self.head.created,
            **self.document,
            "num_left_out": self.num_left_out,
        }


def since(workspace: Workspace, mask: str, images: Sequence[ImageScore], config: ScoreConfig) -> Since | None:
    """The images of a mask against the newest report of its lineage over some of the same images, if there is one."""
    for head, table in _candidates(workspace, mask) if images else ():
        if not has_same_rows(images[0].classes, table.classes):
            continue
        same = both_scored(pairs(images, table.images))
        if not same:
            continue
        document = compared_by_split(same, head.mask, config)
        num_both = len(both_scored(matched(images, table.images)))
        return Since(head, document, _changes(differences(same, config)), num_both - len(same))
    return None


def _changes(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found = {row["image"]: row["overall"][HEADLINE]["difference"] for row in rows}
    return {image_id: change for image_id, change in found.items() if change is not None}


def _candidates(workspace: Workspace, mask: str) -> Iterator[tuple[Head, Table]]:
    """Tables of the same lineage, the newest first; what cannot be read is passed over."""
    for head in [head for head in heads(workspace) if head.lineage == lineage(mask)][:MOST_TRIED]:
        key = table_key(head.run)
        data = workspace.objects.get(key)
        try:
            if data is not None:
                yield head, from_parquet(data, workspace.describe(key))
        except StoreError:
            continue
