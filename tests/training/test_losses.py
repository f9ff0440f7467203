"""Losses: the formula, worked out by hand, and ignored pixels that change nothing, not even the last bit."""

import pytest
import torch
from monai.losses.dice import DiceLoss

from segcore.sampling import IGNORED
from segcore.training.losses import segmentation_loss


def some(seed: int = 0, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((2, k, 6, 5), generator=generator)
    return logits, torch.randint(0, k, (2, 6, 5), generator=generator)


def by_hand(logits: torch.Tensor, classes: torch.Tensor) -> float:
    """CE + 1 - mean Dice over the list of pixels that count, with MONAI's smoothing of 1e-5."""
    known = classes != IGNORED
    probs = torch.softmax(logits.double().movedim(1, -1)[known], dim=-1)
    truth = torch.nn.functional.one_hot(classes[known], logits.shape[1]).double()
    ce = -(probs.log() * truth).sum() / len(truth)
    dice = (2 * (probs * truth).sum(0) + 1e-5) / (probs.sum(0) + truth.sum(0) + 1e-5)
    return float(ce + 1 - dice.mean())


def test_dice_term_is_monais() -> None:
    logits, classes = some()
    classes[:, 0] = 1
    classes[classes == 2] = 0  # a class that occurs nowhere
    expected = DiceLoss(softmax=True, to_onehot_y=True, batch=True)(logits, classes[:, None])
    torch.testing.assert_close(segmentation_loss(logits, classes, 0.0, 1.0), expected)


@pytest.mark.parametrize("share_ignored", [0.0, 0.4])
def test_loss_is_the_formula_over_the_pixels_that_count(share_ignored: float) -> None:
    logits, classes = some()
    classes[torch.rand(classes.shape, generator=torch.Generator().manual_seed(9)) < share_ignored] = IGNORED
    assert float(segmentation_loss(logits, classes)) == pytest.approx(by_hand(logits, classes), abs=1e-6)


def test_ignored_pixels_change_neither_loss_nor_gradient() -> None:
    logits, classes = some()
    classes[:, 2:4] = IGNORED
    other = logits.clone()
    other[:, :, 2:4] = torch.randn(2, 3, 2, 5) * 50
    results = []
    for values in (logits, other):
        values.requires_grad_()
        loss = segmentation_loss(values, classes)
        loss.backward()
        results.append((loss.detach(), values.grad))
    (first, first_grad), (second, second_grad) = results
    assert torch.equal(first, second)
    assert torch.equal(first_grad, second_grad)
    assert not first_grad[:, :, 2:4].any()
    assert first_grad[:, :, :2].abs().min() > 0


def test_loss_of_nothing_but_ignored_pixels_is_zero_with_zero_gradient() -> None:
    logits, classes = some()
    logits.requires_grad_()
    loss = segmentation_loss(logits, torch.full_like(classes, IGNORED))
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


def test_weights_choose_the_terms() -> None:
    logits, classes = some()
    ce = torch.nn.functional.cross_entropy(logits, classes)
    torch.testing.assert_close(segmentation_loss(logits, classes, 1.0, 0.0), ce)
    both = segmentation_loss(logits, classes)
    torch.testing.assert_close(segmentation_loss(logits, classes, 0.0, 1.0), both - ce)
    torch.testing.assert_close(segmentation_loss(logits, classes, 2.0, 0.5), 2 * ce + 0.5 * (both - ce))
