"""Found: the objects that a detector finds in a tile -> *logits* (K + 2, Y, X), the answer of any model that tells
objects apart.

    objects      boxes with a class, a score and a mask of their own, which overlap
    one each     the surest object takes its pixels first; one that is left with less than half of its own is none
    classes      of a pixel: as sure as the mask of its object is there
    border       where two objects touch; the rest of an object is deep

So two objects are never connected by what is deep, and what is deep of one object is connected, however it was cut: the
objects of an image are made of such tiles as of any others (`segcore.instances`). Who takes a pixel first: Kirillov et
al., "Panoptic Segmentation" (2019).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

LEAST_FREE = 0.5
"""Share of its pixels that an object must find free."""
LEAST, SURE = 1e-6, 12.0
"""A class's least probability, and the logit of what is certain."""


class Found(NamedTuple):
    """The objects of one tile, the surest first; n of them."""

    boxes: torch.Tensor
    """(n, 4) float32: left, upper, right and lower end, px of the tile; pixel k reaches from k to k + 1."""
    rows: torch.Tensor
    """(n,) int64: class numbers."""
    masks: torch.Tensor
    """(n, m, m) float32, over the box: probability that a place is the object's."""


def logits_of(found: Found, sides: tuple[int, int], num_classes: int, background: int) -> torch.Tensor:
    """Logits of the classes, then border and depth; float32 on the device of the objects.

    Args:
        found: the objects.
        sides: Y, X.
        num_classes: K.
        background: number of the class of what is no object.
    """
    device = found.boxes.device
    owner = torch.zeros(sides, dtype=torch.int64, device=device)
    rows = torch.full(sides, background, dtype=torch.int64, device=device)
    share = torch.full(sides, LEAST, device=device)
    for number, (box, row, mask) in enumerate(zip(found.boxes.tolist(), found.rows.tolist(), found.masks, strict=True)):
        window, values = _in_box(mask, box, sides)
        is_free = (owner[window] == 0) & (values > share[window])
        taken = is_free & (values > 0.5)
        if taken.sum() < LEAST_FREE * (values > 0.5).sum():
            continue
        owner[window] = torch.where(taken, number + 1, owner[window])
        rows[window] = torch.where(is_free, row, rows[window])
        share[window] = torch.where(is_free, values, share[window])
    share = share.clamp(LEAST, 1 - LEAST)
    classes = torch.full((num_classes, *sides), math.log(LEAST), device=device)
    classes = classes.scatter(0, rows[None], share.log()[None])
    classes[background] = torch.log1p(-share)
    parts = torch.stack([touching(owner), owner > 0])
    return torch.cat([classes, torch.where(parts, SURE, -SURE)])


def touching(owner: torch.Tensor) -> torch.Tensor:
    """Whether pixels (Y, X) of an object, numbered from 1, have one of another object beside them."""
    found = torch.zeros_like(owner, dtype=torch.bool)
    for axis in (0, 1):
        n = owner.shape[axis]
        one, two = owner.narrow(axis, 0, n - 1), owner.narrow(axis, 1, n - 1)
        differs = (one != two) & (one > 0) & (two > 0)
        found.narrow(axis, 0, n - 1).logical_or_(differs)
        found.narrow(axis, 1, n - 1).logical_or_(differs)
    return found


def _in_box(mask: torch.Tensor, box: list[float], sides: tuple[int, int]) -> tuple[tuple[slice, slice], torch.Tensor]:
    """The pixels whose middle lies in a box, and the values of its mask there."""
    left, top, right, bottom = box
    window, places = [], []
    for start, stop, side in ((top, bottom, sides[0]), (left, right, sides[1])):
        first, last = max(0, math.ceil(start - 0.5)), min(side, math.ceil(stop - 0.5))
        window.append(slice(first, max(first, last)))
        middles = torch.arange(first, max(first, last), device=mask.device) + 0.5
        places.append((middles - start) / max(stop - start, 1e-6) * 2 - 1)
    grid = torch.stack(torch.meshgrid(places[1], places[0], indexing="xy"), dim=-1)
    if not grid.numel():
        return (window[0], window[1]), mask.new_zeros(grid.shape[:2])
    values = F.grid_sample(mask[None, None], grid[None].to(mask.dtype), padding_mode="border", align_corners=False)
    return (window[0], window[1]), values[0, 0]
