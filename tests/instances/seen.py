"""A detector that misses nothing: what stands in an id map is what it finds."""

from collections.abc import Callable

import torch

from segcore.models.found import Found


def found_in(ids: torch.Tensor, rows: Callable[[int], int] = lambda number: 1) -> Found:
    """The objects of an id map (Y, X), each with the box around its pixels and a mask of just these.

    Args:
        ids: of objects, 0 = none.
        rows: class number of an object.
    """
    numbers = [int(number) for number in torch.unique(ids) if number > 0]
    places = [torch.nonzero(ids == number) for number in numbers]
    corners = [place.amin(dim=0) for place in places]
    side = 1 + max((int((p - c).max()) for p, c in zip(places, corners, strict=True)), default=0)
    boxes, masks = [], []
    for place, corner in zip(places, corners, strict=True):
        (y, x), (top, left) = (place - corner).T, corner.tolist()
        mask = torch.zeros(side, side)  # so that a pixel of a mask is one of the image
        mask[y, x] = 1
        boxes.append((left, top, left + side, top + side))
        masks.append(mask)
    if not numbers:
        return Found(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1, 1))
    return Found(torch.tensor(boxes).float(), torch.tensor([rows(number) for number in numbers]), torch.stack(masks))
