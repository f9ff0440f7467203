"""Losses: logits and class numbers -> one number. Pixels marked `IGNORED` change neither it nor its gradient.

Terms are added by their weights: those per pixel (ce, bce, focal, boundary) are means over the pixels that count, those
per region (dice, jaccard, tversky, lovasz) are per class over the whole batch, so that a class that one tile lacks is
not scored on that tile alone. Where MONAI has a term it is MONAI's, of probabilities that are 0 where a pixel does not
count: MONAI's own mask leaves an ignored pixel the softmax of zeros.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses.dice import DiceLoss
from monai.losses.focal_loss import FocalLoss
from monai.losses.tversky import TverskyLoss
from scipy.ndimage import distance_transform_edt

from segcore.config.train import Loss
from segcore.sampling import IGNORED

_DICE = DiceLoss(batch=True, reduction="none")
"""Of probabilities and a one-hot truth. Its smoothing makes the Dice of a class without a pixel 1."""
_JACCARD = DiceLoss(batch=True, jaccard=True, reduction="none")
_TVERSKY = TverskyLoss(batch=True, alpha=0.3, beta=0.7, reduction="none")
"""What is missed weighs more than what is too much, as Salehi et al. (2017) advise for small objects."""
_FOCAL = FocalLoss(use_softmax=True, gamma=2.0, reduction="none")


class _Seen(NamedTuple):
    """What every term is computed from; float32."""

    logits_nkyx: torch.Tensor
    log_probs_nkyx: torch.Tensor
    probs_nkyx: torch.Tensor
    """0 where a pixel does not count."""
    truth_nkyx: torch.Tensor
    """One-hot, or the shares of two classes; likewise."""
    known_nyx: torch.Tensor
    """True = counts."""
    weights_k: torch.Tensor
    """Of the classes."""


class SegmentationLoss:
    """A weighted sum of terms.

    Args:
        terms: name -> weight.
        class_weights: (K,) float32, of mean 1 or so; None = all alike.
        label_smoothing: of the cross-entropy: share of the truth that is spread evenly (Szegedy et al., 2016).
    """

    def __init__(
        self, terms: Mapping[Loss, float], class_weights: torch.Tensor | None = None, label_smoothing: float = 0.0
    ) -> None:
        of: dict[Loss, Callable[[_Seen], torch.Tensor]] = {
            "ce": partial(_cross_entropy, smoothing=label_smoothing),
            "bce": _binary_cross_entropy,
            "focal": _focal,
            "boundary": _boundary,
            "dice": lambda seen: _by_class(_DICE(seen.probs_nkyx, seen.truth_nkyx), seen.weights_k),
            "jaccard": lambda seen: _by_class(_JACCARD(seen.probs_nkyx, seen.truth_nkyx), seen.weights_k),
            "tversky": lambda seen: _by_class(_TVERSKY(seen.probs_nkyx, seen.truth_nkyx), seen.weights_k),
            "lovasz": _lovasz,
        }
        self._terms = [(of[name], weight) for name, weight in terms.items() if weight]
        self._class_weights = class_weights

    def __call__(
        self,
        logits_nkyx: torch.Tensor,
        classes_nyx: torch.Tensor,
        other_nyx: torch.Tensor | None = None,
        share_n: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of a batch, a scalar; 0 if every pixel is ignored.

        Args:
            logits_nkyx: of any float dtype; the loss is taken in float32.
            classes_nyx: int64, 0..K-1 or `IGNORED`.
            other_nyx: of tiles that are mixtures the other truth, likewise; a pixel counts if both are known.
            share_n: (N,), of `classes_nyx` in each tile's truth; 1 for a tile that is no mixture.

        Of tiles with planes, (N, K, P, Y, X) and (N, P, Y, X), every plane counts as a tile.
        """
        if logits_nkyx.ndim == 5:
            planes = logits_nkyx.shape[2]
            logits_nkyx, classes_nyx = logits_nkyx.transpose(1, 2).flatten(0, 1), classes_nyx.flatten(0, 1)
            other_nyx = None if other_nyx is None else other_nyx.flatten(0, 1)
            share_n = None if share_n is None else share_n.repeat_interleave(planes)
        logits = logits_nkyx.float()
        log_probs, known = F.log_softmax(logits, dim=1), classes_nyx != IGNORED
        truth = torch.zeros_like(log_probs).scatter_(1, classes_nyx.clamp_min(0)[:, None], 1.0)
        if other_nyx is not None and share_n is not None:
            share = share_n[:, None, None, None]
            known = known & ((other_nyx != IGNORED) | (share[:, 0] == 1))
            other = torch.zeros_like(log_probs).scatter_(1, other_nyx.clamp_min(0)[:, None], 1.0)
            truth = torch.lerp(other, truth, share)
        mask = known[:, None].to(log_probs.dtype)
        weights = logits.new_ones(logits.shape[1]) if self._class_weights is None else self._class_weights
        probs, truth = log_probs.exp() * mask, truth * mask
        seen = _Seen(logits, log_probs, probs, truth, known, weights.to(logits.device))
        loss = logits_nkyx.new_zeros((), dtype=torch.float32)
        for term, weight in self._terms:
            loss = loss + weight * term(seen)
        return loss


