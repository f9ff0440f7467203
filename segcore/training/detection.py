"""Detection: codes of class and object -> *boxes and masks*, what a model learns that finds objects one by one.

They are made of the tile as it was augmented. Of an object that the tile cuts the part inside is learnt; and where a
tile has the same object twice, since it is mirrored at a border, each of the two is one.
"""

import torch
from skimage import measure

from segcore.config import TrainConfig
from segcore.errors import ConfigError
from segcore.models import find_architecture
from segcore.sampling import IGNORED
from segcore.training.objects import ObjectTruth

Target = dict[str, torch.Tensor]
LOSSES = {"loss", "class_weighting", "class_weights", "label_smoothing"}
"""Settings of the loss of classes."""


def targets_of(codes_nyx: torch.Tensor, truth: ObjectTruth) -> list[Target]:
    """The objects of each tile of a batch.

    Each connected part of an object, by sides or corners, is one; of fewer pixels than predictions keep it is left out.

    Args:
        codes_nyx: int64, of `sampling.codes`.
        truth: which classes are objects, and of how many pixels.

    Returns:
        Of each tile's n objects `boxes` (n, 4), float32, left, upper, right and lower end in px; `rows` (n,), int64,
        class numbers; `masks` (n, Y, X), uint8; and `unknown` (Y, X), bool: ignored, or of an object that nobody drew.
    """
    return [_target(codes_yx, truth) for codes_yx in codes_nyx]


def _target(codes: torch.Tensor, truth: ObjectTruth) -> Target:
    num_classes = len(truth.is_foreground)
    is_foreground = torch.tensor(truth.is_foreground, device=codes.device)
    known = codes.clamp_min(0)
    is_object = (codes != IGNORED) & is_foreground[known % num_classes]
    ids = torch.where(is_object, known // num_classes, 0)
    unknown = (codes == IGNORED) | (is_object & (ids == 0))
    parts = torch.from_numpy(measure.label(ids.cpu().numpy(), background=0, connectivity=2)).to(codes.device)  # type: ignore[no-untyped-call]
    numbers, areas = torch.unique(parts, return_counts=True)
    numbers = numbers[(numbers > 0) & (areas >= truth.rule.min_px)]
    masks = parts == numbers[:, None, None]
    rows = [(codes[mask] % num_classes).mode().values for mask in masks]  # one object, one class: that of most pixels
    return {
        "boxes": _boxes(masks),
        "rows": torch.stack(rows) if rows else numbers,
        "masks": masks.to(torch.uint8),
        "unknown": unknown,
    }


def _boxes(masks: torch.Tensor) -> torch.Tensor:
    """The boxes around masks (n, Y, X), none of them empty."""
    ends = []
    for axis in (1, 2):
        lines = masks.any(dim=axis).to(torch.uint8)  # of x, then of y
        first, last = lines.argmax(dim=1), lines.shape[1] - lines.flip(1).argmax(dim=1)
        ends.append((first, last))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], dim=1).float()


def check_detector(config: TrainConfig) -> None:
    """Refuse what a model that finds objects one by one cannot learn, or what belongs to a loss that it has not.

    Raises:
        ConfigError: naming the setting.
    """
    if not find_architecture(config.architecture).detects:
        return
    if config.task != "instances":
        raise ConfigError(
            f"architecture {config.architecture}: it finds objects one by one, expected task instances, got "
            f"{config.task}; give it, with targets that number objects (docs/instances.md)"
        )
    if config.augments.get("cutmix"):
        raise ConfigError(f"cutmix: it cuts objects to pieces, which {config.architecture} would learn; leave it out")
    vain = [name for name in type(config).model_fields if name in LOSSES & config.model_fields_set]
    if vain:
        raise ConfigError(f"{', '.join(vain)}: {config.architecture} has a loss of its own; leave it out")
