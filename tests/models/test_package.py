"""Packages: what is written is what is read, and nothing damaged, unfinished or executable gets in."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from segcore.classes import default_classes
from segcore.errors import ContractError
from segcore.models import ModelConfig, build_model
from segcore.models.card import model_card
from segcore.models.package import InputContract, ModelPackage, PackageInfo, read_package, write_package
from segcore.store import Objects, Workspace

CONFIG = ModelConfig(architecture="unet", arguments={"in_channels": 2, "num_classes": 2, "channels": [4, 8]})


class Folder(Objects):
    """Objects of a local folder that remember the order in which they were put."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.create()
        self.keys: list[str] = []

    def put(self, key: str, data: bytes) -> None:
        self.keys.append(key)
        super().put(key, data)


def info(name: str = "cells") -> PackageInfo:
    contract = InputContract(
        bands=("red", "nir|x"), dtype="uint8", spacing=None, mean=(10.0, 20.0), std=(1.0, 2.0), stride=2
    )
    return PackageInfo(name=name, architecture=CONFIG, contract=contract, classes=default_classes(2), seed=3)


def written(tmp_path: Path, seed: int = 0) -> tuple[ModelPackage, Folder, torch.nn.Module]:
    torch.manual_seed(seed)
    model = build_model(CONFIG).eval()
    objects = Folder(tmp_path)
    return write_package(objects, "models", info(), model.state_dict()), objects, model


def resummed(folder: Path) -> None:
    """Make the sums right again after a change, as an attacker would."""
    names = ("README.md", "model.json", "model.safetensors")
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


def test_read_package_gives_back_the_model_and_its_contract(tmp_path: Path) -> None:
    package, _, model = written(tmp_path)
    again = read_package(None, package.folder)
    tiles = torch.randn(1, 2, 8, 8)
    assert torch.equal(again.load_weights("cpu")(tiles), model(tiles))
    assert (again.model_id, again.digest, again.info) == (package.model_id, package.digest, package.info)
    assert again.contract.mean == (10.0, 20.0)
    assert not again.load_weights("cpu").training


def test_model_id_is_the_name_and_the_digest_of_the_sums(tmp_path: Path) -> None:
    package, _, _ = written(tmp_path)
    sums = (Path(package.folder) / "SHA256SUMS").read_bytes()
    assert package.digest == hashlib.sha256(sums).hexdigest()
    assert package.model_id == f"cells-{package.digest[:8]}" == Path(package.folder).name


def test_write_package_is_repeatable_and_puts_the_sums_last(tmp_path: Path) -> None:
    first, objects, _ = written(tmp_path / "a")
    second, _, _ = written(tmp_path / "b")
    other, _, _ = written(tmp_path / "c", seed=1)
    assert first.model_id == second.model_id != other.model_id
    assert objects.keys[-1].endswith("/SHA256SUMS")
    assert len(objects.keys) == 4


def test_read_package_draws_no_random_numbers(tmp_path: Path) -> None:
    package, _, _ = written(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    read_package(None, package.folder).load_weights("cpu")
    assert torch.equal(torch.rand(1), expected)


def test_two_loaded_models_share_no_memory(tmp_path: Path) -> None:
    package, _, _ = written(tmp_path)
    first, second = package.load_weights("cpu"), package.load_weights("cpu")
    with torch.no_grad():
        next(first.parameters()).fill_(7.0)
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "README.md", "SHA256SUMS"])
def test_read_package_refuses_a_missing_file(tmp_path: Path, name: str) -> None:
    package, _, _ = written(tmp_path)
    (Path(package.folder) / name).unlink()
    with pytest.raises(ContractError, match=f"{name} missing"):
        read_package(None, package.folder)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "README.md"])
