"""Objects: codes of class and object -> *border and depth*, what a model learns beside the classes.

Depth is a pixel's distance from the rim of its object, as part of `depth_px`, 1 from there on; border are the pixels
next to the rim, where the object touches another too. Both are made of the tile as it was augmented, so that they are
those of what the model sees. Border: DCAN (Chen et al. 2016) and Caicedo et al. (2019); depth, cut off: Bai & Urtasun's
"Deep Watershed Transform" (2017).

Distance is counted by peeling: the pixels that have one of another object beside them lie at 1, those beside them at 2,
by sides and by sides and corners in turn, which makes octagons of circles (Rosenfeld & Pfaltz 1968). A distance is
known where no pixel that is nearer lies outside the tile, or is ignored.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage

from segcore.classes import ClassInfo
from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.instances.rule import Rule
from segcore.sampling import IGNORED, ClassIndex, LabelledImage
from segcore.scoring.counts import foreground_rows
from segcore.store import Label, Workspace, instances_name
from segcore.training.losses import SegmentationLoss

MIN_DEPTH_PX, MAX_DEPTH_PX = 3, 16
SMALL = 20
"""Percentile of the objects by their deepest pixel: most of the smaller ones still have half the depth."""
TINY = 1
"""Percentile of the objects by area; what is smaller than half of it is left out of predictions."""
WIDE = 99
"""Percentile of the objects by the longer side of their box."""
FOUND_DEPTH_PX = 1
"""Of a model that finds objects one by one: deep is all of an object, but where it touches another."""
MAX_IMAGES, MAX_WINDOW_PX = 64, 1024
"""Of so many images at most a window of this side is looked at, around an object."""


@dataclass(frozen=True)
class ObjectTruth:
    """How objects are told apart."""

    rule: Rule
    is_foreground: tuple[bool, ...]
    """By class number: whether its pixels belong to objects."""
    why: str
    """For the user."""
    widest_px: int = 0
    """Side of the box around nearly any object."""


class Parts(NamedTuple):
    """The truth of a batch; (N, Y, X) each."""

    classes: torch.Tensor
    """int64, `IGNORED` among them."""
    border: torch.Tensor
    """float32, 1 = at the rim of an object."""
    depth: torch.Tensor
    """float32, 0 = no object."""
    known: torch.Tensor
    """True where border and depth are known."""


class ObjectLoss:
    """The loss of the classes, and the cross-entropies of border and depth, each a mean over the pixels that count.

    A cross-entropy with a depth between 0 and 1 is least where the answer is the depth, as the squared error is, and
    has a slope where the answer is wrong and sure.

    Args:
        of_classes: of the first logits.
        truth: how objects are told apart.
    """

    def __init__(self, of_classes: SegmentationLoss, truth: ObjectTruth) -> None:
        self._of_classes, self._truth = of_classes, truth

    def __call__(
        self,
        logits_nkyx: torch.Tensor,
        codes_nyx: torch.Tensor,
        other_nyx: torch.Tensor | None = None,
        share_n: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of a batch, a scalar; tiles must be no mixtures of two truths.

        Args:
            logits_nkyx: of the classes, then border and depth.
            codes_nyx: int64, of `sampling.codes`.
            other_nyx: None.
            share_n: None.
        """
        assert other_nyx is None, "objects of a mixture have no one truth"
        assert share_n is None, "objects of a mixture have no one truth"
        num_classes = len(self._truth.is_foreground)
        parts = parts_of(codes_nyx, self._truth)
        loss = self._of_classes(logits_nkyx[:, :num_classes], parts.classes)
        answers = logits_nkyx[:, num_classes:].float()
        truth = torch.stack([parts.border, parts.depth], dim=1)
        each = F.binary_cross_entropy_with_logits(answers, truth, reduction="none").sum(1)
        return loss + (each * parts.known).sum() / parts.known.sum().clamp_min(1)


