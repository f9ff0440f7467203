"""Found: what objects that overlap become, pixel by pixel, against the id maps that they were cut from."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from segcore.models.found import LEAST, Found, logits_of, touching
from tests.instances.scenes import discs
from tests.instances.seen import found_in


def decided(found: Found, sides: tuple[int, int], num_classes: int = 2) -> tuple[npt.NDArray[np.int64], torch.Tensor]:
    """Classes, and border and depth as probabilities."""
    logits = logits_of(found, sides, num_classes, background=0)
    assert logits.shape == (num_classes + 2, *sides)
    assert torch.isfinite(logits).all()
    return logits[:num_classes].argmax(dim=0).numpy(), logits[num_classes:].sigmoid()


def box_of(*ends: float, row: int = 1, values: torch.Tensor | None = None) -> Found:
    mask = torch.ones(4, 4) if values is None else values
    return Found(torch.tensor([ends]), torch.tensor([row]), mask[None])


def together(*found: Found) -> Found:
    return Found(*(torch.cat(each) for each in zip(*found, strict=True)))


def test_objects_keep_their_pixels_and_are_deep_but_where_they_touch() -> None:
    ids = discs((90, 110), 40)
    classes, (border, depth) = decided(
        found_in(torch.from_numpy(ids), rows=lambda number: 1 + number % 2), (90, 110), 3
    )
    np.testing.assert_array_equal(classes, np.where(ids > 0, 1 + ids % 2, 0))
    np.testing.assert_array_equal(depth > 0.99, ids > 0)
    beside = np.zeros(ids.shape, np.bool_)
    wide = np.pad(ids, 1)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        other = wide[dy : dy + 90, dx : dx + 110]
        beside |= (other != ids) & (other > 0) & (ids > 0)
    assert beside.sum() > 50
    np.testing.assert_array_equal(border > 0.99, beside)
    np.testing.assert_array_equal(touching(torch.from_numpy(ids)), beside)
    assert (((border < 0.01) | (border > 0.99)) & ((depth < 0.01) | (depth > 0.99))).all()


def test_the_surest_object_takes_its_pixels_first_and_what_is_left_of_another_must_be_half() -> None:
    first, half, less = box_of(2, 2, 10, 10), box_of(6, 2, 14, 10, row=2), box_of(5, 12, 13, 20, row=2)
    classes, _ = decided(together(first, half), (24, 24), 3)
    expected = np.zeros((24, 24), np.int64)
    expected[2:10, 10:14], expected[2:10, 2:10] = 2, 1
    np.testing.assert_array_equal(classes, expected)
    classes, (_, depth) = decided(together(first, box_of(2, 12, 10, 20), less), (24, 24), 3)
    expected = np.zeros((24, 24), np.int64)
    expected[2:10, 2:10] = expected[12:20, 2:10] = 1
    np.testing.assert_array_equal(classes, expected)
    np.testing.assert_array_equal(depth > 0.5, expected > 0)


@pytest.mark.parametrize(("start", "size"), [((3, 5), (8, 8)), ((-6, 20), (16, 12))])
def test_a_mask_is_enlarged_to_its_box_and_a_class_is_as_sure_as_it_is_there(
    start: tuple[int, int], size: tuple[int, int]
) -> None:
    values = torch.rand(4, 4, generator=torch.Generator().manual_seed(3)) * 0.9 + 0.05
    (top, left), (height, width) = start, size
    found = box_of(left, top, left + width, top + height, values=values)
    enlarged = F.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    expected = torch.full((24, 28), LEAST)
    inside = (slice(max(0, top), top + height), slice(left, min(28, left + width)))
    expected[inside] = enlarged[max(0, -top) :, : 28 - left]
    probability = logits_of(found, (24, 28), 2, background=0)[:2].softmax(dim=0)[1]
    torch.testing.assert_close(probability, expected, rtol=1e-4, atol=1e-5)


def test_a_box_that_is_moved_by_pixels_has_the_same_pixels() -> None:
    values = torch.rand(7, 7, generator=torch.Generator().manual_seed(1))
    one = logits_of(box_of(3.4, 5.7, 20.1, 17.2, values=values), (40, 40), 2, 0)
    other = logits_of(box_of(11.4, 9.7, 28.1, 21.2, values=values), (40, 40), 2, 0)
    torch.testing.assert_close(other[:, 4:, 8:], one[:, :-4, :-8], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("background", [0, 2])
def test_where_nothing_is_found_all_is_background(background: int) -> None:
    none = Found(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 28, 28))
    logits = logits_of(none, (8, 12), 3, background)
    assert (logits[:3].argmax(dim=0) == background).all()
    assert (logits[3:] < -10).all()
    outside = box_of(30, 30, 40, 40)
    torch.testing.assert_close(logits_of(outside, (8, 12), 3, background), logits)
