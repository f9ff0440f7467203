"""Schedule: the values at the corners."""

import pytest

from segcore.training.schedule import is_settled, learning_rate


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.0, 0.1), (0.025, 0.55), (0.05, 1.0), (0.525, 0.505), (1.0, 0.01), (1.7, 0.01), (-1.0, 0.1)],
)
def test_learning_rate_warms_up_and_falls_as_a_cosine(fraction: float, expected: float) -> None:
    assert learning_rate(3.0, fraction) == pytest.approx(3.0 * expected)


def test_the_second_half_trains_with_the_statistics_of_use() -> None:
    assert [is_settled(fraction) for fraction in (0.0, 0.49, 0.5, 1.0)] == [False, False, True, True]
