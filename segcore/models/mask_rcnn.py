"""Mask R-CNN: tiles (N, C, Y, X) -> objects, one by one -> logits (N, K + 2, Y, X) of classes, border and depth.

    ResNet -> pyramid -> regions that may hold an object -> box, class and mask of each

He et al., "Mask R-CNN" (2017), over a feature pyramid (Lin et al., 2017), by torchvision's detector, through the extra
`zoo`. What becomes of the objects of a tile is told in `segcore.models.found`. Names of the weights are torchvision's,
but for the prefix `backbone.`, so that files of its `maskrcnn_resnet50_fpn` fit (`segcore train --init`).
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, Self

import torch
from pydantic import Field
from torch import nn

from segcore.instances.rule import NUM_PARTS
from segcore.models.arguments import ModelArguments
from segcore.models.borrowed import on_any_device
from segcore.models.found import Found, logits_of
from segcore.models.resnet import ResNet, ResNetName
from segcore.models.zoo import extra_library

RATIOS = (0.5, 1.0, 2.0)
"""Height by width of the regions that are tried at each place."""
AT_ONCE = 32
"""Masks that are made at once, where nothing is learnt: memory does not depend on how many objects a tile has."""
_OLDER_NAMES: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"^(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$": r"\1.0.\2",
    r"^rpn\.head\.conv\.(weight|bias)$": r"rpn.head.conv.0.0.\1",
    r"^(roi_heads\.mask_head)\.mask_fcn(\d)\.": lambda found: f"{found[1]}.{int(found[2]) - 1}.0.",
}
"""In files that torchvision published before it made blocks of these layers."""


class MaskRCNNArguments(ModelArguments):
    """What a Mask R-CNN is built from."""

    encoder: ResNetName = "resnet50"
    """ResNet of 18, 34 or 50 layers."""
    features: int = Field(default=256, ge=8, multiple_of=8)
    """Channels of the pyramid and of the masks' convolutions."""
    hidden: int = Field(default=1024, ge=8)
    """Features from which the box and class of a region are told."""
    anchors: tuple[int, int, int, int, int] = (8, 16, 32, 64, 128)
    """Sides in px of the regions that are tried, on features at 1/4, 1/8, 1/16, 1/32 and 1/64: about as large as the
    objects are."""
    proposals: int = Field(default=1000, ge=1)
    """Regions of a tile that are looked at closely."""
    sampled: int = Field(default=256, ge=4)
    """Of them, in training, so many teach in each tile."""
    max_objects: int = Field(default=500, ge=1)
    """Of a tile."""
    min_score: float = Field(default=0.5, ge=0, lt=1)
    """Objects that are less sure are left out."""
    max_overlap: float = Field(default=0.5, gt=0, le=1)
    """Of two boxes of one class that overlap by more (intersection by union) the surer one stays."""
    background: int = Field(default=0, ge=0)
    """Number of the class of what is no object; follows from the data."""


