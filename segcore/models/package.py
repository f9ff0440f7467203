"""Model package: the folder that is all a model needs to run anywhere; training -> *package* -> prediction.

    <model_id>/
        model.safetensors   the weights, and nothing that could run
        model.json          `PackageInfo`: architecture, input contract, classes, scores, where it came from
        README.md           the model card, for people
        drift.json          statistics of the training images, to hold new ones against (`segcore.drift`); if it has any
        example.png         a part of a held-out image, its target and the model's mask; where there was one
        SHA256SUMS          of those above; written last, so that a package without it is not finished

The SHA-256 of SHA256SUMS is the package's digest, and the model's id is its name and the first 8 hex digits of that:
a package never changes after training, and no file in it holds the id.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import nn

from segcore.classes import ClassInfo
from segcore.errors import ConfigError, ContractError
from segcore.models import ModelConfig, build_model, weightless
from segcore.models.borrowed import stores_all
from segcore.models.card import PICTURE, model_card
from segcore.models.image_norm import has_image_norm
from segcore.models.info import InputContract, PackageInfo
from segcore.store import Objects, Workspace

__all__ = [
    "InputContract",
    "ModelPackage",
    "PackageFiles",
    "PackageInfo",
    "find_files",
    "info_of",
    "read_package",
    "sum_problems",
    "weight_problems",
    "write_package",
]

WEIGHTS = "model.safetensors"
INFO = "model.json"
CARD = "README.md"
SUMS = "SHA256SUMS"
DRIFT = "drift.json"
_FILES = (WEIGHTS, INFO, CARD)
"""What every package has."""
_OPTIONAL = (DRIFT, PICTURE)
"""What it may have; one without, as older ones are, is whole too."""
_NAMES = (*_FILES, *_OPTIONAL)
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
    weights: bytes = field(repr=False)
    """Of model.safetensors."""
    drift: bytes | None = field(default=None, repr=False)
    """Of drift.json, where there is one."""

    @property
    def architecture(self) -> ModelConfig:
        return self.info.architecture

    @property
    def contract(self) -> InputContract:
        return self.info.contract

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return self.info.classes

    @property
    def num_logits(self) -> int:
        return self.info.num_logits

    @cached_property
    def adapts(self) -> bool:
        """Whether the model has image norms, which are to be adapted to each image."""
        return has_image_norm(weightless(self.architecture))

    def load_weights(self, device: str | torch.device = "cpu") -> nn.Module:
        """A model of its own with these weights on `device`, in evaluation mode, float32."""
        model = weightless(self.architecture)
        if stores_all(model):
            model = model.to_empty(device="cpu")
        else:
            with torch.random.fork_rng(devices=[]):
                model = build_model(self.architecture)
        model.load_state_dict(safetensors.torch.load(self.weights))
        return model.eval().to(device)


class PackageFiles(NamedTuple):
    """What lies in a package's folder, nothing of it checked yet."""

    folder: str
    """Its place, to show to the user."""
    content: dict[str, bytes]
    """By name: all of a package's files, also those that it may have, and the sums."""


