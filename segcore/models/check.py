"""Check: everything that is wrong with a model package, not only the first thing; *package -> problems*.

Nothing in the package is run but its own model, built here by name, on one tile of noise.
"""

import torch
from pydantic import BaseModel, ConfigDict

from segcore.errors import ContractError
from segcore.models.package import (
    INFO,
    WEIGHTS,
    ModelPackage,
    find_files,
    info_of,
    read_package,
    sum_problems,
    weight_problems,
)
from segcore.store import Workspace


class PackageProblem(BaseModel):
    """One thing that is not as it should be."""

    model_config = ConfigDict(frozen=True)

    model: str
    """As it was asked for."""
    what: str
    """The file or weight, and what is wrong with it."""


def verify_package(ws: Workspace | None, model: str) -> list[PackageProblem]:
    """Check sums, model.json, that the weights are finite and fit, and that the model answers a tile.

    Args:
        ws: workspace in which `model` may be an id.
        model: model id in the workspace, or the path or URI of a package folder.

    Returns:
        Nothing for a sound package.
    """
    return [PackageProblem(model=model, what=what) for what in _problems(ws, model)]


def _problems(ws: Workspace | None, model: str) -> list[str]:
    try:
        files = find_files(ws, model).content
    except ContractError as error:
        return [str(error)]
    found = list(sum_problems(files))
    try:
        info = info_of(files[INFO])
    except ValueError as error:
        return [*found, str(error)]
    found += weight_problems(info.architecture, files[WEIGHTS])
    return found or answer_problems(read_package(ws, model))


def answer_problems(package: ModelPackage) -> list[str]:
    """What is wrong with the logits of one tile of noise, as large as the smallest tile that has a middle."""
    contract, num_logits = package.contract, package.num_logits
    model = package.load_weights()
    if contract.stride % int(model.stride):  # type: ignore[arg-type]
        return [f"{INFO}: expected a stride that is a multiple of the model's {model.stride}, got {contract.stride}"]
    sides = tuple(4 * step for step in contract.strides)
    noise = torch.randn(1, len(contract.bands), *sides, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            logits = model(noise)
    except (RuntimeError, AssertionError) as error:
        return [f"the model takes no tile of shape {tuple(noise.shape)} that {INFO} tells: {_one_line(error)}"]
    expected = (1, num_logits, *sides)
    if tuple(logits.shape) != expected:
        return [
            f"expected logits of shape {expected} for the {len(package.classes)} classes of {INFO}, got "
            f"{tuple(logits.shape)}"
        ]
    if not torch.isfinite(logits).all():
        return ["the logits of a tile of noise hold NaN or Inf, though no weight does: train the model again"]
    return []


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
