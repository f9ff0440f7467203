"""Exported models answer as segcore does, at any size, and their STAC item is what the extension asks for."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import skimage.data
import torch
from torch import nn
from typer.testing import CliRunner

from flows.cli import app
from segcore.classes import ClassInfo
from segcore.errors import ConfigError, SegcoreError
from segcore.inference.numerics import Network
from segcore.instances.rule import Rule
from segcore.models import ModelConfig, build_model, portable
from segcore.models.mlm import Artifact, mlm_item
from segcore.models.package import InputContract, ModelPackage, PackageInfo, write_package
from segcore.models.portable import export_model
from segcore.models.unet import UNet
from segcore.store import Objects

RUNNER = CliRunner()
CLASSES = (
    ClassInfo(id=0, name="background", color=(0, 0, 0)),
    ClassInfo(id=1, name="tree / crown", color=(34, 110, 62)),
    ClassInfo(id=2, name="house", color=(214, 69, 65)),
)


def contract(**given: Any) -> InputContract:
    plain = {"bands": ("red", "green", "blue"), "dtype": "uint8", "spacing": None, "mean": (120.0, 110.0, 90.0),
             "std": (60.0, 50.0, 70.0), "stride": 4}  # fmt: skip
    return InputContract.model_validate(plain | given)


def package_in(folder: Path, config: ModelConfig, expected: InputContract, name: str = "cells") -> ModelPackage:
    """A package with seeded weights, whose batch norms do something."""
    torch.manual_seed(1)
    model = build_model(config)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
    if isinstance(model, UNet) and len(expected.axes) == 2:  # every class somewhere
        shift, scale = (torch.tensor(values)[:, None, None] for values in (expected.mean, expected.std))
        with torch.no_grad():
            model.head.weight.mul_(4)
            model.head.bias.sub_(model.eval()((torch.from_numpy(photo(1, 256, 256)) - shift) / scale).mean((0, 2, 3)))
    objects = Objects(str(folder))
    objects.create()
    classes = CLASSES[: config.arguments["num_classes"]]
    training = {"torch_version": "2.13.0+cpu", "init_digest": None, "loss": {"ce": 1.0}}
    info = PackageInfo(
        name=name, architecture=config, contract=expected, classes=classes, training=training, seed=3, code_version="1"
    )
    return write_package(objects, "models", info, model.state_dict())


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    arguments = {"in_channels": 3, "num_classes": 3, "channels": [4, 8, 8]}
    return package_in(tmp_path_factory.mktemp("p"), ModelConfig(architecture="unet", arguments=arguments), contract())


@pytest.fixture(scope="module")
def exported(package: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package in all formats."""
    folder = tmp_path_factory.mktemp("out") / "new"
    paths = export_model(package, [str(folder / name) for name in ("mlm.json", "m.onnx", "m.pt2")])
    assert sorted(paths) == sorted(str(folder / name) for name in ("mlm.json", "m.onnx", "m.pt2"))
    return folder


