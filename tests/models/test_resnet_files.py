"""Published weights of a ResNet fit an encoder whole; those of another one are refused, though most of them fit too."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from segcore.config import TrainConfig
from segcore.errors import ConfigError
from segcore.models import ModelConfig, weightless
from segcore.models.fitting import fitted
from segcore.models.foreign import begin_with, load_foreign
from segcore.models.resnet import ResNet
from segcore.store import Workspace

PUBLISHED = {
    "resnet18": ((2, 2, 2, 2), 1, 11_689_512),
    "resnet34": ((3, 4, 6, 3), 1, 21_797_672),
    "resnet50": ((3, 4, 6, 3), 4, 25_557_032),
}
"""Blocks of each stage, channels of a stage over those inside its blocks, and parameters."""


def published_resnet(name: str) -> dict[str, torch.Tensor]:
    """Names and shapes of torchvision's and timm's file of a ResNet; each tensor is full of its number."""
    depths, expansion, _ = PUBLISHED[name]
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(at: str, norm: str, n_in: int, n_out: int, kernel: int) -> None:
        shapes[f"{at}.weight"] = (n_out, n_in, kernel, kernel)
        shapes.update({f"{norm}.{part}": (n_out,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{norm}.num_batches_tracked"] = ()

    convolution("conv1", "bn1", 3, 64, 7)
    n_in = 64
    for stage, depth in enumerate(depths, start=1):
        width = 32 << stage
        for block in range(depth):
            at, n_out = f"layer{stage}.{block}", expansion * width
            inside = ((n_in, width, 3), (width, width, 3))
            if expansion > 1:
                inside = ((n_in, width, 1), (width, width, 3), (width, n_out, 1))
            for k, sides in enumerate(inside, start=1):
                convolution(f"{at}.conv{k}", f"{at}.bn{k}", *sides)
            if block == 0 and n_in != n_out:
                convolution(f"{at}.downsample.0", f"{at}.downsample.1", n_in, n_out, 1)
            n_in = n_out
    shapes |= {"fc.weight": (1000, n_in), "fc.bias": (1000,)}
    return {
        at: torch.full(shape, k, dtype=torch.int64 if at.endswith("tracked") else torch.float32)
        for k, (at, shape) in enumerate(shapes.items())
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A published ResNet of each depth as .safetensors, in half precision to be quick."""
    folder = tmp_path_factory.mktemp("published")
    for name in PUBLISHED:
        tensors = published_resnet(name)
        half = {at: value.half() if value.is_floating_point() else value for at, value in tensors.items()}
        safetensors.torch.save_file(half, folder / f"{name}.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in PUBLISHED}


def with_encoder(architecture: str, encoder: str, in_channels: int = 3, num_classes: int = 2) -> Any:
    """A network over a ResNet, all of its weights 0: nothing is drawn."""
    arguments = {"in_channels": in_channels, "num_classes": num_classes, "encoder": encoder}
    model = weightless(ModelConfig(architecture=architecture, arguments=arguments)).to_empty(device="cpu")
    for value in model.state_dict().values():
        value.zero_()
    return model


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "ws"), create=True)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("in_channels", [3, 4])
def test_fitted_takes_an_encoder_as_it_is_published(prefix: str, in_channels: int) -> None:
    model, published = with_encoder("fcn8s", "resnet18", in_channels), published_resnet("resnet18")
    report = fitted(model, {prefix + name: value for name, value in published.items()})
    assert set(report.taken) | set(report.adapted) == {f"features.{name}" for name in published if "fc." not in name}
    assert report.num_unused == 2
    assert report.adapted == (() if in_channels == 3 else ("features.conv1.weight",))
    assert torch.equal(model.get_parameter("features.layer3.0.conv1.weight"), published["layer3.0.conv1.weight"])
    with pytest.raises(ConfigError, match="expected weights that fit the model by name and shape"):
        fitted(model, {"conv1.weight": torch.zeros(32, 3, 3, 3), "layer1.0.conv1.weight": torch.zeros(32, 32, 3, 3)})


@pytest.mark.parametrize("encoder", PUBLISHED)
def test_the_table_of_a_published_resnet_has_as_many_weights_as_its_paper(encoder: str) -> None:
    """Torchvision's documentation gives 11689512, 21797672 and 25557032 parameters."""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    counted = [value.numel() for name, value in published_resnet(encoder).items() if not name.endswith(buffers)]
    assert sum(counted) == PUBLISHED[encoder][2]


