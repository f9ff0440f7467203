"""MLM: a model package -> *a STAC item*, so that catalogues of scenes can hold the models made for them too.

After the Machine Learning Model extension 1.4 (https://github.com/stac-extensions/mlm) of STAC 1.1, with the file
extension's checksums. A model is not of one place: geometry is null, and there is no bbox.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import torch

from segcore.models import find_architecture
from segcore.models.info import InputContract
from segcore.models.package import ModelPackage

ITEM_SUFFIX = ".json"
EXTENSIONS = (
    "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
)
"""As the literature writes them."""
DIMENSIONS = {"t": "time", "z": "depth", "y": "height", "x": "width"}


class Artifact(NamedTuple):
    """A file that holds the model."""

    path: str
    """Path or URI."""
    data: bytes


def mlm_item(package: ModelPackage, artifacts: Sequence[Artifact], folder: str, created: datetime) -> dict[str, Any]:
    """The item as JSON.

    Args:
        package: the model.
        artifacts: its files; the suffix says what each is.
        folder: in which the item will lie: links to local files are relative to it.
        created: becomes the item's time; UTC.
    """
    training = package.info.training
    bands = [{"name": name} for name in package.contract.bands]  # STAC 1.1 wants them at the assets
    init = training.get("init_digest")
    properties = {
        "datetime": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "description": f"Semantic segmentation into {', '.join(info.name for info in package.classes)}.",
        "mlm:name": package.model_id if package.model_id[0].isalpha() else f"model-{package.model_id}",
        "mlm:architecture": find_architecture(package.architecture.architecture).title,
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": "PyTorch",
        "mlm:framework_version": str(training.get("torch_version", torch.__version__)),
        "mlm:total_parameters": sum(weight.numel() for weight in package.load_weights().parameters()),
        "mlm:pretrained": init is not None,
        "mlm:pretrained_source": None,
        "mlm:accelerator": None,
        "mlm:input": [_input(package.contract)],
        "mlm:output": [_output(package)],
        "mlm:hyperparameters": _hyperparameters(package),
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(EXTENSIONS),
        "id": package.model_id,
        "geometry": None,
        "properties": properties,
        "links": [],
        "assets": {name: {**asset, "bands": bands} for name, asset in (_asset(each, folder) for each in artifacts)},
    }


def _input(contract: InputContract) -> dict[str, Any]:
    sides = ", ".join(f"{axis} of {step}" for axis, step in zip(contract.axes, contract.strides, strict=True))
    stretched = "Each image is stretched to the range of its type first. " if contract.stretch else ""
    return {
        "name": "pixels",
        "description": f"{stretched}Pixels were {contract.dtype}; sides are multiples: {sides}.",
        "bands": list(contract.bands),
        "input": {
            "shape": [-1, len(contract.bands), *_shape(contract)],
            "dim_order": ["batch", "channel", *(DIMENSIONS[axis] for axis in contract.axes)],
            "data_type": "float32",
        },
        "value_scaling": [
            {"type": "z-score", "mean": mean, "stddev": std}
            for mean, std in zip(contract.mean, contract.std, strict=True)
        ],
        "resize_type": None,
        "pre_processing_function": None,
    }


def _shape(contract: InputContract) -> list[int]:
    """Sides, -1 = free; the files of a model of sequences take so many frames."""
    return [(contract.frames or -1) if axis == "t" else -1 for axis in contract.axes]


def _output(package: ModelPackage) -> dict[str, Any]:
    num_classes, is_more = len(package.classes), package.info.instances is not None
    largest = f"the largest of the first {num_classes}" if is_more else "the largest"
    behind = " The two behind them are border and depth of objects, before a sigmoid." if is_more else ""
    return {
        "name": "logits",
        "description": f"Before softmax; {largest} is the pixel's class.{behind}",
        "tasks": ["semantic-segmentation"],
        "result": {
            "shape": [-1, package.num_logits, *_shape(package.contract)],
            "dim_order": ["batch", "class", *(DIMENSIONS[axis] for axis in package.contract.axes)],
            "data_type": "float32",
        },
        "classification:classes": [
            {
                "value": info.id,
                "name": re.sub(r"[^0-9A-Za-z_-]+", "-", info.name) or str(info.id),  # the extension allows no others
                "description": info.name,
                "color_hint": bytes(info.color).hex().upper(),
            }
            for info in package.classes
        ],
        "post_processing_function": None,
    }


def _hyperparameters(package: ModelPackage) -> dict[str, Any]:
    """How tiles are cut, what the pixel size was, and how it was trained; names as the extension allows them."""
    contract = package.contract.model_dump(mode="json", exclude={"axes", "bands", "mean", "std"})
    found = {**contract, **package.architecture.arguments, "training": package.info.training, "seed": package.info.seed}
    return {re.sub(r"[^0-9A-Za-z_.-]", "_", name): value for name, value in found.items()}


def _asset(artifact: Artifact, folder: str) -> tuple[str, dict[str, Any]]:
    kind = artifact.path.rpartition(".")[2]
    name, told = {
        "onnx": ("onnx", {
            "title": "ONNX graph",
            "description": "Takes the image's own pixel values: the value scaling is inside.",
            "type": "application/octet-stream; framework=onnx",
            "roles": ["mlm:model", "mlm:compiled"],
            "mlm:artifact_type": "onnx",
            "mlm:framework": "ONNX",
        }),
        "pt2": ("program", {
            "title": "torch.export program",
            "description": "Takes the image's own pixel values: the value scaling is inside.",
            "type": "application/octet-stream; framework=pytorch",
            "roles": ["mlm:model", "mlm:compiled"],
            "mlm:artifact_type": "torch.export",
        }),
        "safetensors": ("weights", {
            "title": "Weights",
            "description": "For the architecture as segcore builds it; pixels are scaled before.",
            "type": "application/octet-stream; framework=pytorch",
            "roles": ["mlm:model", "mlm:weights"],
            "mlm:artifact_type": "safetensors.torch.save_file",
        }),
    }[kind]  # fmt: skip
    checksum = f"1220{hashlib.sha256(artifact.data).hexdigest()}"  # multihash: 0x12 = SHA-256, of 0x20 bytes
    return name, {
        "href": _href(artifact.path, folder), **told, "file:size": len(artifact.data), "file:checksum": checksum,
    }  # fmt: skip


def _href(path: str, folder: str) -> str:
    """Relative to the item, if both are local or in one folder; else as it is."""
    if "://" not in path and "://" not in folder:
        relative = os.path.relpath(path, folder).replace(os.sep, "/")
        return relative if relative.startswith("../") else f"./{relative}"
    parent, _, name = path.rpartition("/")
    return f"./{name}" if parent == folder else path
