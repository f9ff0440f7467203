"""verify_package: each kind of damage is named, all of it at once, and a sound package has none."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from flows.cli import app
from segcore.classes import default_classes
from segcore.models import ModelConfig, build_model
from segcore.models.check import verify_package
from segcore.models.package import InputContract, ModelPackage, PackageInfo, write_package
from segcore.store import Workspace

RUNNER = CliRunner()
FILES = ("README.md", "example.png", "model.json", "model.safetensors")


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "ws"), create=True)


@pytest.fixture
def package(ws: Workspace) -> ModelPackage:
    torch.manual_seed(0)
    config = ModelConfig(architecture="unet", arguments={"in_channels": 2, "num_classes": 2, "channels": [4, 8]})
    contract = InputContract(
        bands=("red", "nir"), dtype="uint8", spacing=None, mean=(1.0, 2.0), std=(1.0, 2.0), stride=2
    )
    info = PackageInfo(name="cells", architecture=config, contract=contract, classes=default_classes(2))
    return write_package(ws.objects, "models", info, build_model(config).state_dict(), {"example.png": b"a picture"})


def problems(package: ModelPackage) -> list[str]:
    return [problem.what for problem in verify_package(None, package.folder)]


def resummed(folder: Path) -> None:
    """Make the sums right again after a change."""
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in FILES]
    (folder / "SHA256SUMS").write_text("".join(lines))


def changed(package: ModelPackage, change: dict[str, Any]) -> None:
    """Another model.json, whose sums are right."""
    path = Path(package.folder) / "model.json"
    values = json.loads(path.read_text())
    for place, value in change.items():
        *above, last = place.split(".")
        inner = values
        for key in above:
            inner = inner[key]
        inner[last] = value
    path.write_text(json.dumps(values))
    resummed(path.parent)


def test_a_sound_package_has_no_problems_by_id_path_or_uri(ws: Workspace, package: ModelPackage) -> None:
    for model in (package.model_id, package.folder, f"file://{package.folder}"):
        assert verify_package(ws, model) == []


def test_every_damaged_file_is_named_the_picture_too(package: ModelPackage) -> None:
    for name in ("README.md", "example.png"):
        (Path(package.folder) / name).write_bytes(b"changed")
    found = problems(package)
    assert [what.split()[0] for what in found] == ["README.md", "example.png"]
    (Path(package.folder) / "example.png").unlink()
    assert "example.png is damaged or was changed" in problems(package)[1]
    assert "got no such file" in problems(package)[1]


def test_a_picture_that_the_sums_do_not_name_is_a_problem(package: ModelPackage) -> None:
    sums = Path(package.folder) / "SHA256SUMS"
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if "example.png" not in line))
    assert len(problems(package)) == 1
    assert "example.png" in problems(package)[0]


def test_weights_that_are_not_finite_and_do_not_fit_are_all_named(package: ModelPackage) -> None:
    path = Path(package.folder) / "model.safetensors"
    state = safetensors.torch.load(path.read_bytes())
    state["head.bias"][0] = float("nan")
    state["head.weight"] = torch.zeros(3, 4, 1, 1)
    path.write_bytes(safetensors.torch.save(state))
    resummed(path.parent)
    assert problems(package) == [
        "weight head.bias holds NaN or Inf: train the model again",
        "weight head.weight does not fit unet: expected shape (2, 4, 1, 1), got (3, 4, 1, 1)",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"contract.std": [1.0, 0.0]}, "std must be positive"),
        ({"architecture.architecture": "unett"}, "no network is called 'unett'; did you mean unet?"),
        (
            {"classes": [c.model_dump() for c in default_classes(3)]},
            r"logits of shape \(1, 3, 8, 8\).*got \(1, 2, 8, 8\)",
        ),
        ({"contract.stride": 1, "contract.halo_px": 0, "contract.tile_px": 1}, "multiple of the model's 2, got 1"),
        (
            {"contract.bands": ["a"], "contract.mean": [0.0], "contract.std": [1.0]},
            r"takes no tile of shape \(1, 1, 8, 8\)",
        ),
    ],
)
def test_model_json_that_does_not_suit_the_model_is_one_line(
    package: ModelPackage, change: dict[str, Any], words: str
) -> None:
    changed(package, change)
    found = problems(package)
    assert len(found) == 1
    assert "\n" not in found[0]
    assert re.search(words, found[0]), found[0]


def test_logits_that_overflow_are_found_though_every_weight_is_finite(ws: Workspace) -> None:
    config = ModelConfig(architecture="conv1", arguments={"in_channels": 1, "num_classes": 2})
    contract = InputContract(bands=("grey",), dtype="uint8", spacing=None, mean=(0.0,), std=(1.0,))
    info = PackageInfo(name="big", architecture=config, contract=contract, classes=default_classes(2))
    state = {"conv.weight": torch.full((2, 1, 1, 1), 3e38), "conv.bias": torch.full((2,), 3e38)}
    package = write_package(ws.objects, "models", info, state)
    assert problems(package) == [
        "the logits of a tile of noise hold NaN or Inf, though no weight does: train the model again"
    ]


def test_verify_command_takes_a_package_alone(package: ModelPackage) -> None:
    done = RUNNER.invoke(app, ["verify", "--model", package.folder])
    assert (done.exit_code, done.stdout.split(" in ")[0]) == (0, "verify: 0 problems")
    (Path(package.folder) / "README.md").write_text("other")
    done = RUNNER.invoke(app, ["verify", "--model", package.folder, "--json"])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["state"]) == (1, "failed")
    assert found["problems"][0]["what"].startswith("README.md is damaged")
    assert RUNNER.invoke(app, ["verify", "--model", "no-such"]).exit_code == 1
    done = RUNNER.invoke(app, ["verify"])
    assert (done.exit_code, "--workspace is missing" in done.stderr) == (2, True)
