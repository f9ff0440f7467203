"""Schedule: the values at the corners, and torch's own where it has them."""

import pytest
import torch

from segcore.training.schedule import Kind, is_settled, learning_rate


@pytest.mark.parametrize(
    ("kind", "fraction", "expected"),
    [
        ("cosine", 0.0, 0.1),
        ("cosine", 0.025, 0.55),
        ("cosine", 0.05, 1.0),
        ("cosine", 0.525, 0.505),
        ("cosine", 1.0, 0.01),
        ("cosine", 1.7, 0.01),
        ("cosine", -1.0, 0.1),
        ("poly", 0.0, 0.1),
        ("poly", 0.525, 0.5**0.9),
        ("poly", 1.0, 0.0),
        ("constant", 0.0, 0.1),
        ("constant", 0.7, 1.0),
    ],
)
def test_learning_rate_warms_up_and_falls(kind: Kind, fraction: float, expected: float) -> None:
    assert learning_rate(kind, 3.0, fraction, 0.05) == pytest.approx(3.0 * expected)


def test_without_warm_up_it_starts_at_the_peak() -> None:
    assert [learning_rate(kind, 3.0, 0.0, 0.0) for kind in ("cosine", "poly", "plateau", "constant")] == [3.0] * 4


def test_one_cycle_is_torchs() -> None:
    steps = 101
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2.0, total_steps=steps, cycle_momentum=False, final_div_factor=400, pct_start=0.3
    )
    for step in range(steps):
        found = learning_rate("onecycle", 2.0, step / (steps - 1), 0.05)
        # Torch turns at step 0.3 * total - 1 rather than at 0.3 of the run.
        assert found == pytest.approx(theirs.get_last_lr()[0], abs=0.07)
        optimizer.step()
        if step < steps - 1:
            theirs.step()


def test_plateau_halves() -> None:
    rates = [learning_rate("plateau", 0.8, 0.5, 0.05, halvings) for halvings in range(3)]
    assert rates == pytest.approx([0.8, 0.4, 0.2])


def test_the_second_half_trains_with_the_statistics_of_use() -> None:
    assert [is_settled(fraction) for fraction in (0.0, 0.49, 0.5, 1.0)] == [False, False, True, True]
