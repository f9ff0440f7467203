"""Zoo: networks of other libraries behind our signature; a missing or broken extra is one line.

The tests that build run where the extra is installed.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from flows.cli import app
from segcore.classes import default_classes
from segcore.errors import ConfigError
from segcore.models import ModelConfig, build_model, checked_arguments, find_architecture, weightless
from segcore.models import zoo as zoo_module
from segcore.models.borrowed import stores_all
from segcore.models.fitting import fitted
from segcore.models.listing import described
from segcore.models.package import InputContract, PackageInfo, read_package, write_package
from segcore.store import Objects
from tests.zoo import load_zoo


@pytest.fixture(scope="module")
def zoo() -> None:
    load_zoo()


def config(name: str, **arguments: Any) -> ModelConfig:
    given = {"in_channels": 4, "num_classes": 3, **arguments}
    return ModelConfig(architecture=name, arguments=checked_arguments(name, given))


def built(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(config(name, **arguments))


SMP = [
    *((name, "resnet18") for name in ("unet", "unetplusplus", "linknet", "fpn", "pspnet", "deeplabv3plus", "manet")),
    *((name, "resnet18") for name in ("deeplabv3", "pan", "upernet")),
    ("segformer", "mit_b0"),
    ("unet", "tu-convnext_atto"),
]
TIMM = ("resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "mobilenetv3_small_050")


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(("own", "encoder"), SMP)
def test_networks_of_smp_have_logits_of_the_shape_of_the_tiles(own: str, encoder: str) -> None:
    model = built(f"smp.{own}", encoder=encoder).eval()
    tiles = torch.randn(1, 4, 2 * int(model.stride), 3 * int(model.stride))
    with torch.inference_mode():
        assert model(tiles).shape == (1, 3, *tiles.shape[2:])
    assert model.encoder == ("features",)


@pytest.mark.usefixtures("zoo")
def test_a_network_of_smp_is_smps_own() -> None:
    smp = importlib.import_module("segmentation_models_pytorch")
    theirs = smp.Unet("resnet18", encoder_weights=None, in_channels=4, classes=3).eval()
    ours = built("smp.unet", encoder="resnet18").eval()
    for part, other in (("features", "encoder"), ("decoder", "decoder"), ("head", "segmentation_head")):
        getattr(theirs, other).load_state_dict(getattr(ours, part).state_dict())
    tiles = torch.randn(1, 4, 64, 96)
    with torch.inference_mode():
        assert torch.equal(ours(tiles), theirs(tiles))


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("own", TIMM)
def test_encoders_of_timm_learn_behind_our_decoder(own: str) -> None:
    model = built(f"timm.{own}", decoder=16)
    stride = int(model.stride)
    tiles = torch.randn(2, 4, 2 * stride, 3 * stride)
    logits = model(tiles)
    assert logits.shape == (2, 3, *tiles.shape[2:])
    logits.square().mean().backward()
    assert [key for key, weight in model.named_parameters() if weight.grad is None] == []


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("own", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_weights_as_timm_publishes_them_fit_the_encoder(own: str) -> None:
    torch.manual_seed(5)
    whole = importlib.import_module("timm").create_model(own, in_chans=4, num_classes=7)
    model = built(f"timm.{own}", decoder=8)
    found = fitted(model, whole.state_dict())
    features = [name for name in model.state_dict() if name.startswith("features.")]
    assert set(features) <= set(found.taken)
    tile = torch.randn(1, 4, 224, 224)
    whole, model = whole.eval(), model.eval()
    with torch.inference_mode():
        coarsest = whole.forward_intermediates(tile, intermediates_only=True)[-1]
        torch.testing.assert_close(model.features(tile)[-1], coarsest, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("zoo")
def test_weights_as_smp_publishes_them_fit_the_encoder() -> None:
    encoder = importlib.import_module("segmentation_models_pytorch").encoders.get_encoder("resnet18")
    model = built("smp.fpn", encoder="resnet18")
    found = fitted(model, encoder.state_dict())
    assert found.adapted == ("features.conv1.weight",)  # three bands to four
    assert {name for name in model.state_dict() if name.startswith("features.")} == {*found.taken, *found.adapted}


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("name", ["smp.unet", "timm.resnet18", "timm.swin_tiny_patch4_window7_224"])
def test_a_package_has_the_same_logits_though_constants_are_not_stored(name: str, tmp_path: Path) -> None:
    model = built(name).eval()
    assert stores_all(model) == ("swin" not in name)
    contract = InputContract(
        bands=("a", "b", "c", "d"), dtype="uint8", spacing=None, mean=(0.0,) * 4, std=(1.0,) * 4, stride=32, halo_px=32
    )
    info = PackageInfo(name="m", architecture=config(name), contract=contract, classes=default_classes(3))
    before = torch.get_rng_state()
    package = write_package(Objects(str(tmp_path)), "models", info, model.state_dict())
    again = read_package(None, package.folder).load_weights()
    assert torch.equal(torch.get_rng_state(), before)
    tiles = torch.randn(1, 4, 64, 64)
    with torch.inference_mode():
        assert torch.equal(again(tiles), model(tiles))


@pytest.mark.usefixtures("zoo")
def test_how_far_one_looks_is_measured() -> None:
    row = described("timm.resnet18")
    # Of a ResNet-18 alone it is 256, as FCN's; the pyramid's 3x3 add 2 + 4 + 8 + 16 px.
    assert (row["stride"], row["context_px"], row["tiling_is_exact"]) == (32, 288, True)
    assert row["arguments"]["decoder"]["default"] == 64


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        (
            "smp.unett",
            {},
            r"^architecture: segmentation_models_pytorch has nothing called 'unett'; did you mean smp.unet",
        ),
        ("timm.resnet81", {}, r"^architecture: timm has nothing called 'resnet81'; did you mean timm\.resnet"),
        ("smp.unet", {"encoder": "resnet19"}, r"has no encoder 'resnet19'; did you mean resnet1"),
        ("timm.levit_128", {}, r"^architecture timm.levit_128: its encoder takes no tiles of any size"),
        ("timm.resnet18", {"encoder": "x"}, r"it has no argument 'encoder'; its own are decoder"),
    ],
)
def test_what_cannot_be_is_one_line(name: str, arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        weightless(config(name, **arguments))


def called(*args: str) -> Any:
    return CliRunner().invoke(app, ["models", "unet", "--zoo", *args], standalone_mode=True)


@pytest.mark.usefixtures("zoo")
def test_all_names_are_listed() -> None:
    found = json.loads(called("--json").output)["zoo"]
    assert {"smp.unet", "smp.pan"} <= set(found["smp"])
    assert "smp.dpt" not in found["smp"]
    assert "encoder=resnet34" in found["encoders of smp"]
    assert "timm.convnext_atto" in found["timm"]
    assert "\n  smp.unet\n" in called().output


def test_a_missing_extra_is_named_and_ours_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("segmentation_models_pytorch", "timm"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ConfigError, match=r"^architecture smp\.\*: needs the extra `zoo` .*: pip install 'segcore\[zoo\]'$"
    ):
        find_architecture("smp.unet")
    done = called()
    assert done.exit_code == 0
    assert done.output.startswith("unet: U-Net")
    assert "needs the extra `zoo`" in done.output


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError("operator torchvision::nms does not exist"), r"torchvision was not built for torch 2\."),
        (AttributeError("no such thing\nat all"), r"timm cannot be loaded \(AttributeError: no such thing\)$"),
    ],
)
def test_a_broken_extra_is_told(error: Exception, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(name: str) -> Any:
        raise error

    monkeypatch.setattr(zoo_module, "library", failing)
    with pytest.raises(ConfigError, match=rf"^architecture timm\.\*: .*{why}"):
        find_architecture("timm.resnet18")
