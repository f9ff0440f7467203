"""receptive_field: contexts that can be worked out by hand, and models that have none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import nn

from segcore.classes import default_classes
from segcore.errors import ConfigError
from segcore.models import ModelConfig, build_model
from segcore.models.card import model_card
from segcore.models.package import InputContract, PackageInfo, read_package, write_package
from segcore.models.receptive import ReceptiveField, measured, receptive_field, with_field
from segcore.models.segnet import SegNet, SegNetArguments
from segcore.store import Objects

CHANNELS = 2


def conv(kernel_px: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(CHANNELS, CHANNELS, kernel_px, padding="same", dilation=dilation)


def down(kernel_px: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(CHANNELS, CHANNELS, kernel_px, stride=stride, padding=kernel_px // 2)


def up(stride: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(CHANNELS, CHANNELS, stride, stride=stride)


def bilinear(align_corners: bool = False) -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=align_corners)


class Gate(nn.Module):
    """Channels weighted by their mean over the tile (squeeze and excitation)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(nn.functional.adaptive_avg_pool2d(x, 1))


class Attention(nn.Module):
    """Self-attention over all pixels of the tile."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).mT
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mT.reshape(x.shape)


class Ramp(nn.Module):
    """Adds to every pixel its place in the tile."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.arange(x.shape[-1]).to(x)


# The context by hand, from the edges of a cell of the stride: a 3x3 convolution at 1/2 reaches one cell = 2 px.
LOCAL: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "one pixel": (lambda: conv(1), 1, 0),
    "one convolution": (lambda: conv(7), 1, 3),
    "three convolutions": (lambda: nn.Sequential(conv(3), nn.ReLU(), conv(5), nn.ReLU(), conv(3)), 1, 4),
    "dilated": (lambda: nn.Sequential(conv(3, 4), nn.ReLU(), conv(3, 2)), 1, 6),
    "dilated, with holes": (lambda: conv(3, 17), 1, 17),
    "strided 3 and transposed": (lambda: nn.Sequential(down(3, 2), nn.ReLU(), up(2)), 2, 2),
    "strided 2 and transposed": (lambda: nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 2, stride=2), up(2)), 2, 0),
    "strided by 4": (lambda: nn.Sequential(down(5, 4), conv(3), up(4)), 4, 8),
    # 4 px of a transposed kernel over a stride of 2 reach one px into the next cell.
    "transposed that overlaps": (
        lambda: nn.Sequential(nn.MaxPool2d(2), nn.ConvTranspose2d(CHANNELS, CHANNELS, 4, stride=2, padding=1)), 2, 2,
    ),
    "max pool of neighbours": (lambda: nn.MaxPool2d(5, stride=1, padding=2), 1, 2),
    "pool and nearest": (lambda: nn.Sequential(nn.MaxPool2d(4), nn.Upsample(scale_factor=4)), 4, 0),
    "average pool": (lambda: nn.AvgPool2d(3, stride=1, padding=1), 1, 1),
    "pool and bilinear": (lambda: nn.Sequential(nn.MaxPool2d(2), bilinear()), 2, 2),
    # Down: 2 px, 3 px of 1/2, 2 px of 1/4; up again: 4 + 2 px of 1/2, 12 + 2 px; in cells of 4 px.
    "pool and unpool": (
        lambda: SegNet(SegNetArguments(in_channels=CHANNELS, num_classes=2, channels=(4, 8))), 4, 16,
    ),
    "batch norm and dropout": (lambda: nn.Sequential(conv(3), nn.BatchNorm2d(CHANNELS), nn.Dropout(), nn.GELU()), 1, 1),
}  # fmt: skip