class MaskRCNN(nn.Module):
    """Encoder, pyramid and torchvision's heads."""

    def __init__(self, arguments: MaskRCNNArguments) -> None:
        super().__init__()
        detection = extra_library("torchvision.models.detection", "mask_rcnn")
        ops = extra_library("torchvision.ops.feature_pyramid_network", "mask_rcnn")
        self.encoder = ("body",)
        self.stride = 64
        self.sees_whole_tile = True
        self.num_classes = max(2, arguments.num_classes - NUM_PARTS)
        if arguments.background >= self.num_classes:
            raise ValueError(f"background {arguments.background}: expected a number below {self.num_classes}")
        self.background = arguments.background
        self._rows = (self.background, *(row for row in range(self.num_classes) if row != self.background))
        self.body = ResNet(arguments.encoder, arguments.in_channels)
        width = arguments.features
        self.fpn = ops.FeaturePyramidNetwork(list(self.body.channels[1:]), width, ops.LastLevelMaxPool())
        self._images = detection.image_list.ImageList
        heads = _heads(detection, arguments, self.num_classes)
        self.rpn, self.roi_heads = heads.rpn, heads.roi_heads
        self.rpn.__class__ = _sparing(detection.rpn.RegionProposalNetwork)

    def forward(self, tiles_ncyx: torch.Tensor) -> torch.Tensor:
        """Logits (N, K + 2, Y, X), float32, of normalised tiles (N, C, Y, X); y and x are multiples of the stride."""
        sides = (tiles_ncyx.shape[2], tiles_ncyx.shape[3])
        told = (logits_of(found, sides, self.num_classes, self.background) for found in self.found(tiles_ncyx))
        return torch.stack(list(told))

    def found(self, tiles_ncyx: torch.Tensor) -> list[Found]:
        """The objects of each of normalised tiles (N, C, Y, X); in evaluation mode."""
        told, _ = self._looked(tiles_ncyx, None)
        rows = torch.tensor(self._rows, device=tiles_ncyx.device)
        return [Found(each["boxes"], rows[each["labels"]], each["masks"][:, 0]) for each in told]

    def loss(self, tiles_ncyx: torch.Tensor, targets: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
        """The sum of the five losses of the paper, a scalar; in training mode.

        Args:
            tiles_ncyx: normalised.
            targets: of each tile, of n objects: `boxes` (n, 4) as `Found` has them, `rows` (n,), class numbers, and
                `masks` (n, Y, X), uint8; and `unknown` (Y, X), bool: where nobody knows whether there is an object.
        """
        labels = torch.tensor(self._rows, device=tiles_ncyx.device).argsort()
        _, losses = self._looked(tiles_ncyx, [{**each, "labels": labels[each["rows"]]} for each in targets])
        return torch.stack(list(losses.values())).sum()

    def _looked(self, tiles: torch.Tensor, targets: list[dict[str, torch.Tensor]] | None) -> tuple[Any, Any]:
        names = ("0", "1", "2", "3")
        pyramid = self.fpn(OrderedDict(zip(names, self.body(tiles.float())[1:], strict=True)))
        sides = [(tiles.shape[2], tiles.shape[3])] * len(tiles)
        with torch.autocast(tiles.device.type, enabled=False):  # px of a box need float32's digits
            features = OrderedDict((name, values.float()) for name, values in pyramid.items())
            regions, of_regions = self.rpn(self._images(tiles, sides), features, targets)
            if targets is not None:
                pairs = zip(regions, targets, strict=True)
                regions = [boxes[~in_middle(each["unknown"], boxes)] for boxes, each in pairs]
            told, of_objects = self.roi_heads(features, regions, sides, targets)
        return told, {**of_regions, **of_objects}

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """On another device; weights stay float32, which px of a box need."""
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        return self if device is None else super().to(device)

    def renamed(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights as torchvision publishes them, by their names in this model."""
        found = {}
        for name, value in tensors.items():
            own = name.removeprefix("backbone.")
            for older, newer in _OLDER_NAMES.items():
                own = re.sub(older, newer, own)
            found[own] = value
        return found


def in_middle(marked_yx: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Whether the pixel in the middle of each box (n, 4) is marked; (n,)."""
    sides = torch.tensor(marked_yx.shape, device=boxes.device).flip(0)
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).long().clamp_min(0).minimum(sides - 1).T
    return marked_yx[y, x]


def _sparing(regions: Any) -> Any:
    """Torchvision's network of regions, but none teaches background where nobody knows what there is."""

    class Sparing(regions):  # type: ignore[misc]
        def assign_targets_to_anchors(self, anchors: Any, targets: Any) -> Any:
            labels, boxes = super().assign_targets_to_anchors(anchors, targets)
            for own, places, each in zip(labels, anchors, targets, strict=True):
                own[(own == 0) & in_middle(each["unknown"], places)] = -1  # so it leaves out of its own accord too
            return labels, boxes

    return Sparing


def _in_parts(layers: Any) -> Any:
    """Layers that take a few of the regions (n, C, y, x) at a time, but in training."""

    class InParts(layers):  # type: ignore[misc]
        def forward(self, regions: torch.Tensor) -> torch.Tensor:
            if self.training or len(regions) <= AT_ONCE:
                return super().forward(regions)  # type: ignore[no-any-return]
            return torch.cat([super(InParts, self).forward(part) for part in torch.split(regions, AT_ONCE)])

    return InParts


def mask_rcnn(arguments: MaskRCNNArguments) -> MaskRCNN:
    """Built on any device."""
    return on_any_device(partial(MaskRCNN, arguments))


def _heads(detection: Any, arguments: MaskRCNNArguments, num_classes: int) -> Any:
    """Torchvision's detector, of which the parts behind the pyramid are taken."""
    width, hidden, proposals = arguments.features, arguments.hidden, arguments.proposals
    faster, mask = detection.faster_rcnn, detection.mask_rcnn
    return detection.MaskRCNN(
        SimpleNamespace(out_channels=width),
        rpn_anchor_generator=detection.anchor_utils.AnchorGenerator(
            tuple((side,) for side in arguments.anchors), (RATIOS,) * len(arguments.anchors)
        ),
        rpn_pre_nms_top_n_train=2 * proposals,
        rpn_pre_nms_top_n_test=2 * proposals,
        rpn_post_nms_top_n_train=proposals,
        rpn_post_nms_top_n_test=proposals,
        rpn_batch_size_per_image=arguments.sampled,
        box_head=faster.TwoMLPHead(width * 7**2, hidden),
        box_predictor=faster.FastRCNNPredictor(hidden, num_classes),
        box_batch_size_per_image=arguments.sampled,
        box_score_thresh=arguments.min_score,
        box_nms_thresh=arguments.max_overlap,
        box_detections_per_img=arguments.max_objects,
        mask_head=_in_parts(mask.MaskRCNNHeads)(width, (width,) * 4, 1),
        mask_predictor=_in_parts(mask.MaskRCNNPredictor)(width, width, num_classes),
    )
