"""Mix: two tiles of a batch -> *one of both*, with what its loss has to be taken against.

Partners are neighbours, 0 and 1, 2 and 3...: a batch that is cut between processes at even numbers mixes as the whole
one does. The last of an odd number has no partner and stays.
"""

from dataclasses import dataclass

import numpy as np
import torch

from segcore.augment.draw import Augmentation


@dataclass(frozen=True)
class Augmented:
    """A batch as the model gets it, and its truth: of a pixel that is a mixture two classes, each with its share."""

    tiles: torch.Tensor
    """(N, C, [P,] Y, X), normalised, float32."""
    classes: torch.Tensor
    """(N, [P,] Y, X), int64."""
    other_classes: torch.Tensor | None = None
    """Likewise; None where no tile of the batch is a mixture."""
    share: torch.Tensor | None = None
    """(N,), weight of `classes`, 1 for tiles that are no mixture; None with `other_classes`."""


def mixed(tiles_ncyx: torch.Tensor, classes_nyx: torch.Tensor, what: Augmentation) -> Augmented:
    """Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) between partners.

    A mixup has two truths, each with its share. A rectangle of cutmix brings its own classes along, so that every
    pixel still has one.
    """
    partner = np.arange(len(tiles_ncyx)) ^ 1
    partner[partner == len(partner)] = len(partner) - 1
    has_partner = partner != np.arange(len(partner))
    pasted, blended = what.cut.any(1) & has_partner, (what.mixup < 1) & has_partner
    if not pasted.any() and not blended.any():
        return Augmented(tiles_ncyx, classes_nyx)
    tiles, classes = tiles_ncyx.clone(), classes_nyx.clone()
    for k in np.flatnonzero(pasted):
        y0, y1, x0, x1 = (round(edge * tiles.shape[-1]) for edge in what.cut[k].tolist())
        tiles[k, ..., y0:y1, x0:x1] = tiles_ncyx[partner[k], ..., y0:y1, x0:x1]
        classes[k, ..., y0:y1, x0:x1] = classes_nyx[partner[k], ..., y0:y1, x0:x1]
    if not blended.any():
        return Augmented(tiles, classes)
    own = np.where(blended, what.mixup, 1.0)
    share = torch.as_tensor(own, dtype=torch.float32, device=tiles.device)
    rows = np.flatnonzero(blended)
    weight = share[rows].reshape(-1, *(1,) * (tiles.ndim - 1))
    tiles[rows] = torch.lerp(tiles_ncyx[partner[rows]], tiles[rows], weight)
    return Augmented(tiles, classes, classes_nyx[partner], share)
