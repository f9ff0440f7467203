"""Table: what was counted in each image <-> *images.parquet*, one row an image.

It holds the counts themselves beside the scores, so that the scores of any of its images can be made again, and two
tables be compared, without reading a pixel. Columns that a person wants stand first and are plain numbers; `classes`
is a list of one record for each class, `confusion` its matrix row by row (rows target, columns mask). A score that is
not defined is null. The schema's metadata has the key `segcore`: JSON of the run, the mask and the class table.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from segcore.classes import ClassInfo
from segcore.errors import StoreError, utf8
from segcore.results import ItemResult
from segcore.scoring.boundary import BOUNDARY_METRICS, Ruler
from segcore.scoring.counts import METRICS, Counts, foreground_rows, overall_scores, plain
from segcore.scoring.instances import InstanceCounts
from segcore.scoring.ratios import ClassSums, class_ratios
from segcore.scoring.summary import BoundaryScores, ImageScore, empty_score

FORMAT = 1
METADATA = b"segcore"
OVERALL = tuple(overall_scores(np.zeros((1, 1), np.int64), [0]))
"""Names of the scores over all classes."""
EXCLUDED = ("ignored_px", "unpredicted_px", "invalid_px")
ROWS_AT_ONCE = 256
"""Rows that are lists and dicts at one time: as these they take far more memory than in the table."""
UNNAMED = re.compile("[0-9a-f]{16}")
"""Image ids of `ingest --ids hash`, which keeps the names of sources out of what leaves the workspace."""


def _columns(kinds: Mapping[str, Any]) -> list[pa.Field]:
    return [pa.field(name, kind) for name, kind in kinds.items()]


_TEXT, _COUNT, _FLOAT = pa.string(), pa.int64(), pa.float64()
_BOUNDARY = dict.fromkeys(BOUNDARY_METRICS, _FLOAT) | dict.fromkeys(("target_px", "mask_px", "capped_px"), _COUNT)
_CLASS = {
    "id": _COUNT,
    "name": _TEXT,
    **dict.fromkeys(METRICS, _FLOAT),
    "target_px": _COUNT,
    "mask_px": _COUNT,
    "area": pa.map_(_TEXT, _FLOAT),
    "boundary": pa.struct(_columns(_BOUNDARY)),
}
_RULER = {"sides": pa.list_(_FLOAT), "unit": _TEXT, "tolerance": _FLOAT, "cap": _FLOAT}
SCHEMA = pa.schema(
    _columns(
        {
            **dict.fromkeys(("image", "source", "split", "group", "state", "error"), _TEXT),
            **dict.fromkeys(OVERALL, _FLOAT),
            **dict.fromkeys(("counted_px", *EXCLUDED, "level"), _COUNT),
            **dict.fromkeys(("image_digest", "mask_digest"), _TEXT),
            "classes": pa.list_(pa.struct(_columns(_CLASS))),
            "confusion": pa.list_(_COUNT),
            "ruler": pa.struct(_columns(_RULER)),
            "instances": pa.struct(_columns(dict.fromkeys(InstanceCounts.__slots__, pa.list_(pa.list_(_FLOAT))))),
            "worst_tiles": _TEXT,
        }
    )
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it is read back."""

    head: dict[str, Any]
    """`run`, `created`, `mask`, `settings` (those of the document of scores)."""
    classes: tuple[ClassInfo, ...]
    images: tuple[ImageScore, ...]
    """Without those that failed."""


def to_parquet(head: Mapping[str, Any], images: Sequence[ImageScore], items: Sequence[ItemResult]) -> bytes:
    """A table of the images that were scored, and of those that failed.

    Args:
        head: JSON that says what the table is of, with `settings` of the document of scores.
        images: what was counted.
        items: what became of each image; those that failed become rows with their error.
    """
    classes = images[0].classes if images else ()
    empty = empty_score(head["settings"]["both_empty"])
    failed = [
        {"image": _text(item.image or item.source), "state": "failed", "error": _text(item.error)}
        for item in items
        if item.state == "failed"
    ]
    told = {"format": FORMAT, **head, "classes": [info.model_dump(mode="json") for info in classes]}
    schema = SCHEMA.with_metadata({METADATA: json.dumps(told).encode()})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for first in range(0, len(images), ROWS_AT_ONCE):
            rows = [_row(result, empty) for result in images[first : first + ROWS_AT_ONCE]]
            writer.write_table(pa.Table.from_pylist(rows, schema))
        if failed:
            writer.write_table(pa.Table.from_pylist(failed, schema))
    return bytes(sink.getvalue())