def ours(package: ModelPackage, tiles: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Logits as prediction makes them."""
    network = Network(package, torch.device("cpu"), "float32", len(tiles))
    with torch.inference_mode():
        return np.asarray(network.logits(tiles))


def photo(num: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """(N, 3, height, width) tiles of a photograph."""
    image = np.moveaxis(skimage.data.astronaut(), -1, 0)
    return np.stack([image[:, 40 * n : 40 * n + height, 100 : 100 + width] for n in range(num)])


def assert_alike(got: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert np.array_equal(got.argmax(1), expected.argmax(1))
    assert len(np.unique(expected.argmax(1))) > 1  # else any picture would do


@pytest.mark.parametrize("shape", [(1, 256, 256), (3, 64, 200)])
def test_onnx_has_the_logits_of_prediction(package: ModelPackage, exported: Path, shape: tuple[int, int, int]) -> None:
    session = onnxruntime.InferenceSession(exported / "m.onnx", providers=["CPUExecutionProvider"])
    tiles = photo(*shape)
    got = session.run(["logits"], {"pixels": tiles.astype(np.float32)})[0]
    assert_alike(got, ours(package, tiles))


@pytest.mark.parametrize("shape", [(1, 256, 256), (3, 64, 200)])
def test_pt2_has_the_logits_of_prediction(package: ModelPackage, exported: Path, shape: tuple[int, int, int]) -> None:
    module = torch.export.load(exported / "m.pt2").module()
    tiles = photo(*shape)
    assert_alike(np.asarray(module(torch.from_numpy(tiles).float())), ours(package, tiles))


def test_files_say_what_they_expect(package: ModelPackage, exported: Path) -> None:
    model = onnx.load(exported / "m.onnx")
    onnx.checker.check_model(model)
    told = {prop.key: prop.value for prop in model.metadata_props}
    extra = {"segcore.json": ""}
    torch.export.load(exported / "m.pt2", extra_files=extra)
    assert json.loads(extra["segcore.json"]) == told
    assert (told["model_id"], told["digest"]) == (package.model_id, package.digest)
    assert json.loads(told["bands"]) == ["red", "green", "blue"]
    assert [info["name"] for info in json.loads(told["classes"])] == ["background", "tree / crown", "house"]
    assert (told["tile_px"], told["halo_px"], told["stride"], told["dtype"]) == ("512", "32", "4", "uint8")
    assert told["spacing"] == "null"
    sides = [side.dim_param or side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["batch", 3, "y", "x"]


def test_missing_pixels_of_float_images_are_average_and_planes_are_free(tmp_path: Path) -> None:
    config = ModelConfig(
        architecture="conv1", arguments={"in_channels": 2, "num_classes": 2, "kernel_px": 3, "kernel_planes": 3}
    )
    expected = contract(
        axes=("z", "y", "x"), bands=("ct", "pet"), dtype="float32", mean=(5.0, -3.0), std=(2.0, 0.5), stride=1
    )
    package = package_in(tmp_path, config, expected)
    export_model(package, [str(tmp_path / "m.onnx")])
    tiles = np.random.default_rng(0).normal(2, 3, (2, 2, 6, 11, 17)).astype(np.float32)
    tiles[0, 1, 2, 3, 4], tiles[1, 0, 0, 0, 0] = np.nan, np.inf
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert_alike(session.run(None, {"pixels": tiles})[0], ours(package, tiles))


@pytest.mark.parametrize(
    ("architecture", "axis", "arguments"),
    [("unet", "z", {"dims": 3}), pytest.param("convlstm_unet", "t", {}, marks=pytest.mark.slow)],
)
def test_volumes_and_sequences_have_the_logits_of_prediction(
    tmp_path: Path, architecture: str, axis: str, arguments: dict[str, Any]
) -> None:
    """Planes of a volume are free; frames are those of a tile with its context. Two exporters take some seconds."""
    shape = {"in_channels": 2, "num_classes": 2, "channels": [4, 8]}
    stride, num_planes = (2, 6) if axis == "z" else (1, 4)
    planes = {"tile_planes": 2, "halo_planes": stride, "stride_planes": stride}
    expected = contract(axes=(axis, "y", "x"), bands=("a", "b"), mean=(100.0, 90.0), std=(5.0, 6.0), stride=2)
    config = ModelConfig(architecture=architecture, arguments=shape | arguments)
    package = package_in(tmp_path, config, expected.model_copy(update=planes))
    export_model(package, [str(tmp_path / name) for name in ("m.onnx", "m.pt2", "m.json")])
    tiles = np.random.default_rng(0).integers(0, 255, (2, 2, num_planes, 10, 14), dtype=np.uint8)
    logits = ours(package, tiles)
    assert logits.std(axis=(2, 3, 4)).min() > 1e-3
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"pixels": tiles.astype(np.float32)})[0], logits, atol=1e-5)
    module = torch.export.load(tmp_path / "m.pt2").module()
    np.testing.assert_allclose(module(torch.from_numpy(tiles).float()), logits, atol=1e-5)
    told = {prop.key: prop.value for prop in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert told.get("frames") == ("4" if axis == "t" else None)
    item = json.loads((tmp_path / "m.json").read_text())
    frames = 4 if axis == "t" else -1
    assert item["properties"]["mlm:input"][0]["input"]["shape"] == [-1, 2, frames, -1, -1]
    assert item["properties"]["mlm:output"][0]["result"]["shape"] == [-1, 2, frames, -1, -1]


def test_files_of_a_model_of_objects_say_what_the_channels_behind_the_classes_are(tmp_path: Path) -> None:
    config = ModelConfig(architecture="conv1", arguments={"in_channels": 3, "num_classes": 4})
    two = {"in_channels": 3, "num_classes": 2}
    plain = package_in(tmp_path, ModelConfig(architecture="conv1", arguments=two), contract())
    info = plain.info.model_copy(update={"architecture": config, "instances": Rule(depth_px=5, min_px=9)})
    package = write_package(Objects(str(tmp_path)), "models", info, build_model(config).state_dict())
    told = portable.metadata(package)
    assert told["output"] == "logits: 2 of the classes, before softmax; then border and depth, before a sigmoid each"
    assert json.loads(told["instances"]) == {"border_channel": 2, "depth_channel": 3, "depth_px": 5, "min_px": 9}
    assert "instances" not in portable.metadata(plain)
    for one, words in ((package, "the largest of the first 2 is"), (plain, "the largest is")):
        item = mlm_item(one, [], str(tmp_path), datetime(2026, 1, 2, tzinfo=UTC))
        assert words in item["properties"]["mlm:output"][0]["description"]


def test_a_file_that_answers_otherwise_is_not_written(
    package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(package: ModelPackage, output: str) -> portable.Written:
        model = portable.Portable(package)
        return portable.Written(b"", lambda pixels: np.asarray(model(torch.from_numpy(pixels))) + np.float32(0.01))

    monkeypatch.setitem(portable.FORMATS, ".onnx", off)
    with pytest.raises(SegcoreError, match=r"m.onnx: expected logits within .* 0.01 off; nothing was written"):
        export_model(package, [str(tmp_path / "m.onnx")])
    assert not list(tmp_path.iterdir())


def test_other_suffixes_and_a_missing_extra_are_one_line(
    package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"m.pt: expected a file name that ends in one of .onnx, .pt2, .json"):
        export_model(package, [str(tmp_path / "m.onnx"), str(tmp_path / "m.pt")])
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"needs the extra `onnx`: pip install 'segcore\[onnx\]'"):
        export_model(package, [str(tmp_path / "m.onnx")])
    assert not list(tmp_path.iterdir())


# By hand from the extension's text and JSON schema: what it requires, and the patterns of what we write.
DIMENSIONS = {"type": "array", "items": {"type": "string", "pattern": "^[a-z-_]+$"}, "uniqueItems": True}
ARRAY = {
    "type": "object",
    "required": ["shape", "dim_order", "data_type"],
    "properties": {
        "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
        "dim_order": DIMENSIONS,
        "data_type": {"const": "float32"},
    },
}
SCHEMA = {
    "type": "object",
    "required": ["type", "stac_version", "stac_extensions", "id", "geometry", "properties", "links", "assets"],
    "not": {"required": ["bbox"]},
    "properties": {
        "type": {"const": "Feature"},
        "stac_version": {"const": "1.1.0"},
        "stac_extensions": {
            "type": "array", "contains": {"const": "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"},
        },
        "geometry": {"type": "null"},
        "properties": {
            "not": {"required": ["bands"]},  # of STAC 1.1 itself: only where an asset has them
            "required": ["datetime", "mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"],
            "properties": {
                "datetime": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
                "mlm:name": {"type": "string", "pattern": r"^[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]$"},
                "mlm:framework_version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?$"},
                "mlm:tasks": {"const": ["semantic-segmentation"]},
                "mlm:total_parameters": {"type": "integer", "minimum": 1},
                "mlm:pretrained_source": {"type": ["string", "null"]},
                "mlm:hyperparameters": {
                    "type": "object", "minProperties": 1, "patternProperties": {"^[0-9a-zA-Z_.-]+$": True},
                    "additionalProperties": False,
                },
                "mlm:input": {
                    "minItems": 1,
                    "items": {
                        "required": ["name", "bands", "input"],
                        "properties": {
                            "input": ARRAY,
                            "value_scaling": {
                                "items": {
                                    "required": ["type", "mean", "stddev"],
                                    "properties": {"type": {"const": "z-score"}, "mean": {"type": "number"}},
                                },
                            },
                        },
                    },
                },
                "mlm:output": {
                    "minItems": 1,
                    "items": {
                        "required": ["name", "tasks", "result"],
                        "properties": {
                            "result": ARRAY,
                            "classification:classes": {
                                "items": {
                                    "required": ["value"],
                                    "properties": {
                                        "value": {"type": "integer"},
                                        "name": {"type": "string", "pattern": "^[0-9A-Za-z-_]+$"},
                                        "color_hint": {"type": "string", "pattern": "^[0-9A-F]{6}$"},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
        "assets": {
            "minProperties": 1,
            "additionalProperties": {
                "required": ["href", "roles", "bands", "mlm:artifact_type"],
                "properties": {
                    "roles": {"contains": {"const": "mlm:model"}},
                    "bands": {"type": "array", "minItems": 1, "items": {"required": ["name"]}},
                },
                "not": {"anyOf": [{"required": [f"mlm:{name}"]} for name in ("name", "input", "output")]},
            },
        },
    },
}  # fmt: skip


def test_the_stac_item_is_what_the_extension_asks_for(package: ModelPackage, exported: Path) -> None:
    item = json.loads((exported / "mlm.json").read_text())
    jsonschema.validate(item, SCHEMA)
    properties = item["properties"]
    assert item["id"] == properties["mlm:name"] == package.model_id
    assert properties["mlm:architecture"] == "U-Net"
    assert properties["mlm:framework_version"] == "2.13.0+cpu"
    assert properties["mlm:total_parameters"] == sum(w.numel() for w in package.load_weights().parameters())
    for asset in item["assets"].values():
        assert properties["mlm:input"][0]["bands"] == [band["name"] for band in asset["bands"]]
    assert properties["mlm:input"][0]["input"]["shape"] == [-1, 3, -1, -1]
    assert properties["mlm:input"][0]["value_scaling"][1] == {"type": "z-score", "mean": 110.0, "stddev": 50.0}
    assert properties["mlm:output"][0]["result"]["shape"] == [-1, 3, -1, -1]
    classes = properties["mlm:output"][0]["classification:classes"]
    assert classes[1] == {"value": 1, "name": "tree-crown", "description": "tree / crown", "color_hint": "226E3E"}
    assert properties["mlm:hyperparameters"]["tile_px"] == 512
    assert properties["mlm:hyperparameters"]["training"]["loss"] == {"ce": 1.0}
    assert set(item["assets"]) == {"weights", "onnx", "program"}
    for asset in item["assets"].values():
        assert (exported / asset["href"]).stat().st_size == asset["file:size"]
    assert item["assets"]["onnx"]["href"] == "./m.onnx"


def test_the_stac_item_of_a_remote_package_has_its_address_and_a_name_that_is_allowed(tmp_path: Path) -> None:
    config = ModelConfig(architecture="conv1", arguments={"in_channels": 3, "num_classes": 2})
    package = package_in(tmp_path, config, contract(stride=1), name="7bands")
    weights = Artifact("s3://bucket/models/m/model.safetensors", package.weights)
    item = mlm_item(package, [weights], "s3://bucket/models/m", datetime(2026, 1, 2, tzinfo=UTC))
    jsonschema.validate(item, SCHEMA)
    assert item["assets"]["weights"]["href"] == "./model.safetensors"
    assert item["properties"]["mlm:name"] == f"model-{package.model_id}"
    assert item["properties"]["datetime"] == "2026-01-02T00:00:00Z"
    elsewhere = mlm_item(package, [weights], str(tmp_path), datetime(2026, 1, 2, tzinfo=UTC))
    assert elsewhere["assets"]["weights"]["href"] == weights.path


def test_files_can_be_written_to_an_object_store(package: ModelPackage) -> None:
    assert export_model(package, ["memory://models/out/item.json"]) == ["memory://models/out/item.json"]
    item = json.loads(Objects("memory://models/out").get("item.json") or b"")
    assert item["assets"]["weights"]["href"] == f"{package.folder}/model.safetensors"


def test_export_model_command_says_what_it_wrote(package: ModelPackage, tmp_path: Path) -> None:
    given = ["export-model", "--model", package.folder, "--output", str(tmp_path / "item.json")]
    done = RUNNER.invoke(app, given)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == f"-> {tmp_path / 'item.json'}"
    found = json.loads(RUNNER.invoke(app, [*given, "--json"]).stdout)
    assert (found["state"], found["paths"]) == ("done", [str(tmp_path / "item.json")])
    done = RUNNER.invoke(app, ["export-model", "--model", package.folder, "--output", "m.h5"])
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)


def test_a_model_with_image_norms_answers_for_each_tile_as_it_is(tmp_path: Path) -> None:
    arguments = {"in_channels": 3, "num_classes": 2, "channels": [4, 8], "norm": "image"}
    package = package_in(tmp_path, ModelConfig(architecture="unet", arguments=arguments), contract())
    (path,) = export_model(package, [str(tmp_path / "m.pt2")])
    program = torch.export.load(path).module()
    for shape in ((1, 3, 8, 12), (3, 3, 16, 8)):  # neither the number of tiles nor their sides are frozen
        tiles = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (package.contract.mean, package.contract.std))
        expected = package.load_weights()((tiles - mean) / std)
        torch.testing.assert_close(program(tiles), expected, rtol=1e-3, atol=1e-3)
