"""Model package: the folder that is all a model needs to run anywhere; training -> *package* -> prediction.

    <model_id>/
        model.safetensors   the weights, and nothing that could run
        model.json          `PackageInfo`: architecture, input contract, classes, scores, where it came from
        README.md           the model card, for people
        SHA256SUMS          of the three above; written last, so that a package without it is not finished

The SHA-256 of SHA256SUMS is the package's digest, and the model's id is its name and the first 8 hex digits of that:
a package never changes after training, and no file in it holds the id.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import nn

from segcore.classes import ClassInfo
from segcore.errors import ConfigError, ContractError
from segcore.models import ModelConfig, build_model
from segcore.models.card import model_card
from segcore.models.info import InputContract, PackageInfo
from segcore.store import Objects, Workspace

__all__ = ["InputContract", "ModelPackage", "PackageInfo", "read_package", "write_package"]

WEIGHTS = "model.safetensors"
INFO = "model.json"
CARD = "README.md"
SUMS = "SHA256SUMS"
_FILES = (WEIGHTS, INFO, CARD)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class ModelPackage:
    """A model package whose sums are right and whose weights fit its architecture."""

    model_id: str
    digest: str
    """SHA-256 of SHA256SUMS, hex: of all that decides what the model answers."""
    folder: str
    """Where it was read from or written to, to show to the user."""
    info: PackageInfo
    _weights: bytes = field(repr=False)

    @property
    def architecture(self) -> ModelConfig:
        return self.info.architecture

    @property
    def contract(self) -> InputContract:
        return self.info.contract

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return self.info.classes

    def load_weights(self, device: str | torch.device = "cpu") -> nn.Module:
        """A model of its own with these weights on `device`, in evaluation mode, float32."""
        return _loaded(self.architecture, self._weights, self.folder).to(device)


def write_package(
    objects: Objects, prefix: str, info: PackageInfo, weights: Mapping[str, torch.Tensor]
) -> ModelPackage:
    """Write a package as `<prefix>/<model_id>/`; the same content twice is the same package.

    Args:
        objects: the workspace's objects.
        prefix: key of the folder of packages, "models" in a workspace.
        info: what model.json will say.
        weights: the model's state, by the names of its `state_dict`.

    Raises:
        ContractError: if the weights don't fit the architecture, or are not finite.
    """
    tensors = {name: value.detach().to("cpu").contiguous() for name, value in sorted(weights.items())}
    files = {
        WEIGHTS: safetensors.torch.save(tensors),
        INFO: (json.dumps(info.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode(),
        CARD: model_card(info).encode(),
    }
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())).encode()
    model_id = _model_id(info.name, sums)
    folder = f"{prefix.rstrip('/')}/{model_id}"
    _loaded(info.architecture, files[WEIGHTS], folder)
    for name, data in files.items():
        objects.put(f"{folder}/{name}", data)
    objects.put(f"{folder}/{SUMS}", sums)
    return ModelPackage(model_id, hashlib.sha256(sums).hexdigest(), objects.describe(folder), info, files[WEIGHTS])


def unwritten(info: PackageInfo, weights: Mapping[str, torch.Tensor]) -> ModelPackage:
    """A package that is in memory alone, of a model that is still trained; its id says nothing."""
    tensors = {name: value.detach().to("cpu").contiguous() for name, value in sorted(weights.items())}
    return ModelPackage(f"{info.name}-unwritten", "", info.name, info, safetensors.torch.save(tensors))


def read_package(ws: Workspace | None, model: str) -> ModelPackage:
    """Read a package and check all of it; nothing in it is ever run.

    Args:
        ws: workspace in which `model` may be an id.
        model: model id in the workspace, or the path or URI of a package folder.

    Raises:
        ContractError: if there is none, or it is unfinished, damaged, or its weights are not finite or don't fit.
    """
    folder, files = _find(ws, model)
    sums = files[SUMS]
    _check_sums(folder, files)
    try:
        info = PackageInfo.model_validate_json(files[INFO])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ContractError(f"model package {folder}: {INFO}: {place}: {first['msg']}") from error
    _loaded(info.architecture, files[WEIGHTS], folder)
    digest = hashlib.sha256(sums).hexdigest()
    return ModelPackage(_model_id(info.name, sums), digest, folder, info, files[WEIGHTS])


def _model_id(name: str, sums: bytes) -> str:
    return f"{name}-{hashlib.sha256(sums).hexdigest()[:8]}"


def _find(ws: Workspace | None, model: str) -> tuple[str, dict[str, bytes]]:
    """The package's place, for the user, and its files: from the workspace first, then as a folder or URI."""
    names = (*_FILES, SUMS)
    if ws is not None and _ID.fullmatch(model):
        found = {name: ws.objects.get(f"models/{model}/{name}") for name in names}
        if any(data is not None for data in found.values()):
            return _all_there(ws.describe(f"models/{model}"), found)
    if "://" in model and not model.startswith("file://"):
        objects = Objects(model)
        return _all_there(model, {name: objects.get(name) for name in names})
    path = Path(model.removeprefix("file://"))
    if path.is_dir():
        found = {name: (path / name).read_bytes() if (path / name).is_file() else None for name in names}
        return _all_there(str(path), found)
    raise ContractError(f"model '{model}': {_where_not_found(ws)}")


