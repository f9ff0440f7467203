"""Learner: what goes in, what the average is, and a restored one that goes on as if nothing had been."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from segcore.augment import Augmented
from segcore.config import TrainConfig
from segcore.models import ModelConfig
from segcore.training import learner as learner_module
from segcore.training.choice import Choice
from segcore.training.learner import Learner
from segcore.training.losses import SegmentationLoss

MODEL = ModelConfig(architecture="unet", arguments={"in_channels": 2, "num_classes": 2, "channels": (4, 4)})


def learner(seed: int = 0, amp: bool = False, dropout: float = 0.0, nodata: float | None = None, **how: Any) -> Learner:
    config = TrainConfig(workspace="w", seed=seed, amp=amp, dropout=dropout, **how)
    model = MODEL.model_copy(update={"arguments": {**MODEL.arguments, "dropout": dropout}})
    return Learner(
        model,
        config,
        Choice((4, 8), 32, 2, {"ce": 1.0, "dice": 1.0}, 3e-3),
        (10.0, 20.0),
        (2.0, 4.0),
        torch.device("cpu"),
        nodata=nodata,
    )


def batch(seed: int) -> Augmented:
    generator = torch.Generator().manual_seed(seed)
    tiles = torch.randn((2, 2, 8, 8), generator=generator)
    return Augmented(tiles, torch.randint(0, 2, (2, 8, 8), generator=generator))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
def test_to_input_normalises_per_band(dtype: str) -> None:
    pixels = np.arange(16).reshape(1, 2, 2, 4).astype(dtype)
    expected = (pixels.astype(np.float32) - np.array([10, 20], np.float32)[:, None, None]) / [[[2]], [[4]]]
    assert np.allclose(learner().to_input(pixels).numpy(), expected)


def test_to_input_takes_what_is_not_finite_for_average() -> None:
    pixels = np.array([np.nan, np.inf, -np.inf, 12], np.float32).reshape(1, 1, 2, 2).repeat(2, axis=1)
    assert learner().to_input(pixels)[0, 0].tolist() == [[0, 0], [0, 1]]


def test_pixels_without_a_value_in_any_band_become_the_mean() -> None:
    pixels = np.array([[[7, 12], [7, 7]], [[7, 7], [28, 7]]], np.int16)[None]  # bands of 2 x 2
    found = learner(nodata=7.0).to_input(pixels)[0]
    assert found.tolist() == [[[0, 1], [-1.5, 0]], [[0, -3.25], [2, 0]]]
    assert learner().to_input(pixels)[0, 0, 0, 0] == -1.5


def test_noise_on_the_statistics_is_of_seed_step_and_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = learner_module.varied

    def heard(model: Any, amount: float, seeds: Any) -> Any:
        asked.append((amount, list(seeds)))
        return real(model, amount, seeds)

    monkeypatch.setattr(learner_module, "varied", heard)
    learner(seed=5, norm_noise=0.3).step([batch(0), batch(1)], 1e-3, 8)
    assert asked == [(0.3, [(5, 8, 0), (5, 8, 1)]), (0.3, [(5, 8, 2), (5, 8, 3)])]


def test_weights_come_from_the_seed_alone_and_leave_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = learner(), learner()
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.tensors().values(), second.tensors().values(), strict=True))
    assert not torch.equal(next(learner(1).model.parameters()), next(first.model.parameters()))


def test_average_follows_with_a_decay_that_grows() -> None:
    trained = learner()
    mean = next(trained.average.parameters()).clone()
    for number in range(3):
        trained.step([batch(number)], rate=0.01, number=number)
        decay = (1 + number) / (10 + number)
        mean = decay * mean + (1 - decay) * next(trained.model.parameters()).detach()
    torch.testing.assert_close(next(trained.average.parameters()), mean)


def test_a_settled_step_learns_what_the_model_does_in_use() -> None:
    """Its logits are those of evaluation: a tile's do not depend on what else is in the batch."""
    trained = learner()
    for number in range(3):
        trained.step([batch(number)], rate=0.01, number=number)
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    given = batch(3)
    with torch.no_grad():
        in_use = SegmentationLoss({"ce": 1.0, "dice": 1.0})(trained.model.eval()(given.tiles), given.classes)
    loss = trained.step([given], rate=0.01, number=3, settled=True)
    torch.testing.assert_close(loss, in_use)
    after = trained.model.state_dict()
    statistics = {name for name in before if "running" in name}
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("head.weight"))


@pytest.mark.parametrize(
    ("amp", "formats", "expected"),
    [
        (True, ["bfloat16"], torch.bfloat16),
        (True, ["float16", "bfloat16"], torch.bfloat16),
        (True, ["float16"], torch.float16),
        (True, [], None),
        (False, ["bfloat16"], None),
    ],
)
def test_amp_takes_what_the_device_has(
    monkeypatch: pytest.MonkeyPatch, amp: bool, formats: list[str], expected: torch.dtype | None
) -> None:
    monkeypatch.setattr(learner_module, "faster_formats", lambda device: formats)
    assert learner(amp=amp).amp_dtype == expected


def test_a_step_in_bfloat16_learns_what_one_in_float32_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_module, "faster_formats", lambda device: ["bfloat16"])
    half, whole = learner(amp=True), learner()
    for number in range(3):
        loss = half.step([batch(number)], rate=0.01, number=number)
        torch.testing.assert_close(loss, whole.step([batch(number)], rate=0.01, number=number), rtol=0.05, atol=0.05)
    assert {value.dtype for value in half.model.parameters()} == {torch.float32}