def test_read_package_refuses_one_changed_byte(tmp_path: Path, name: str) -> None:
    package, _, _ = written(tmp_path)
    path = Path(package.folder) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ContractError, match=f"{name} is damaged"):
        read_package(None, package.folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    package, _, model = written(tmp_path)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["head.bias"][0] = value
    with pytest.raises(ContractError, match=r"head.bias holds NaN or Inf"):
        write_package(Folder(tmp_path / "new"), "models", info(), state)
    assert not (tmp_path / "new" / "models").exists()
    folder = Path(package.folder)
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(state))
    resummed(folder)
    with pytest.raises(ContractError, match=r"head.bias holds NaN or Inf"):
        read_package(None, str(folder))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    package, _, _ = written(tmp_path)
    folder = Path(package.folder)
    values = json.loads((folder / "model.json").read_text())
    values["architecture"]["arguments"]["num_classes"] = 3
    (folder / "model.json").write_text(json.dumps(values))
    resummed(folder)
    with pytest.raises(ContractError, match=r"head.bias does not fit unet: expected shape \(3,\), got \(2,\)"):
        read_package(None, str(folder))


def test_read_package_never_unpickles(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    package, _, _ = written(tmp_path)
    folder = Path(package.folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    resummed(folder)
    with pytest.raises(ContractError, match=r"model.safetensors cannot be read"):
        read_package(None, str(folder))
    assert not (tmp_path / "ran").exists()


def test_sums_that_name_another_file_are_refused(tmp_path: Path) -> None:
    package, _, _ = written(tmp_path)
    sums = Path(package.folder) / "SHA256SUMS"
    sums.write_text(sums.read_text() + f"{'0' * 64}  ../secret\n")
    with pytest.raises(ContractError, match="no sum of"):
        read_package(None, str(sums.parent))


def test_read_package_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="model 'cells-0': expected the folder of a model package"):
        read_package(None, "cells-0")


def test_model_card_escapes_names_from_outside(tmp_path: Path) -> None:
    package, _, _ = written(tmp_path)
    card = (Path(package.folder) / "README.md").read_text()
    assert "red, nir\\|x" in card
    assert package.model_id not in card


def test_read_package_finds_an_id_in_the_workspace_and_says_which_there_are(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    package = write_package(ws.objects, "models", info(), build_model(CONFIG).state_dict())
    assert read_package(ws, package.model_id).digest == package.digest
    assert read_package(ws, package.model_id).folder == ws.describe(f"models/{package.model_id}")
    with pytest.raises(ContractError, match=f"models there: {package.model_id}"):
        read_package(ws, "cells-00000000")


def test_read_package_reads_a_uri(tmp_path: Path) -> None:
    package, _, _ = written(tmp_path)
    assert read_package(None, f"file://{package.folder}").digest == package.digest


@pytest.mark.parametrize("uri", ["file:///no/such/folder", "memory://no-such-bucket", "memory://bucket/no/package"])
def test_a_uri_without_a_package_is_one_clear_error(uri: str) -> None:
    with pytest.raises(ContractError, match=f"{uri}|{uri.removeprefix('file://')}"):
        read_package(None, uri)


def test_a_picture_is_part_of_the_package_and_of_its_card(tmp_path: Path) -> None:
    plain, _, model = written(tmp_path / "plain")
    objects = Folder(tmp_path / "pictured")
    package = write_package(objects, "models", info(), model.state_dict(), {"example.png": b"png"})
    assert (objects.keys[-1].rsplit("/", 1)[-1], len(objects.keys)) == ("SHA256SUMS", 5)
    assert package.digest != plain.digest
    assert read_package(None, package.folder).digest == package.digest
    cards = [(Path(each.folder) / "README.md").read_text() for each in (plain, package)]
    assert ["![Held-out image, target and mask](example.png)" in card for card in cards] == [False, True]
    (Path(package.folder) / "example.png").unlink()
    with pytest.raises(ContractError, match=r"example.png is damaged or was changed.*got no such file"):
        read_package(None, package.folder)


def test_model_card_has_a_row_of_scores_for_each_class() -> None:
    scores = {
        "miou": 0.75,
        "images": 2,
        "classes": {"sea|land": {"iou": 0.5, "dice": 2 / 3}, "rare": {"iou": None, "dice": None}},
    }
    lines = model_card(info().model_copy(update={"scores": scores})).splitlines()
    start = lines.index("## Scores on held-out images")
    assert lines[start + 2 : start + 11] == [
        "| what | value |",
        "| --- | --- |",
        "| miou | 0.75 |",
        "| images | 2 |",
        "",
        "| class | iou | dice |",
        "| --- | --- | --- |",
        "| sea\\|land | 0.5 | 0.6667 |",
        "| rare | - | - |",
    ]
