"""build_model: shapes, strides, one file per architecture, and answers that can be worked out by hand."""

import pytest
import torch
from torch import nn

from segcore.errors import ConfigError
from segcore.models import ModelConfig, build_model

SMALL = ModelConfig(architecture="unet", arguments={"in_channels": 3, "num_classes": 5, "channels": (4, 8, 8)})


CONV1 = ModelConfig(architecture="conv1", arguments={"in_channels": 3, "num_classes": 5})


@pytest.mark.parametrize("config", [SMALL, CONV1])
def test_build_model_gives_logits_of_the_tiles_shape(config: ModelConfig) -> None:
    logits = build_model(config).eval()(torch.zeros(2, 3, 12, 20))
    assert logits.shape == (2, 5, 12, 20)


def test_build_model_stride_is_two_to_the_number_of_poolings() -> None:
    assert build_model(SMALL).stride == 4
    assert build_model(CONV1).stride == 1


def test_conv1_is_the_weighted_sum_of_the_bands() -> None:
    model = build_model(ModelConfig(architecture="conv1", arguments={"in_channels": 2, "num_classes": 1}))
    with torch.no_grad():
        model.conv.weight.copy_(torch.tensor([2.0, -1.0]).reshape(1, 2, 1, 1))
        model.conv.bias.fill_(0.5)
    tiles = torch.arange(8.0).reshape(1, 2, 2, 2)
    assert torch.equal(model(tiles)[0, 0], 2 * tiles[0, 0] - tiles[0, 1] + 0.5)


def test_unet_logits_move_with_the_image_where_there_is_context() -> None:
    """A shift by the stride shifts the logits, bit for bit, away from the border: what halo tiling rests on."""
    torch.manual_seed(0)
    model = build_model(SMALL).eval()
    image = torch.randn(1, 3, 512, 512)  # smaller ones may get another kernel, which sums in another order
    with torch.no_grad():
        whole = model(image)
        part = model(image[..., 32:288, 32:288])
    inner = slice(24, 232)
    assert torch.equal(part[..., inner, inner], whole[..., 56:264, 56:264])


def test_unet_gradient_reaches_every_weight() -> None:
    model = build_model(SMALL)
    model(torch.randn(2, 3, 16, 16)).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ModelConfig(architecture="unett"), "no network is called 'unett'; did you mean unet"),
        (ModelConfig(architecture="unet", arguments={"num_classes": 2}), "argument in_channels: Field required"),
        (
            ModelConfig(architecture="conv1", arguments={"in_channels": 1, "num_classes": 2, "kernel_px": 4}),
            r"sides of the kernel must be odd, got \(4, 4\)",
        ),
    ],
)
def test_build_model_refuses_in_one_line(config: ModelConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build_model(config)
    assert "\n" not in str(caught.value)


def test_unet_dropout_adds_no_weight_and_drops_channels_of_the_coarser_half_in_training_alone() -> None:
    plain = build_model(SMALL)
    arguments = {**SMALL.arguments, "dropout": 0.5}
    model = build_model(ModelConfig(architecture="unet", arguments=arguments))
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    tiles = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.eval()(tiles), plain.eval()(tiles))
    dropping = [name for name, layer in model.named_modules() if isinstance(layer, nn.Dropout2d)]
    assert dropping == ["drop_down.1", "drop_down.2", "drop_up.0"]
    assert not any(isinstance(layer, nn.Dropout2d) for layer in plain.modules())