def _where_not_found(ws: Workspace | None) -> str:
    if ws is None:
        return "expected the folder of a model package, found none of that path"
    ids = [name for name in ws.objects.folders("models") if ws.objects.size(f"models/{name}/{SUMS}") is not None]
    there = f"models there: {', '.join(ids)}" if ids else "no model there yet, train one first"
    return f"expected an id in workspace {ws.uri} or the folder of a package, found neither; {there}"


def _all_there(folder: str, found: Mapping[str, bytes | None]) -> tuple[str, dict[str, bytes]]:
    missing = [name for name, data in found.items() if data is None]
    if missing:
        raise ContractError(
            f"model package {folder}: expected {', '.join(found)}, {', '.join(missing)} missing; "
            "copy the package again, or train it again"
        )
    return folder, {name: data for name, data in found.items() if data is not None}


def _check_sums(folder: str, files: Mapping[str, bytes]) -> None:
    """Every file has the sum that SHA256SUMS names, and it names no other file."""
    expected: dict[str, str] = {}
    for line in files[SUMS].decode("utf-8", "replace").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match is None or match[2] not in _FILES:
            raise ContractError(f"model package {folder}: {SUMS} has a line that is no sum of {', '.join(_FILES)}")
        expected[match[2]] = match[1]
    for name in _FILES:
        actual = hashlib.sha256(files[name]).hexdigest()
        if expected.get(name) != actual:
            raise ContractError(
                f"model package {folder}: {name} is damaged or was changed: expected SHA-256 "
                f"{expected.get(name, 'in ' + SUMS)}, got {actual}; copy the package again"
            )


def _loaded(architecture: ModelConfig, weights: bytes, folder: str) -> nn.Module:
    """The architecture with these weights, in evaluation mode; refused if they don't fit or are not finite."""
    try:
        tensors = safetensors.torch.load(weights)
    except SafetensorError as error:
        raise ContractError(f"model package {folder}: {WEIGHTS} cannot be read: {error}") from error
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ContractError(f"model package {folder}: weight {name} holds NaN or Inf: train the model again")
    try:
        with torch.device("meta"):  # no random weights: they would be overwritten, and drawing them shifts the seed
            model = build_model(architecture)
    except ConfigError as error:
        raise ContractError(f"model package {folder}: {error}") from error
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    actual = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            raise ContractError(
                f"model package {folder}: weight {name} does not fit {architecture.architecture}: "
                f"expected shape {expected.get(name)}, got {actual.get(name)}"
            )
    model.to_empty(device="cpu").load_state_dict(tensors)
    return model.eval()