@pytest.mark.parametrize(("build", "stride", "context"), LOCAL.values(), ids=LOCAL)
def test_receptive_field_is_that_worked_out_by_hand(build: Callable[[], nn.Module], stride: int, context: int) -> None:
    torch.manual_seed(0)
    for finest in (True, False):
        found = receptive_field(build(), CHANNELS, (stride, stride), finest)
        assert found == ReceptiveField((context, context), (stride, stride))


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(conv(3), Gate()),
        lambda: nn.Sequential(nn.MaxPool2d(8), Attention(), nn.Upsample(scale_factor=8)),
        lambda: nn.Sequential(conv(3), nn.InstanceNorm2d(CHANNELS)),
        lambda: nn.Sequential(conv(3), nn.GroupNorm(1, CHANNELS)),
        lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, padding_mode="circular"),
        lambda: nn.Sequential(nn.MaxPool2d(2), bilinear(align_corners=True)),
        Ramp,
    ],
    ids=["gate", "attention", "instance norm", "group norm", "circular", "align_corners", "place"],
)
def test_context_that_has_no_end_is_global(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    assert receptive_field(build(), CHANNELS, (8, 8)).context is None


def test_dead_paths_and_zero_weights_count_too() -> None:
    model = nn.Sequential(conv(3), nn.ReLU(), conv(9))
    for weight in model.parameters():
        nn.init.zeros_(weight)
    nn.init.constant_(model[0].bias, -1.0)  # type: ignore[arg-type]
    assert receptive_field(model, CHANNELS, (1, 1)).context == (5, 5)


def test_axes_have_contexts_of_their_own() -> None:
    flat = nn.Conv2d(1, 1, (3, 9), padding="same")
    assert receptive_field(flat, 1, (1, 1)).context == (1, 4)
    thick = nn.Sequential(
        nn.Conv3d(1, 2, (5, 3, 7), padding="same"), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(2, 2, 3, padding="same"),
        nn.Upsample(scale_factor=(1, 2, 2)),
    )  # fmt: skip
    assert receptive_field(thick, 1, (1, 2, 2)) == ReceptiveField((3, 4, 6), (1, 2, 2))
    assert receptive_field(nn.InstanceNorm3d(1), 1, (1, 1, 1)).context is None


def test_the_stride_is_the_smallest_shift_that_shifts_the_logits() -> None:
    torch.manual_seed(0)
    assert receptive_field(conv(3), CHANNELS, (8, 8)).stride == (1, 1)
    assert receptive_field(nn.Sequential(down(3, 2), up(2)), CHANNELS, (12, 12)).stride == (2, 2)
    assert receptive_field(nn.Sequential(down(3, 2), up(2)), CHANNELS, (12, 12), finest=False).stride == (12, 12)
    with pytest.raises(ConfigError, match="expected 4, by which its logits move with the image, got 2"):
        receptive_field(nn.Sequential(conv(3), Halves()), CHANNELS, (2, 2))


class Halves(nn.Module):
    """Keeps every fourth pixel, whatever the tile's size: its stride is 4."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x[..., ::4, ::4]
        return kept.repeat_interleave(4, -1).repeat_interleave(4, -2)[..., : x.shape[-2], : x.shape[-1]]


def test_a_field_of_hundreds_of_px_is_measured_in_seconds() -> None:
    layers = [layer for dilation in (1, 2, 4, 8, 16, 32, 64, 128) for layer in (conv(3, dilation), nn.ReLU())]
    assert receptive_field(nn.Sequential(*layers), CHANNELS, (1, 1)).context == (255, 255)


def unet_context(num_levels: int) -> int:
    """The pixels that one cell of the stride depends on, followed backwards through the levels as an interval."""
    stride = 2 ** (num_levels - 1)
    low, high = 0, stride - 1
    for _ in range(num_levels - 1):
        low, high = (low - 2) // 2, (high + 2) // 2  # two 3x3 convolutions, then up by a 2x2 transposed one
    low, high = low - 2, high + 2
    for _ in range(num_levels - 1):
        low, high = 2 * low - 2, 2 * high + 1 + 2  # pooled, after two 3x3 convolutions
    return -(-max(-low, high - (stride - 1)) // stride) * stride


@pytest.mark.parametrize("num_levels", [1, 2, 3, 4, 5])
def test_contexts_of_unets(num_levels: int) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        architecture="unet", arguments={"in_channels": 1, "num_classes": 2, "channels": (4, 8, 8, 8, 8)[:num_levels]}
    )
    stride = 2 ** (num_levels - 1)
    context = unet_context(num_levels)
    assert context == (2, 8, 24, 48, 96)[num_levels - 1]
    assert receptive_field(build_model(config), 1, (stride, stride)) == ReceptiveField((context,) * 2, (stride,) * 2)


def test_a_unet_of_another_library_looks_at_the_whole_tile() -> None:
    """Its instance norm is why."""
    model = BasicUNet(spatial_dims=2, in_channels=1, out_channels=2, features=(4, 4, 8, 8, 8, 4))
    assert receptive_field(model, 1, (16, 16)).context is None
    frozen = BasicUNet(spatial_dims=2, in_channels=1, out_channels=2, features=(4, 4, 8, 8, 8, 4), norm="batch")
    assert receptive_field(frozen, 1, (16, 16)).context is not None


def test_measuring_changes_neither_the_model_nor_the_random_numbers() -> None:
    model = build_model(ModelConfig(architecture="unet", arguments={"in_channels": 1, "num_classes": 2})).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    receptive_field(model, 1, (16, 16))
    assert torch.equal(torch.rand(1), expected)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def contract(**changes: object) -> InputContract:
    values = {"bands": ["a"], "dtype": "uint8", "spacing": None, "mean": [0.0], "std": [1.0]}
    return InputContract.model_validate(values | changes)


def test_the_contract_and_the_card_say_what_was_measured() -> None:
    config = ModelConfig(architecture="conv1", arguments={"in_channels": 1, "num_classes": 2, "kernel_px": 5})
    found = measured(contract(), build_model(config))
    assert (found.receptive_px, found.receptive_planes, found.global_context) == (2, 0, False)
    info = PackageInfo(name="m", architecture=config, contract=found, classes=default_classes(2))
    assert "| context | 2 px, which is --halo exact |" in model_card(info)
    whole = measured(contract(), nn.InstanceNorm2d(1))
    assert (whole.receptive_px, whole.receptive_planes, whole.global_context) == (None, None, True)
    assert "the whole tile: its masks need --blend gaussian" in model_card(info.model_copy(update={"contract": whole}))


def test_a_package_that_does_not_tell_is_measured_when_it_is_read(tmp_path: Path) -> None:
    arguments = {"in_channels": 1, "num_classes": 2, "kernel_px": 3, "kernel_planes": 5}
    config = ModelConfig(architecture="conv1", arguments=arguments)
    info = PackageInfo(
        name="m", architecture=config, contract=contract(axes=("z", "y", "x")), classes=default_classes(2)
    )
    objects = Objects(str(tmp_path))
    objects.create()
    package = read_package(None, write_package(objects, "m", info, build_model(config).state_dict()).folder)
    assert not package.contract.is_measured
    told = with_field(package)
    assert (told.contract.receptive_px, told.contract.receptive_planes) == (1, 2)
    assert (told.digest, told.model_id) == (package.digest, package.model_id)
    assert with_field(told) is told