def test_restored_learner_goes_on_bit_for_bit() -> None:
    whole, half = learner(), learner()
    for number in range(6):
        whole.step([batch(number)], rate=0.01, number=number)
    for number in range(3):
        half.step([batch(number)], rate=0.01, number=number)
    again = learner(seed=9)
    again.restore(half.tensors(), half.scaler_state())
    for number in range(3, 6):
        again.step([batch(number)], rate=0.01, number=number)
    for name, value in whole.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name


def test_step_uses_the_rate_that_it_is_given() -> None:
    still = learner()
    before = next(still.model.parameters()).clone()
    still.step([batch(0)], rate=0.0, number=0)
    assert torch.equal(next(still.model.parameters()), before)


def test_dropout_draws_by_seed_and_step_alone() -> None:
    whole, again = learner(dropout=0.5), learner(dropout=0.5)
    for number in range(2):
        whole.step([batch(0)], rate=0.01, number=number)
    torch.manual_seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    again.step([batch(0)], rate=0.01, number=0)
    assert torch.equal(torch.rand(1), expected)
    again.step([batch(0)], rate=0.01, number=1)
    for name, value in whole.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name
    losses = {float(learner(dropout=0.5).step([batch(0)], rate=0.01, number=number)) for number in range(4)}
    losses |= {float(learner().step([batch(0)], rate=0.01, number=number)) for number in range(4)}
    assert len(losses) > 3, "steps draw differently"
    assert len(losses) < 6, "without dropout the number of a step decides no loss"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_step_is_the_optimizers_own(optimizer: str) -> None:
    """Against torch's, with weights that decay and biases and norms that do not."""
    trained = learner(optimizer=optimizer, weight_decay=0.1, max_gradient=0.0, ema=0.0)
    model = copy.deepcopy(trained.model)
    weights = [value for value in model.parameters() if value.ndim > 1]
    others = [value for value in model.parameters() if value.ndim <= 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    kinds = {
        "adamw": torch.optim.AdamW(groups, lr=0.01),
        "sgd": torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True),
    }
    loss = SegmentationLoss({"ce": 1.0, "dice": 1.0})
    for number in range(3):
        trained.step([batch(number)], rate=0.01, number=number)
        kinds[optimizer].zero_grad()
        loss(model.train()(batch(number).tiles), batch(number).classes).backward()
        kinds[optimizer].step()
    for (name, value), other, mean in zip(
        trained.model.named_parameters(), model.parameters(), trained.average.parameters(), strict=True
    ):
        torch.testing.assert_close(value, other, msg=name)
        assert torch.equal(mean, value), "without a moving average it is the model itself"


def test_gradients_of_accumulated_batches_are_averaged() -> None:
    trained, whole = learner(max_gradient=0.0, optimizer="sgd"), learner(max_gradient=0.0, optimizer="sgd")
    loss = trained.step([batch(0)] * 3, rate=0.01, number=0)
    torch.testing.assert_close(loss, whole.step([batch(0)], rate=0.01, number=0))
    for one, two in zip(trained.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_a_mixture_is_held_against_both_its_truths() -> None:
    trained, one = (learner(max_gradient=0.0, optimizer="sgd", weight_decay=0.0) for _ in range(2))
    share = torch.tensor([0.75, 1.0])
    mixture = Augmented(batch(0).tiles, batch(0).classes, batch(1).classes, share)
    loss = trained.step([mixture], rate=0.01, number=0)
    logits = one.model.train()(batch(0).tiles)
    expected = SegmentationLoss({"ce": 1.0, "dice": 1.0})(logits, batch(0).classes, batch(1).classes, share)
    torch.testing.assert_close(loss, expected.detach())


def test_gradients_are_clipped_to_the_norm_that_is_asked_for() -> None:
    trained = learner(max_gradient=0.01, optimizer="sgd", weight_decay=0.0)
    before = [value.detach().clone() for value in trained.model.parameters()]
    trained.step([batch(0)], rate=1.0, number=0)
    moved = torch.stack([(a - b).norm() for a, b in zip(trained.model.parameters(), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(0.01 * 1.9, rel=1e-3), "Nesterov's first step is 1 + momentum"


def test_a_frozen_encoder_stays_and_thaws() -> None:
    trained = learner()
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    trained.step([batch(0)], rate=0.01, number=0, frozen=True)
    stayed = {name for name, value in trained.model.state_dict().items() if torch.equal(value, before[name])}
    assert stayed == {name for name in before if name.startswith("down.")}
    trained.step([batch(1)], rate=0.01, number=1)
    stayed = {name for name, value in trained.model.state_dict().items() if torch.equal(value, before[name])}
    assert not stayed


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    whole, tried = learner(), learner()
    whole.step([batch(0)], rate=0.01, number=0)
    tried.step([batch(0)], rate=0.01, number=0)
    # Batch norm's statistics go back to the average's, as those of a step that was not.
    expected = {name: value.clone() for name, value in tried.tensors().items()}
    expected |= {
        f"model.{name}": value.clone() for name, value in tried.average.state_dict().items() if "running" in name
    }
    endless = Augmented(batch(1).tiles * float("inf"), batch(1).classes)
    for count in (1, 2):
        tried.step([endless], rate=0.01, number=count)
        assert tried.skipped == count
    for name, value in tried.tensors().items():
        assert torch.equal(value, expected[name]), name
    assert torch.isfinite(tried.step([batch(1)], rate=0.01, number=3))
    assert tried.skipped == 0