def write_package(
    objects: Objects,
    prefix: str,
    info: PackageInfo,
    weights: Mapping[str, torch.Tensor],
    beside: Mapping[str, bytes] | None = None,
) -> ModelPackage:
    """Write a package as `<prefix>/<model_id>/`; the same content twice is the same package.

    Args:
        objects: the workspace's objects.
        prefix: key of the folder of packages, "models" in a workspace.
        info: what model.json will say.
        weights: the model's state, by the names of its `state_dict`.
        beside: by name, what a package may have: drift.json, and a PNG for the card, of what the model does.

    Raises:
        ContractError: if the weights don't fit the architecture, or are not finite.
    """
    tensors = {name: value.detach().to("cpu").contiguous() for name, value in sorted(weights.items())}
    files = {
        WEIGHTS: safetensors.torch.save(tensors),
        INFO: (json.dumps(info.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode(),
        CARD: model_card(info, PICTURE in (beside or {})).encode(),
        **(beside or {}),
    }
    assert files.keys() <= set(_NAMES), f"a package has {_NAMES}, got {sorted(files)}"
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())).encode()
    model_id = _model_id(info.name, sums)
    folder = f"{prefix.rstrip('/')}/{model_id}"
    _refuse_first(folder, weight_problems(info.architecture, files[WEIGHTS]))
    for name, data in files.items():
        objects.put(f"{folder}/{name}", data)
    objects.put(f"{folder}/{SUMS}", sums)
    digest = hashlib.sha256(sums).hexdigest()
    return ModelPackage(model_id, digest, objects.describe(folder), info, files[WEIGHTS], files.get(DRIFT))


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
    files = find_files(ws, model)
    _refuse_first(files.folder, sum_problems(files.content))
    try:
        info = info_of(files.content[INFO])
    except ValueError as error:
        raise ContractError(f"model package {files.folder}: {error}") from error
    _refuse_first(files.folder, weight_problems(info.architecture, files.content[WEIGHTS]))
    sums = files.content[SUMS]
    digest = hashlib.sha256(sums).hexdigest()
    weights, drift = files.content[WEIGHTS], files.content.get(DRIFT)
    return ModelPackage(_model_id(info.name, sums), digest, files.folder, info, weights, drift)


def _refuse_first(folder: str, problems: Iterator[str]) -> None:
    for problem in problems:
        raise ContractError(f"model package {folder}: {problem}")


def _model_id(name: str, sums: bytes) -> str:
    return f"{name}-{hashlib.sha256(sums).hexdigest()[:8]}"


def find_files(ws: Workspace | None, model: str) -> PackageFiles:
    """The package's files: from the workspace first, then from a folder or URI.

    Raises:
        ContractError: if there is no such package, or one of the files that all have is missing.
    """
    names = (*_NAMES, SUMS)
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


def _all_there(folder: str, found: Mapping[str, bytes | None]) -> PackageFiles:
    missing = [name for name, data in found.items() if data is None and name not in _OPTIONAL]
    if missing:
        raise ContractError(
            f"model package {folder}: expected {', '.join((*_FILES, SUMS))}, {', '.join(missing)} missing; "
            "copy the package again, or train it again"
        )
    return PackageFiles(folder, {name: data for name, data in found.items() if data is not None})


def sum_problems(files: Mapping[str, bytes]) -> Iterator[str]:
    """Where a file has not the sum that SHA256SUMS names, or that names a file which is no package's."""
    expected: dict[str, str] = {}
    for line in files[SUMS].decode("utf-8", "replace").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match is None or match[2] not in _NAMES:
            yield f"{SUMS} has a line that is no sum of {', '.join(_NAMES)}"
        else:
            expected[match[2]] = match[1]
    for name in _NAMES:
        actual = hashlib.sha256(files[name]).hexdigest() if name in files else None
        if expected.get(name) != actual:
            yield (
                f"{name} is damaged or was changed: expected SHA-256 {expected.get(name, f'in {SUMS}')}, "
                f"got {actual or 'no such file'}; copy the package again"
            )


def info_of(data: bytes) -> PackageInfo:
    """What model.json says.

    Raises:
        ValueError: one line: which field, and why not.
    """
    try:
        return PackageInfo.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{INFO}: {place}: {first['msg']}") from error


def weight_problems(architecture: ModelConfig, weights: bytes) -> Iterator[str]:
    """Why the architecture cannot take these weights: unreadable, NaN or Inf, or of another shape."""
    try:
        tensors = safetensors.torch.load(weights)
    except SafetensorError as error:
        yield f"{WEIGHTS} cannot be read: {error}"
        return
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            yield f"weight {name} holds NaN or Inf: train the model again"
    try:
        expected = {name: tuple(value.shape) for name, value in weightless(architecture).state_dict().items()}
    except ConfigError as error:
        yield str(error)
        return
    actual = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            yield (
                f"weight {name} does not fit {architecture.architecture}: "
                f"expected shape {expected.get(name)}, got {actual.get(name)}"
            )