def _cross_entropy(seen: _Seen, smoothing: float) -> torch.Tensor:
    weights = seen.weights_k
    # Not by `nll_loss`, which has no kernel on CUDA that gives the same sum each time.
    summed = -(seen.log_probs_nkyx * seen.truth_nkyx * weights[:, None, None]).sum()
    if smoothing:
        even = -((seen.log_probs_nkyx * weights[:, None, None]).mean(1) * seen.known_nyx).sum()
        summed = (1 - smoothing) * summed + smoothing * even
    return summed / _pixel_weights(seen).sum().clamp_min(1e-6)


def _binary_cross_entropy(seen: _Seen) -> torch.Tensor:
    """Every class against all others, each by its own sigmoid: the mean over pixels and classes."""
    each = F.binary_cross_entropy_with_logits(seen.logits_nkyx, seen.truth_nkyx, reduction="none").mean(1)
    return (each * _pixel_weights(seen)).sum() / _pixel_weights(seen).sum().clamp_min(1e-6)


def _focal(seen: _Seen) -> torch.Tensor:
    """Lin et al., "Focal Loss for Dense Object Detection" (2017), gamma 2: pixels that are sure weigh little."""
    each: torch.Tensor = _FOCAL(seen.logits_nkyx, seen.truth_nkyx).sum(1)
    return (each * _pixel_weights(seen)).sum() / _pixel_weights(seen).sum().clamp_min(1e-6)


def _boundary(seen: _Seen) -> torch.Tensor:
    """Kervadec et al., "Boundary loss for highly unbalanced segmentation" (2019): probability by distance.

    Distances are those of each pixel to the edge of the class, negative inside it, in tile sides; a class that a tile
    lacks has none. Give it beside a term per region, which it refines.
    """
    shape = seen.truth_nkyx.shape
    truth, distances = seen.truth_nkyx.cpu().numpy() > 0.5, np.zeros(shape, np.float32)
    for n, k in np.ndindex(shape[:2]):
        inside = truth[n, k]
        if inside.any() and not inside.all():
            distances[n, k] = distance_transform_edt(~inside) - distance_transform_edt(inside)
    away = torch.from_numpy(distances / max(shape[2:])).to(seen.probs_nkyx.device)
    return (seen.probs_nkyx * away * seen.weights_k[:, None, None]).sum() / seen.known_nyx.sum().clamp_min(1)


def _lovasz(seen: _Seen) -> torch.Tensor:
    """Berman et al., "The Lovász-Softmax loss" (2018), over the classes that the batch has."""
    known = seen.known_nyx
    probs, truth = (values.movedim(1, -1)[known] for values in (seen.probs_nkyx, seen.truth_nkyx))
    losses, weights = [probs.sum() * 0.0], [seen.weights_k.new_zeros(())]
    for k in truth.any(0).nonzero().ravel().tolist():
        errors, order = (truth[:, k] - probs[:, k]).abs().sort(descending=True)
        inside = truth[order, k]
        union = inside.sum() + (1 - inside).cumsum(0)
        jaccard = 1 - (inside.sum() - inside.cumsum(0)) / union
        steps = torch.cat((jaccard[:1], jaccard.diff()))
        losses.append(errors @ steps)
        weights.append(seen.weights_k[k])
    weight = torch.stack(weights)
    return (torch.stack(losses) * weight).sum() / weight.sum().clamp_min(1e-6)


def _pixel_weights(seen: _Seen) -> torch.Tensor:
    """(N, Y, X): the weight of each pixel's class; 0 where it does not count."""
    return torch.einsum("nkyx,k->nyx", seen.truth_nkyx, seen.weights_k)


def _by_class(losses: torch.Tensor, weights_k: torch.Tensor) -> torch.Tensor:
    """The mean over classes by their weights."""
    return (losses.ravel() * weights_k).sum() / weights_k.sum()
