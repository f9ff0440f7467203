"""Losses: the formula, worked out by hand, and ignored pixels that change nothing, not even the last bit."""

import itertools
from typing import Any, get_args

import numpy as np
import pytest
import torch
from monai.losses.dice import DiceLoss

from segcore.config.train import Loss
from segcore.sampling import IGNORED
from segcore.training.losses import SegmentationLoss

BOTH = SegmentationLoss({"ce": 1.0, "dice": 1.0})
TERMS: tuple[Loss, ...] = get_args(Loss)


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
    torch.testing.assert_close(SegmentationLoss({"dice": 1.0})(logits, classes), expected)


@pytest.mark.parametrize("share_ignored", [0.0, 0.4])
def test_loss_is_the_formula_over_the_pixels_that_count(share_ignored: float) -> None:
    logits, classes = some()
    classes[torch.rand(classes.shape, generator=torch.Generator().manual_seed(9)) < share_ignored] = IGNORED
    assert float(BOTH(logits, classes)) == pytest.approx(by_hand(logits, classes), abs=1e-6)


@pytest.mark.parametrize("term", TERMS)
def test_ignored_pixels_change_neither_loss_nor_gradient(term: Loss) -> None:
    weights = torch.tensor([0.5, 2.0, 0.5])
    loss_of = SegmentationLoss({term: 1.0}, weights, label_smoothing=0.1)
    logits, classes = some()
    classes[:, 2:4] = IGNORED
    other = logits.clone()
    other[:, :, 2:4] = torch.randn(2, 3, 2, 5) * 50
    results = []
    for values in (logits, other):
        values.requires_grad_()
        loss = loss_of(values, classes)
        loss.backward()
        results.append((loss.detach(), values.grad))
    (first, first_grad), (second, second_grad) = results
    assert torch.equal(first, second)
    assert torch.equal(first_grad, second_grad)
    assert not first_grad[:, :, 2:4].any()
    assert first_grad[:, :, :2].any()


@pytest.mark.parametrize("term", TERMS)
def test_loss_of_nothing_but_ignored_pixels_is_zero_with_zero_gradient(term: Loss) -> None:
    logits, classes = some()
    logits.requires_grad_()
    loss = SegmentationLoss({term: 1.0})(logits, torch.full_like(classes, IGNORED))
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


def test_weights_choose_the_terms() -> None:
    logits, classes = some()
    ce = torch.nn.functional.cross_entropy(logits, classes)
    torch.testing.assert_close(SegmentationLoss({"ce": 1.0, "dice": 0.0})(logits, classes), ce)
    both = BOTH(logits, classes)
    torch.testing.assert_close(SegmentationLoss({"dice": 1.0})(logits, classes), both - ce)
    torch.testing.assert_close(SegmentationLoss({"ce": 2.0, "dice": 0.5})(logits, classes), 2 * ce + 0.5 * (both - ce))