def scores_of_images(data: bytes, where: str, name: str) -> dict[str, float]:
    """One score over all classes of each image that has it, by image id; the rest of the table is not decoded.

    Raises:
        StoreError: if it is no such table, named as `where`.
    """
    with _expected(where):
        columns = pq.read_table(pa.BufferReader(data), columns=["image", name]).to_pydict()
        rows = zip(columns["image"], columns[name], strict=True)
        return {image_id: score for image_id, score in rows if score is not None}


def from_parquet(data: bytes, where: str) -> Table:
    """The table that `to_parquet` wrote.

    Raises:
        StoreError: if it is no such table, named as `where`.
    """
    with _expected(where):
        table = pq.read_table(pa.BufferReader(data))
        head = json.loads(table.schema.metadata[METADATA])
        if head["format"] != FORMAT:
            raise StoreError(f"{where}: expected a table of format {FORMAT}, got {head['format']}; write it again")
        classes = tuple(ClassInfo.model_validate(value) for value in head.pop("classes"))
        rows = (row for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE) for row in batch.to_pylist())
        return Table(head, classes, tuple(_image(row, classes) for row in rows if row["state"] != "failed"))


@contextmanager
def _expected(where: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"{where}: expected a table of `segcore report`, got something else ({reason})") from error


def _row(result: ImageScore, empty: float) -> dict[str, Any]:
    counts, boundary, instances = result.counts, result.boundary, result.instances
    found = {
        "image": result.image_id,
        "source": None if UNNAMED.fullmatch(result.image_id) else _text(result.source),
        "split": result.split,
        "group": result.group,
        "state": "done" if result.has_target else "skipped",
        "counted_px": counts.counted_px,
        **{name: getattr(counts, name) for name in EXCLUDED},
        "level": result.level,
        "image_digest": result.image_digest,
        "mask_digest": result.mask_digest,
        "classes": _class_rows(result, empty),
        "confusion": counts.confusion.ravel().tolist(),
        "ruler": None if boundary is None else {name: getattr(boundary.ruler, name) for name in _RULER},
        "instances": None if instances is None else instances.to_json(),
        "worst_tiles": json.dumps(result.worst_tiles),
    }
    if result.has_target:
        rows = foreground_rows(result.classes)
        found |= overall_scores(counts.confusion, rows, None if np.isnan(empty) else empty)
    return found


def _class_rows(result: ImageScore, empty: float) -> list[dict[str, Any]]:
    sums = ClassSums.of(result.counts.confusion)
    scores = class_ratios(sums, sums.target.sum(keepdims=True), empty)
    return [
        {
            "id": info.id,
            "name": info.name,
            **{name: plain(values[row]) for name, values in scores.items()},
            "target_px": int(result.counts.target_px[row]),
            "mask_px": int(result.counts.mask_px[row]),
            "area": list(result.areas[info.name].items()),
            "boundary": None if result.boundary is None else result.boundary.classes[row],
        }
        for row, info in enumerate(result.classes)
    ]


def _image(row: Mapping[str, Any], classes: tuple[ClassInfo, ...]) -> ImageScore:
    parts, ruler, instances = row["classes"], row["ruler"], row["instances"]
    counts = {name: [part[name] for part in parts] for name in ("target_px", "mask_px")}
    confusion = np.reshape(row["confusion"], (len(classes), len(classes))).tolist()
    boundary = None
    if ruler is not None:
        measured = Ruler(tuple(ruler["sides"]), ruler["unit"], ruler["tolerance"], ruler["cap"])
        boundary = BoundaryScores(measured, tuple(part["boundary"] for part in parts))
    return ImageScore(
        image_id=row["image"],
        split=row["split"],
        classes=classes,
        has_target=row["state"] == "done",
        counts=Counts.from_json({"confusion": confusion, **counts, **{name: row[name] for name in EXCLUDED}}),
        worst_tiles=tuple(json.loads(row["worst_tiles"])),
        areas={part["name"]: _area(part["area"]) for part in parts},
        reused=True,
        level=row["level"],
        group=row["group"],
        boundary=boundary,
        instances=None if instances is None else InstanceCounts.from_json(instances),
        source=row["source"] or "",
        image_digest=row["image_digest"],
        mask_digest=row["mask_digest"],
    )


def _text(text: str | None) -> str | None:
    return None if text is None else utf8(text).decode()


def _area(pairs: Sequence[tuple[str, float]]) -> dict[str, float]:
    return {unit: int(value) if unit == "px" else value for unit, value in pairs}
