"""Schedule: how far the run is (0..1, by steps or by time) -> learning rate."""

import math

WARM_UP = 0.05
"""Share of the run over which the rate rises from a tenth."""


def learning_rate(peak: float, fraction: float) -> float:
    """Linear warm-up, then a half cosine down to a hundredth.

    Args:
        peak: the highest rate.
        fraction: of the run that is over, 0..1; beyond is taken as 1.
    """
    fraction = min(max(fraction, 0.0), 1.0)
    if fraction < WARM_UP:
        return peak * (0.1 + 0.9 * fraction / WARM_UP)
    down = (fraction - WARM_UP) / (1 - WARM_UP)
    return peak * (0.01 + 0.99 * (1 + math.cos(math.pi * down)) / 2)