def masked(logits: torch.Tensor, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the pixels that count, as a list: logits and probabilities (n, K), one-hot truth (n, K); float64."""
    known = classes != IGNORED
    own = logits.double().movedim(1, -1)[known]
    return own, own.softmax(-1), torch.nn.functional.one_hot(classes[known], logits.shape[1]).double()


def loss(terms: dict[Loss, float], logits: torch.Tensor, classes: torch.Tensor, **how: Any) -> float:
    return float(SegmentationLoss(terms, **how)(logits, classes))


def test_cross_entropy_with_weights_and_smoothing_is_torchs() -> None:
    logits, classes = some()
    classes[:, 1] = IGNORED
    weights = torch.tensor([0.2, 1.0, 3.0])
    expected = torch.nn.functional.cross_entropy(logits, classes, weights, ignore_index=IGNORED, label_smoothing=0.2)
    found = loss({"ce": 1.0}, logits, classes, class_weights=weights, label_smoothing=0.2)
    assert found == pytest.approx(float(expected), rel=1e-6)


def test_binary_cross_entropy_is_one_class_against_all_others() -> None:
    logits, classes = some()
    classes[:, 1] = IGNORED
    own, _, truth = masked(logits, classes)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(own, truth)
    assert loss({"bce": 1.0}, logits, classes) == pytest.approx(float(expected), rel=1e-6)


def test_focal_is_the_formula() -> None:
    logits, classes = some()
    classes[:, 1] = IGNORED
    _, probs, truth = masked(logits, classes)
    right = (probs * truth).sum(-1)
    expected = -((1 - right) ** 2 * right.log()).mean()
    assert loss({"focal": 1.0}, logits, classes) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("term", "fp", "fn"), [("dice", 0.5, 0.5), ("jaccard", 1.0, 1.0), ("tversky", 0.3, 0.7)])
def test_terms_per_region_are_the_formula_by_class_weight(term: Loss, fp: float, fn: float) -> None:
    logits, classes = some()
    classes[:, 1] = IGNORED
    _, probs, truth = masked(logits, classes)
    hit, false, missed = (probs * truth).sum(0), (probs * (1 - truth)).sum(0), ((1 - probs) * truth).sum(0)
    each = 1 - hit / (hit + fp * false + fn * missed)
    weights = torch.tensor([1.0, 2.0, 5.0])
    expected = float((each * weights).sum() / weights.sum())
    assert loss({term: 1.0}, logits, classes, class_weights=weights) == pytest.approx(expected, abs=1e-4)


def test_lovasz_of_hard_answers_is_one_minus_the_iou() -> None:
    _, classes = some(3)
    _, said = some(4)
    said[0, 0, 0] = classes[0, 0, 0] = 1
    logits = 200.0 * torch.nn.functional.one_hot(said, 3).movedim(-1, 1).float()
    classes[:, 1] = IGNORED
    known = classes != IGNORED
    ious = [((said == k) & (classes == k))[known].sum() / ((said == k) | (classes == k))[known].sum() for k in range(3)]
    assert loss({"lovasz": 1.0}, logits, classes) == pytest.approx(1 - float(np.mean(ious)), abs=1e-6)


def test_lovasz_is_the_convex_extension_between_hard_answers() -> None:
    """By brute force: the level sets of the errors, each scored by the Jaccard loss, weighted by their height."""
    logits, classes = some(5, k=2)
    classes[:, 1] = IGNORED
    _, probs, truth = masked(logits, classes)
    expected = []
    for k in range(2):
        inside = truth[:, k].bool().numpy()
        errors = (truth[:, k] - probs[:, k]).abs().numpy()
        levels = np.sort(np.unique(np.r_[0.0, errors]))
        value = 0.0
        for low, high in itertools.pairwise(levels):
            wrong = errors >= high
            intersection, union = (inside & ~wrong).sum(), (inside | wrong).sum()
            value += (high - low) * (1 - intersection / union)
        expected.append(value)
    assert loss({"lovasz": 1.0}, logits, classes) == pytest.approx(np.mean(expected), abs=1e-5)


def test_boundary_is_probability_by_signed_distance() -> None:
    classes = torch.zeros((1, 8, 8), dtype=torch.int64)
    classes[0, 2:5, 3:6] = 1
    inside = classes[0] == 1
    distances = np.zeros((8, 8))
    for y, x in np.ndindex(8, 8):
        other = np.argwhere(inside.numpy() != bool(inside[y, x]))
        nearest = np.sqrt(((other - [y, x]) ** 2).sum(1)).min()
        distances[y, x] = -nearest if inside[y, x] else nearest
    logits = torch.randn((1, 2, 8, 8), generator=torch.Generator().manual_seed(0))
    probs = logits.double().softmax(1)[0]
    expected = (probs[1].numpy() * distances - probs[0].numpy() * distances).sum() / 8 / 64
    assert loss({"boundary": 1.0}, logits, classes) == pytest.approx(float(expected), abs=1e-6)
    assert loss({"boundary": 1.0}, logits, torch.zeros_like(classes)) == 0.0, "no edge, no distance"


@pytest.mark.parametrize("term", TERMS)
def test_every_term_falls_when_a_model_learns(term: Loss) -> None:
    classes = torch.zeros((1, 16, 16), dtype=torch.int64)
    classes[0, 4:11, 5:12] = 1
    logits = torch.zeros((1, 2, 16, 16), requires_grad=True)
    optimizer, loss_of = torch.optim.Adam([logits], lr=0.2), SegmentationLoss({term: 1.0})
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss_of(logits, classes)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0] - 0.05
    assert (logits.argmax(1) == classes).float().mean() > 0.99


def test_of_a_mixture_both_truths_count_by_their_shares() -> None:
    logits, classes = some()
    other, share = some(7)[1], torch.tensor([0.7, 1.0])
    other[:, 2] = IGNORED  # counts in the mixture alone
    each = [torch.nn.functional.cross_entropy(logits, t.clamp_min(0), reduction="none") for t in (classes, other)]
    blended = share[:, None, None] * each[0] + (1 - share[:, None, None]) * each[1]
    known = torch.ones_like(classes, dtype=torch.bool)
    known[0, 2] = False
    found = SegmentationLoss({"ce": 1.0})(logits, classes, other, share)
    torch.testing.assert_close(found, blended[known].mean())
    probs = logits.softmax(1).movedim(1, -1)[known].double()
    one_hot = [torch.nn.functional.one_hot(t.clamp_min(0), 3).double() for t in (classes, other)]
    truth = (share[:, None, None, None] * one_hot[0] + (1 - share[:, None, None, None]) * one_hot[1])[known]
    dice = (2 * (probs * truth).sum(0) + 1e-5) / (probs.sum(0) + truth.sum(0) + 1e-5)
    assert float(SegmentationLoss({"dice": 1.0})(logits, classes, other, share)) == pytest.approx(
        float(1 - dice.mean()), abs=1e-3
    )


def test_a_mixture_of_one_truth_is_no_mixture() -> None:
    logits, classes = some()
    for term in TERMS:
        loss_of = SegmentationLoss({term: 1.0})
        mixture = loss_of(logits, classes, classes.roll(1, 2), torch.ones(2))
        torch.testing.assert_close(mixture, loss_of(logits, classes))
