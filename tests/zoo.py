"""The extra `zoo` in tests: skipped where it is missing; beside a CPU torch its Python layer is made to work."""

import importlib
import importlib.util
import warnings

import pytest
import torch

OPERATORS: list[torch.library.Library] = []
"""Kept: what they define goes with them."""


def load_zoo() -> None:
    """Import the libraries. The registry's torchvision lacks its compiled part beside a CPU torch."""
    for name in ("segmentation_models_pytorch", "timm", "torchvision"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"extra `zoo` is not installed: {name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module("torchvision")
        except RuntimeError:
            put_operators_in_place()
        importlib.import_module("segmentation_models_pytorch")


def put_operators_in_place() -> None:
    """Torchvision's two operators by name alone: no network here calls them."""
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    OPERATORS.append(operators)
