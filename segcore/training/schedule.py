"""Schedule: how far the run is (0..1, by steps or by time) -> learning rate."""

import math

WARM_UP = 0.05
"""Share of the run over which the rate rises from a tenth."""


SETTLED_FROM = 0.5
"""Share of the run after which batch norm trains with the statistics that it will have in use."""


def is_settled(fraction: float) -> bool:
    """Whether batch norm keeps its running statistics from here on, in training too.

    The statistics of a small batch are those of the images that happen to be in it. Where images differ much, a model
    that learnt with them alone does something else in use, where the running ones stand: on training images, too.
    So the second half of a run learns with what will be there in use. A simpler form of the gradual change that
    Ioffe, "Batch Renormalization" (2017), makes for the same reason.
    """
    return fraction >= SETTLED_FROM


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
