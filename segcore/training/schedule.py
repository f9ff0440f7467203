"""Schedule: how far the run is (0..1, by steps or by time) -> learning rate."""

import math
from typing import Literal

Kind = Literal["cosine", "poly", "onecycle", "plateau", "constant"]

SETTLED_FROM = 0.5
"""Share of the run after which batch norm trains with the statistics that it will have in use."""
PLATEAU_PATIENCE = 2
"""Validations without a better score after which the rate of `plateau` is halved."""


def is_settled(fraction: float) -> bool:
    """Whether batch norm keeps its running statistics from here on, in training too.

    The statistics of a small batch are those of the images that happen to be in it. Where images differ much, a model
    that learnt with them alone does something else in use, where the running ones stand: on training images, too.
    So the second half of a run learns with what will be there in use. A simpler form of the gradual change that
    Ioffe, "Batch Renormalization" (2017), makes for the same reason.
    """
    return fraction >= SETTLED_FROM


def learning_rate(kind: Kind, peak: float, fraction: float, warm_up: float, halvings: int = 0) -> float:
    """The rate at some point of a run.

    All but `onecycle` rise linearly from a tenth. Then `cosine` falls by half a cosine to a hundredth (Loshchilov and
    Hutter, 2017), `poly` to zero as (1 - x)^0.9 (Chen et al., DeepLab, 2018), and `plateau` and `constant` stay.
    `onecycle` rises from a 25th by half a cosine, over 0.3 of the run at least, and falls to nearly nothing (Smith and
    Topin, 2018).

    Args:
        kind: of the schedule.
        peak: the highest rate.
        fraction: of the run that is over, 0..1; beyond is taken as 1.
        warm_up: share of the run over which the rate rises.
        halvings: of `plateau`, so far.
    """
    fraction = min(max(fraction, 0.0), 1.0)
    if kind == "onecycle":
        warm_up = max(warm_up, 0.3)
        if fraction < warm_up:
            return peak * _half_cosine(1 / 25, 1.0, fraction / warm_up)
        return peak * _half_cosine(1.0, 1e-4, (fraction - warm_up) / (1 - warm_up))
    if fraction < warm_up:
        return peak * (0.1 + 0.9 * fraction / warm_up)
    down = (fraction - warm_up) / (1 - warm_up)
    if kind == "cosine":
        return peak * _half_cosine(1.0, 0.01, down)
    if kind == "poly":
        return peak * float((1 - down) ** 0.9)
    return peak * 0.5**halvings


def _half_cosine(start: float, stop: float, share: float) -> float:
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2
