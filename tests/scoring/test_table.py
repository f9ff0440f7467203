"""The table of images: what it holds, and that scores made of it are those of the images themselves."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from segcore.classes import ClassInfo
from segcore.config import ScoreConfig
from segcore.errors import StoreError
from segcore.results import ItemResult
from segcore.scoring.boundary import Ruler
from segcore.scoring.counts import Counts
from segcore.scoring.document import document
from segcore.scoring.instances import InstanceCounts
from segcore.scoring.summary import BoundaryScores, ImageScore
from segcore.scoring.table import from_parquet, scores_of_images, to_parquet

CLASSES = tuple(
    ClassInfo(id=id_, name=name, color=(id_, 0, 0)) for id_, name in ((0, "background"), (3, "=a<b>"), (7, "c"))
)
CONFIG = ScoreConfig(workspace="w", model="m", resamples=50)


def made_score(number: int, has_target: bool = True) -> ImageScore:
    """An image with counts that are drawn from its number."""
    rng = np.random.default_rng(number)
    confusion = rng.integers(0, 1000, (3, 3)) if has_target else np.zeros((3, 3), np.int64)
    tp = rng.integers(1, 9, (4, 10)).astype(np.float64)
    lengths: list[dict[str, Any]] = [
        {"hd95": rng.random() * 9, "assd": rng.random(), "nsd": rng.random(), "boundary_iou": rng.random()}
        | {"target_px": 5, "mask_px": 6, "capped_px": 1}
        for _ in CLASSES
    ]
    return ImageScore(
        image_id=f"i{number:05}",
        split=("val", None)[number % 2],
        classes=CLASSES,
        has_target=has_target,
        counts=Counts(confusion, confusion.sum(axis=1) + 1, confusion.sum(axis=0) + 2, 3, 4, 5),
        worst_tiles=({"start": [0, 512], "shape": [512, 512], "wrong_share": 0.5, "counted_px": 9},),
        areas={info.name: {"px": 7, "um2": 1.75} for info in CLASSES},
        reused=True,
        level=1,
        group=f"g{number // 2}",
        boundary=BoundaryScores(Ruler((0.5, 0.5), "um", 1.0, 32.0), tuple(lengths)) if has_target else None,
        instances=InstanceCounts(tp, tp + 1, tp + 2, *(tp[:, :1] * n for n in (0.6, 30, 50))) if has_target else None,
        source=f"/in/{number}.tif",
        image_digest=f"d{number}",
        mask_digest="m",
    )


def _written(images: list[ImageScore], items: tuple[ItemResult, ...] = ()) -> bytes:
    settings = document("m", images, CONFIG)["settings"]
    return to_parquet({"run": "r", "mask": "m", "settings": settings}, images, items)


@pytest.mark.parametrize("rows_at_once", [2, 256])
def test_scores_of_a_table_are_those_of_its_images(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segcore.scoring.table.ROWS_AT_ONCE", rows_at_once)
    images = [made_score(number) for number in range(5)] + [made_score(5, has_target=False)]
    found = from_parquet(_written(images), "here")
    assert document("m", found.images, CONFIG) == document("m", images, CONFIG)
    assert (found.head["run"], found.classes) == ("r", CLASSES)
    assert [image.source for image in found.images] == [image.source for image in images]
    scores = scores_of_images(_written(images), "here", "miou")
    assert scores == {image.image_id: document("m", [image], CONFIG)["overall"]["miou"] for image in images[:5]}


def test_table_says_to_others_what_they_want() -> None:
    images = [made_score(0), made_score(1, has_target=False)]
    items = (ItemResult(state="failed", image="x", error="no mask"), ItemResult(state="done", image="i00000"))
    table = pq.read_table(io.BytesIO(_written(images, items)))
    rows = table.to_pylist()
    assert [(row["image"], row["state"], row["error"]) for row in rows] == [
        ("i00000", "done", None),
        ("i00001", "skipped", None),
        ("x", "failed", "no mask"),
    ]
    confusion = images[0].counts.confusion
    assert rows[0]["pixel_accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
    assert rows[1]["miou"] is None
    iou = confusion[1, 1] / (confusion[1].sum() + confusion[:, 1].sum() - confusion[1, 1])
    assert rows[0]["classes"][1]["name"] == "=a<b>"
    assert rows[0]["classes"][1]["iou"] == pytest.approx(iou)
    assert rows[0]["confusion"] == confusion.ravel().tolist()


def test_table_of_nothing_but_failures() -> None:
    found = from_parquet(_written([], (ItemResult(state="failed", source="/in/x", error="broken"),)), "here")
    assert (found.images, found.classes) == ((), ())


def test_what_is_no_table_is_refused_by_name() -> None:
    data = _written([replace(made_score(0), boundary=None, instances=None)])
    for damaged in (b"", b"PAR1", data[:-9], data[:40] + bytes(40) + data[80:]):
        with pytest.raises(StoreError, match=r"^reports/r/images\.parquet: expected a table"):
            from_parquet(damaged, "reports/r/images.parquet")