def parts_of(codes_nyx: torch.Tensor, truth: ObjectTruth) -> Parts:
    """Classes, border and depth of codes (N, Y, X), int64."""
    num_classes, depth_px = len(truth.is_foreground), truth.rule.depth_px
    is_known = codes_nyx != IGNORED
    codes = codes_nyx.clamp_min(0)
    classes = torch.where(is_known, codes % num_classes, IGNORED)
    is_foreground = torch.tensor(truth.is_foreground, device=codes.device)[codes % num_classes] & is_known
    ids = torch.where(is_foreground, codes // num_classes, 0)
    is_known = is_known & ~(is_foreground & (ids == 0))  # a pixel of no object that anybody drew
    distance, certain = rim_distances(ids, is_known, depth_px)
    is_object = ids > 0
    depth = distance / depth_px * is_object
    border = ((distance <= max(1, depth_px // 3)) & is_object).float()
    return Parts(classes, border, depth, is_known & (~is_object | (distance <= certain)))


def rim_distances(ids: torch.Tensor, is_known: torch.Tensor, depth_px: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How far each pixel lies from the rim of its object, and from what is not known; both up to `depth_px`.

    Args:
        ids: (N, Y, X), int64; of objects, and 0 of what is none.
        is_known: (N, Y, X); what is outside the tile is not.
        depth_px: where counting ends.

    Returns:
        float32 (N, Y, X) each: 1 at the rim; of the other 0 for a pixel that is not known, 1 for those beside it.
    """
    other = torch.zeros_like(is_known)
    for axis in (1, 2):
        n = ids.shape[axis]
        one, two = ((values.narrow(axis, 0, n - 1), values.narrow(axis, 1, n - 1)) for values in (ids, is_known))
        differs = (one[0] != one[1]) & two[0] & two[1]
        other.narrow(axis, 0, n - 1).logical_or_(differs)
        other.narrow(axis, 1, n - 1).logical_or_(differs)
    peeled, unknown = other, ~is_known
    distance, certain = torch.ones_like(ids, dtype=torch.float32), is_known.float()
    for step in range(1, depth_px):
        if step > 1:
            peeled = _spread(peeled, step, outside=False)
        unknown = _spread(unknown, step, outside=True)
        distance += ~peeled
        certain += ~unknown
    return distance, certain


def _spread(marked: torch.Tensor, step: int, outside: bool) -> torch.Tensor:
    """Marks (N, Y, X) taken to the neighbours: in odd steps over the sides, in even ones over sides and corners."""
    wide = F.pad(marked, (1, 1, 1, 1), value=outside)
    upright = wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]
    if step % 2 == 0:
        return upright[..., :-2] | upright[..., 1:-1] | upright[..., 2:]
    return upright[..., 1:-1] | wide[:, 1:-1, :-2] | wide[:, 1:-1, 2:]


def objects_of(workspace: Workspace, image_id: str) -> Label:
    """The ids of the objects of a training image.

    Raises:
        ConfigError: if its target has none.
    """
    name = instances_name("target")
    if name not in workspace.label_names(image_id):
        raise ConfigError(
            f"task instances: expected objects in the target of {image_id}, got classes alone; ingest it again with "
            "one mask file per object, or a numbered mask (docs/instances.md)"
        )
    return workspace.label(image_id, name)


def with_objects(workspace: Workspace, images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """Those whose objects are known, to tell codes; held-out ones too, so that all folds and seeds see the same."""
    found = [copy(image) for image in images if instances_name("target") in workspace.label_names(image.image_id)]
    for image in found:
        image.objects = objects_of(workspace, image.image_id)
    return found


def object_truth(images: Sequence[LabelledImage], classes: Sequence[ClassInfo], detects: bool = False) -> ObjectTruth:
    """Choose the rule by the objects of images.

    Args:
        images: that tell codes.
        classes: of their targets.
        detects: whether the model finds objects one by one.

    Raises:
        ConfigError: if no class is background, or no whole object is seen.
    """
    rows = foreground_rows(classes)
    if len(rows) == len(classes):
        raise ConfigError(
            f"task instances: expected a class called background, which no object has, got "
            f"{', '.join(info.name for info in classes)}; name it so in the class table"
        )
    is_foreground = tuple(row in rows for row in range(len(classes)))
    truth = ObjectTruth(Rule(depth_px=MAX_DEPTH_PX), is_foreground, "")
    looked_at = images[:: -(-len(images) // MAX_IMAGES)]
    index = ClassIndex(looked_at, len(classes))
    found = [
        _measures(image, np.concatenate([places[row].places for row in rows]), truth)
        for image, places in zip(looked_at, index.found, strict=True)
    ]
    depths, areas, widths = (np.concatenate(values) for values in zip(*found, strict=True))
    if not len(depths):
        raise ConfigError(f"task instances: expected objects in the targets, found none whole in {len(found)} images")
    depth_px = int(np.clip(np.round(np.percentile(depths, SMALL)), MIN_DEPTH_PX, MAX_DEPTH_PX))
    min_px = max(1, int(np.percentile(areas, TINY) // 2))
    widest_px = int(np.percentile(widths, WIDE))
    how = f"told apart by {depth_px} px from their rims"
    if detects:
        depth_px, how = FOUND_DEPTH_PX, f"found one by one, up to {widest_px} px wide"
    why = (
        f"{how}, and of {min_px} px at least: {len(depths)} were looked at, of {np.median(areas):.0f} px in the median"
    )
    return ObjectTruth(Rule(depth_px=depth_px, min_px=min_px), is_foreground, why, widest_px)


def _measures(
    image: LabelledImage, places: npt.NDArray[np.int32], truth: ObjectTruth
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the whole objects around one of the places (n, 3) of objects: deepest pixel, px, and longer side of each."""
    if not len(places):
        return np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64)
    plane, *centre = places[len(places) // 2].tolist()
    shape = tuple(min(n, MAX_WINDOW_PX) for n in image.shape_yx)
    sides = zip(centre, shape, image.shape_yx, strict=True)
    start = tuple(min(max(0, at - side // 2), n - side) for at, side, n in sides)
    _, codes = image.read(plane, Window(start, shape))
    parts = parts_of(torch.from_numpy(codes.astype(np.int64))[None], truth)
    depth_px, known = truth.rule.depth_px, codes != IGNORED
    ids = np.where(known, codes // len(truth.is_foreground), 0)
    rims = np.unique(np.concatenate([ids[0], ids[-1], ids[:, 0], ids[:, -1]]))
    numbers, own = np.unique(ids, return_inverse=True)
    deepest = np.zeros(len(numbers), np.float32)
    np.maximum.at(deepest, own.ravel(), (parts.depth[0] * depth_px).numpy().ravel())
    boxes = ndimage.find_objects(own.reshape(shape) + 1)
    widths = np.array([max(side.stop - side.start for side in box) for box in boxes])
    is_whole = ~np.isin(numbers, rims) & (numbers > 0) & (deepest > 0)
    return deepest[is_whole], np.bincount(own.ravel())[is_whole], widths[is_whole]
