"""Losses: logits and class numbers -> one number. Pixels marked `IGNORED` change neither it nor its gradient."""

import torch
import torch.nn.functional as F
from monai.losses.dice import DiceLoss

from segcore.sampling import IGNORED

_DICE = DiceLoss(batch=True)
"""Of probabilities and a one-hot truth. Its smoothing makes the Dice of a class without a pixel 1."""


def segmentation_loss(
    logits_nkyx: torch.Tensor, classes_nyx: torch.Tensor, ce_weight: float = 1.0, dice_weight: float = 1.0
) -> torch.Tensor:
    """Mean cross-entropy + (1 - mean soft Dice), each by its weight, over the pixels that count.

    The Dice is per class over the whole batch, so that a class that one tile lacks is not scored on that tile alone.
    MONAI's masked loss multiplies the logits by the mask, so that an ignored pixel still counts with the softmax of
    zeros; here the probabilities are masked: it counts with nothing.

    Args:
        logits_nkyx: of any float dtype; the loss is taken in float32.
        classes_nyx: int64, 0..K-1 or `IGNORED`.
        ce_weight: of the cross-entropy.
        dice_weight: of the Dice term.

    Returns:
        A scalar; 0 if every pixel is ignored.
    """
    log_probs = F.log_softmax(logits_nkyx.float(), dim=1)
    known = classes_nyx != IGNORED
    summed = F.nll_loss(log_probs, classes_nyx, ignore_index=IGNORED, reduction="sum")
    loss = ce_weight * summed / known.sum().clamp_min(1)
    if dice_weight > 0:
        mask = known[:, None].to(log_probs.dtype)
        truth = torch.zeros_like(log_probs).scatter_(1, classes_nyx.clamp_min(0)[:, None], mask)
        loss = loss + dice_weight * _DICE(log_probs.exp() * mask, truth)
    return loss
