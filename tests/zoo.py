"""The extra `zoo` in tests: skipped where it is missing; beside a CPU torch its Python layer is made to work."""

import importlib
import importlib.util
import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F

OPERATORS: list[torch.library.Library] = []
"""Kept: what they define goes with them."""
OWN: list[Any] = []
"""Torchvision's Python for `roi_align`, which is slow unless it is compiled, for minutes."""


def load_zoo() -> None:
    """Import the libraries. The registry's torchvision lacks its compiled part beside a CPU torch."""
    for name in ("segmentation_models_pytorch", "timm"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"extra `zoo` is not installed: {name}")
    load_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("segmentation_models_pytorch")


def load_torchvision() -> None:
    """Import it alone."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("extra `zoo` is not installed: torchvision")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module("torchvision")
        except RuntimeError:
            put_operators_in_place()
            importlib.import_module("torchvision")


def put_operators_in_place() -> None:
    """Torchvision's `nms` and `roi_align` in torch's words; `qnms` by name alone."""
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operators.impl("nms", suppressed, "CPU")
    OPERATORS.append(operators)
    boxes, align = (importlib.import_module(f"torchvision.ops.{name}") for name in ("boxes", "roi_align"))
    boxes._assert_has_ops = lambda: None
    OWN.append(align._roi_align.__wrapped__)
    align._roi_align = aligned


def aligned(
    features: torch.Tensor, regions: torch.Tensor, scale: float, y: int, x: int, samples: int, half: bool
) -> torch.Tensor:
    """Means (n, C, y, x) of the cells of regions (n, 5), each of so many samples a side; 0 = enough for the largest."""
    corners = regions[:, 1:] * scale - (0.5 if half else 0.0)
    sides = (corners[:, 2:] - corners[:, :2]).clamp_min(0.0 if half else 1.0)
    if samples <= 0:
        samples = max(1, math.ceil(float(sides.max()) / min(y, x))) if len(regions) else 1
    shape, ends = (-1, y * samples, x * samples), []
    for axis, cells in ((0, x), (1, y)):
        steps = (torch.arange(cells * samples) + 0.5) / (cells * samples)
        places = corners[:, axis, None] + steps * sides[:, axis, None]
        ends.append((places + 0.5) / features.shape[3 - axis] * 2 - 1)
    grid = torch.stack([ends[0][:, None, :].expand(shape), ends[1][:, :, None].expand(shape)], dim=-1)
    own = features[regions[:, 0].long()]
    return F.avg_pool2d(F.grid_sample(own, grid.to(own.dtype), padding_mode="border", align_corners=False), samples)


def suppressed(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Indices of boxes (n, 4) that stay, the surest first: each takes away those that overlap it by more."""
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    shared = torch.minimum(boxes[:, None, 2:], boxes[:, 2:]) - torch.maximum(boxes[:, None, :2], boxes[:, :2])
    common = shared.clamp_min(0).prod(dim=2)
    overlaps = common / (area[:, None] + area - common) > iou_threshold
    stays = torch.ones(len(boxes), dtype=torch.bool)
    for k in range(len(boxes)):
        if stays[k]:
            stays[k + 1 :] &= ~overlaps[k, k + 1 :]
    return order[stays]
