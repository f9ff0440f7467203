"""Pairs of images, and the differences of their scores, against sums made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from segcore.scoring.boundary import Ruler
from segcore.scoring.document import Against, comparison, document
from segcore.scoring.pairs import compared, differences, has_same_rows, matched, pairs
from segcore.scoring.summary import ImageScore
from tests.scoring.test_table import CLASSES, CONFIG, made_score


def _other(number: int, shift: int = 1) -> ImageScore:
    """The same image under another mask: columns of the confusion turned, rows (the target) as they were."""
    one = made_score(number)
    confusion = np.roll(one.counts.confusion, shift, axis=1)
    return replace(one, counts=replace(one.counts, confusion=confusion), mask_digest="other")


def test_images_pair_by_id_as_long_as_content_and_target_are_the_same() -> None:
    ours = [made_score(number) for number in range(4)]
    changed = replace(_other(1), image_digest="new")
    counts = _other(2).counts
    retargeted = replace(_other(2), counts=replace(counts, target_px=counts.target_px + np.array([1, 0, -1])))
    unlabelled = replace(_other(3), has_target=False)
    found = pairs(ours, [unlabelled, retargeted, changed, replace(_other(0), image_digest=None), made_score(9)])
    assert [(one.image_id, other.mask_digest) for one, other in found] == [("i00000", "other")]


def test_images_of_another_workspace_pair_by_content() -> None:
    theirs = [replace(_other(number), image_id=f"other-{number}") for number in range(3)]
    found = pairs([made_score(1), made_score(7)], theirs)
    assert [(one.image_id, other.image_id) for one, other in found] == [("i00001", "other-1")]
    assert compared(found, "x", CONFIG)["num_images"] == 1


def test_what_only_one_measured_is_left_out_of_both() -> None:
    coarser = replace(_other(0), instances=None)
    assert coarser.boundary is not None
    coarser = replace(coarser, boundary=replace(coarser.boundary, ruler=Ruler((0.5, 0.5), "um", 2.0, 32.0)))
    ((one, other),) = pairs([made_score(0)], [coarser])
    assert (one.boundary, one.instances, other.boundary, other.instances) == (None,) * 4
    assert "instances" not in compared([(one, other)], "x", CONFIG)


def test_against_objects_count_where_both_masks_have_them() -> None:
    ours = [made_score(0), made_score(2)]
    theirs = [_other(0), replace(_other(2), instances=None)]
    found = comparison(CLASSES, ours, Against("x", theirs), CONFIG)["instances"]["pq"]
    first = document("m", ours[:1], CONFIG)["instances"]["pq"]
    assert first != document("m", ours, CONFIG)["instances"]["pq"]
    assert (found["value"], found["other"]) == (first, first), "the other mask has the same objects in image 0"


def test_images_that_both_have_are_matched_whatever_became_of_them() -> None:
    ours = [made_score(0), made_score(1)]
    moved = [
        replace(_other(n), image_id=f"x{n}", counts=replace(_other(n).counts, target_px=np.arange(3))) for n in (0, 1)
    ]
    assert pairs(ours, moved) == []
    assert [(one.image_id, other.image_id) for one, other in matched(ours, moved)] == [
        ("i00000", "x0"),
        ("i00001", "x1"),
    ]
    other_content = replace(moved[0], image_id="i00000", image_digest="new")
    assert [one.image_id for one, _ in matched(ours, [other_content, moved[1]])] == ["i00000"]


def test_differences_are_those_of_each_image_and_the_comparison_that_of_the_sums() -> None:
    paired = pairs([made_score(0), made_score(2)], [_other(0), _other(2)])  # of two groups
    rows = differences(paired, CONFIG)
    for row, pair in zip(rows, paired, strict=True):
        values = []
        for image in pair:
            confusion = image.counts.confusion
            values.append(np.trace(confusion) / confusion.sum())
        found = row["overall"]["pixel_accuracy"]
        assert found == pytest.approx({"value": values[0], "other": values[1], "difference": values[0] - values[1]})
    whole = sum(pair[0].counts.confusion for pair in paired), sum(pair[1].counts.confusion for pair in paired)
    iou = [c[1, 1] / (c[1].sum() + c[:, 1].sum() - c[1, 1]) for c in whole]
    found = compared(paired, "x", CONFIG)["per_class"]["=a<b>"]["iou"]
    assert (found["value"], found["other"]) == pytest.approx(tuple(iou))
    low, high = found["interval"]
    of_images = [row["per_class"]["=a<b>"]["iou"]["difference"] for row in rows]
    assert min(of_images) - 1e-12 <= low <= high <= max(of_images) + 1e-12
    assert differences([], CONFIG) == []


def test_rows_are_the_same_only_in_the_same_order() -> None:
    recolored = tuple(info.model_copy(update={"color": (9, 9, 9)}) for info in CLASSES)
    assert has_same_rows(CLASSES, recolored)
    assert not has_same_rows(CLASSES, CLASSES[::-1])
