"""Learner: what goes in, what the average is, and a restored one that goes on as if nothing had been."""

import numpy as np
import pytest
import torch

from segcore.config import TrainConfig
from segcore.models import ModelConfig
from segcore.training import learner as learner_module
from segcore.training.choice import Choice
from segcore.training.learner import Learner
from segcore.training.losses import segmentation_loss

MODEL = ModelConfig(architecture="unet", arguments={"in_channels": 2, "num_classes": 2, "channels": (4, 4)})


def learner(seed: int = 0, amp: bool = False, dropout: float = 0.0) -> Learner:
    config = TrainConfig(workspace="w", seed=seed, amp=amp, dropout=dropout)
    model = MODEL.model_copy(update={"arguments": {**MODEL.arguments, "dropout": dropout}})
    return Learner(
        model,
        config,
        Choice((4, 8), 32, 2, {"ce": 1.0, "dice": 1.0}, 3e-3),
        (10.0, 20.0),
        (2.0, 4.0),
        torch.device("cpu"),
    )


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tiles = torch.randn((2, 2, 8, 8), generator=generator)
    return tiles, torch.randint(0, 2, (2, 8, 8), generator=generator)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
def test_to_input_normalises_per_band(dtype: str) -> None:
    pixels = np.arange(16).reshape(1, 2, 2, 4).astype(dtype)
    expected = (pixels.astype(np.float32) - np.array([10, 20], np.float32)[:, None, None]) / [[[2]], [[4]]]
    assert np.allclose(learner().to_input(pixels).numpy(), expected)


def test_to_input_takes_what_is_not_finite_for_average() -> None:
    pixels = np.array([np.nan, np.inf, -np.inf, 12], np.float32).reshape(1, 1, 2, 2).repeat(2, axis=1)
    assert learner().to_input(pixels)[0, 0].tolist() == [[0, 0], [0, 1]]


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
        trained.step(*batch(number), rate=0.01, number=number)
        decay = (1 + number) / (10 + number)
        mean = decay * mean + (1 - decay) * next(trained.model.parameters()).detach()
    torch.testing.assert_close(next(trained.average.parameters()), mean)


def test_a_settled_step_learns_what_the_model_does_in_use() -> None:
    """Its logits are those of evaluation: a tile's do not depend on what else is in the batch."""
    trained = learner()
    for number in range(3):
        trained.step(*batch(number), rate=0.01, number=number)
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    tiles, classes = batch(3)
    with torch.no_grad():
        in_use = segmentation_loss(trained.model.eval()(tiles), classes)
    loss = trained.step(tiles, classes, rate=0.01, number=3, settled=True)
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
        loss = half.step(*batch(number), rate=0.01, number=number)
        torch.testing.assert_close(loss, whole.step(*batch(number), rate=0.01, number=number), rtol=0.05, atol=0.05)
    assert {value.dtype for value in half.model.parameters()} == {torch.float32}


def test_restored_learner_goes_on_bit_for_bit() -> None:
    whole, half = learner(), learner()
    for number in range(6):
        whole.step(*batch(number), rate=0.01, number=number)
    for number in range(3):
        half.step(*batch(number), rate=0.01, number=number)
    again = learner(seed=9)
    again.restore(half.tensors(), half.scaler_state())
    for number in range(3, 6):
        again.step(*batch(number), rate=0.01, number=number)
    for name, value in whole.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name


def test_step_uses_the_rate_that_it_is_given() -> None:
    still = learner()
    before = next(still.model.parameters()).clone()
    still.step(*batch(0), rate=0.0, number=0)
    assert torch.equal(next(still.model.parameters()), before)


def test_dropout_draws_by_seed_and_step_alone() -> None:
    whole, again = learner(dropout=0.5), learner(dropout=0.5)
    for number in range(2):
        whole.step(*batch(0), rate=0.01, number=number)
    torch.manual_seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    again.step(*batch(0), rate=0.01, number=0)
    assert torch.equal(torch.rand(1), expected)
    again.step(*batch(0), rate=0.01, number=1)
    for name, value in whole.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name
    losses = {float(learner(dropout=0.5).step(*batch(0), rate=0.01, number=number)) for number in range(4)}
    losses |= {float(learner().step(*batch(0), rate=0.01, number=number)) for number in range(4)}
    assert len(losses) > 3, "steps draw differently"
    assert len(losses) < 6, "without dropout the number of a step decides no loss"