@pytest.mark.parametrize("encoder", PUBLISHED)
@pytest.mark.parametrize("architecture", ["fcn8s", "pspnet", "deeplabv3plus"])
def test_of_a_published_resnet_all_is_taken_and_the_head_alone_begins_anew(
    ws: Workspace, files: dict[str, str], architecture: str, encoder: str
) -> None:
    model, published = with_encoder(architecture, encoder), load_foreign(ws, files[encoder])
    report = fitted(model, published)
    own = set(model.state_dict())
    assert set(report.anew) == {name for name in own if not name.startswith("features.")}
    assert set(report.taken) == {f"features.{name}" for name in published if not name.startswith("fc.")}
    assert (report.adapted, report.num_unused) == ((), 2)
    for name, value in model.features.state_dict().items():
        assert torch.equal(value, published[name].to(value.dtype))


@pytest.mark.parametrize(("encoder", "given"), list(itertools.permutations(PUBLISHED, 2)))
def test_a_file_of_another_resnet_is_refused_with_the_argument_to_give(
    ws: Workspace, files: dict[str, str], encoder: str, given: str
) -> None:
    model = with_encoder("fcn8s", encoder, in_channels=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        begin_with(model, ws, TrainConfig(workspace=ws.uri, init=files[given]))
    assert str(caught.value) == (
        f"init {files[given]}: expected the weights of a {encoder}, the model's encoder, got those of a {given}; "
        f"give --arguments encoder={given}, or a file of a {encoder}"
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_resnet_that_is_none_of_ours_is_refused_with_what_differs() -> None:
    model, plain = with_encoder("fcn8s", "resnet18"), published_resnet("resnet18")
    stem = {"conv1.0.weight": torch.zeros(32, 3, 3, 3), "conv1.3.weight": torch.zeros(32, 32, 3, 3)}
    others = {
        "conv1.weight is not there": {name: plain[name] for name in plain if name != "conv1.weight"} | stem,
        "layer4.2.conv1.weight has no place": plain | {"layer4.2.conv1.weight": torch.zeros(512, 512, 3, 3)},
        r"layer1.0.conv2.weight has shape \(64, 2, 3, 3\) of torch.float32, not \(64, 64, 3, 3\)": plain
        | {"layer1.0.conv2.weight": torch.zeros(64, 2, 3, 3)},
    }
    for what, tensors in others.items():
        expected = (
            f"^x: expected the weights of a resnet18.* got those of another network: {what}; give a file of a resnet18$"
        )
        with pytest.raises(ConfigError, match=expected):
            fitted(model, {f"module.{name}": value for name, value in tensors.items()}, "x")


def test_a_network_over_another_resnet_is_refused_and_one_over_the_same_is_taken_in_part() -> None:
    model = with_encoder("deeplabv3plus", "resnet18")
    report = fitted(model, with_encoder("fcn8s", "resnet18", num_classes=5).state_dict())
    assert {name for name in model.state_dict() if name.startswith("features.")} <= set(report.taken)
    with pytest.raises(ConfigError, match=r"expected the weights of a resnet18.* got those of a resnet34"):
        fitted(model, with_encoder("deeplabv3plus", "resnet34").state_dict())


class Detector(nn.Module):
    """As Mask R-CNN is: the encoder has another name, and its weights are renamed."""

    encoder = ("body",)

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet("resnet18", 3)
        self.fpn = nn.Conv2d(512, 8, 1)

    def renamed(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name.removeprefix("backbone."): value for name, value in tensors.items()}


def test_a_detectors_file_has_its_encoder_among_others_and_counts_no_batches() -> None:
    def file_of(name: str) -> dict[str, torch.Tensor]:
        body = {at: value for at, value in published_resnet(name).items() if "fc." not in at and "tracked" not in at}
        return {f"backbone.body.{at}": value for at, value in body.items()} | {
            "backbone.fpn.weight": torch.zeros(8, 512, 1, 1),
            "roi_heads.layer1.0.weight": torch.zeros(8, 8),
        }

    report = fitted(Detector(), file_of("resnet18"))
    assert {name for name in report.anew if "tracked" not in name} == {"fpn.bias"}
    assert report.num_unused == 1
    with pytest.raises(ConfigError, match=r"got those of a resnet34; give --arguments encoder=resnet34"):
        fitted(Detector(), file_of("resnet34"))
