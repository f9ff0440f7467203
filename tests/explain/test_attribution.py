"""Attribution against closed forms, a computation by hand, and the axiom that it promises."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segcore.errors import ConfigError
from segcore.explain.attribution import band_occlusion, coarsest_features, grad_cam, integrated_gradients
from segcore.models import ModelConfig, build_model


def random_unet() -> nn.Module:
    torch.manual_seed(0)
    arguments = {"in_channels": 3, "num_classes": 3, "channels": (4, 8)}
    model = build_model(ModelConfig(architecture="unet", arguments=arguments)).eval().requires_grad_(False)
    model.get_parameter("head.weight").mul_(8)
    return model


def random_tile(channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """A tile, and a region of it."""
    random = torch.Generator().manual_seed(1)
    return torch.randn(1, channels, 16, 16, generator=random), torch.rand(16, 16, generator=random) > 0.6


class Linear(nn.Module):
    """Two classes of one layer: logits of class 1 are weights * pixels + bias, of class 0 nothing."""

    def __init__(self, weights: list[float], bias: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(len(weights), 2, 1).requires_grad_(False)
        self.conv.weight.zero_()
        self.conv.weight[1, :, 0, 0] = torch.tensor(weights)
        self.conv.bias = nn.Parameter(torch.tensor([0.0, bias]), requires_grad=False)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.conv(tiles)
        return logits


def test_integrated_gradients_are_complete() -> None:
    """Axiom of completeness: they sum to the answer less that of the baseline."""
    model, (tile, region) = random_unet(), random_tile()
    found = integrated_gradients(model, tile, 1, region, steps=200)
    with torch.no_grad():
        ends = [model(end)[0].softmax(dim=0)[1][region].sum().item() for end in (tile, torch.zeros_like(tile))]
    assert (found.probability, found.baseline) == pytest.approx(tuple(ends), rel=1e-6)
    assert abs(ends[0] - ends[1]) > 0.3
    assert found.attributions.sum().item() == pytest.approx(ends[0] - ends[1], rel=0.01)
    coarse = integrated_gradients(model, tile, 1, region, steps=3)
    assert abs(coarse.attributions.sum().item() - (ends[0] - ends[1])) < 0.2 * abs(ends[0] - ends[1])


def test_integrated_gradients_of_a_linear_model_are_its_closed_form() -> None:
    """Of sigmoid(w x + b) it is x w / (w x) * (sigmoid(w x + b) - sigmoid(b)), pixel by pixel."""
    weights, bias = [2.0, -0.5, 0.0], -0.3
    tile, region = random_tile()
    found = integrated_gradients(Linear(weights, bias), tile, 1, region, steps=200).attributions
    x, w = tile[0].numpy().astype(float), np.array(weights)[:, None, None]
    z = (w * x).sum(axis=0)
    expected = x * w / z * (1 / (1 + np.exp(-z - bias)) - 1 / (1 + np.exp(-bias))) * region.numpy()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert torch.count_nonzero(found[2]) == 0


class Tiny(nn.Module):
    """Two maps at half the size, a 1x1 head, enlarged: small enough to compute by hand."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Conv2d(3, 2, 2, stride=2).requires_grad_(False)
        self.head = nn.Conv2d(2, 3, 1).requires_grad_(False)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.head(self.features(tiles)), scale_factor=2, mode="nearest")


def test_grad_cam_is_that_of_a_computation_by_hand() -> None:
    model, (tile, region) = Tiny(), random_tile()
    found = grad_cam(model, model.features, tile, 2, region)
    maps = model.features(tile)[0].numpy()
    # Each pixel of a map reaches 2 x 2 pixels of the logits, with the head's weight: the mean gradient of the summed
    # logit over the 8 x 8 pixels of a map is the weight times the pixels of the region, over 64.
    alphas = model.head.weight[2, :, 0, 0].numpy() * int(region.sum()) / 64
    expected = np.maximum(0, (alphas[:, None, None] * maps).sum(axis=0))
    by_hand = F.interpolate(torch.from_numpy(expected)[None, None], (16, 16), mode="bilinear", align_corners=False)
    assert 0 < np.count_nonzero(expected) < expected.size
    torch.testing.assert_close(found, by_hand[0, 0], rtol=1e-4, atol=1e-6)


def test_grad_cam_leaves_no_hook_and_refuses_what_is_no_map() -> None:
    model, (tile, region) = random_unet(), random_tile()
    with pytest.raises(ConfigError, match="features: expected a module that gives maps"):
        grad_cam(model, nn.Linear(1, 1), tile, 1, region)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("architecture", "arguments", "expected"),
    [
        ("unet", {"channels": (4, 8, 8)}, "down.2.5"),  # the last ReLU of the bottleneck
        ("fcn8s", {}, "features.layer4.1.relu"),  # not its scores of classes
        ("fcn32s", {}, "features.layer4.1.relu"),
        ("pspnet", {}, "merge.3"),  # not the pooled parts of the pyramid
        ("tile_classifier", {}, "connected.2"),
    ],
)
def test_the_coarsest_features_are_those_of_the_bottleneck(
    architecture: str, arguments: dict[str, object], expected: str
) -> None:
    torch.manual_seed(0)
    given = {"in_channels": 3, "num_classes": 2, **arguments}
    model = build_model(ModelConfig(architecture=architecture, arguments=given)).eval()
    stride = int(model.stride)
    tile = torch.randn(1, 3, 8 * stride, 8 * stride)
    name = coarsest_features(model, tile, (stride, stride))
    shapes: list[torch.Size] = []
    model.get_submodule(name).register_forward_hook(lambda _m, _i, output: shapes.append(output.shape[2:]))
    model(tile)
    assert min(shapes[-1]) >= 8  # not the pooled parts of a pyramid
    assert name == expected


def test_a_model_of_one_layer_has_no_features() -> None:
    tile, _ = random_tile()
    with pytest.raises(ConfigError, match="no features before its logits"):
        coarsest_features(Linear([1.0, 1.0, 1.0], 0.0), tile, (1, 1))


def test_band_occlusion_finds_the_one_band_that_is_read() -> None:
    tile, region = random_tile()
    model, bias = Linear([0.0, 3.0, 0.0], -1.0), -1.0
    found = band_occlusion(model, tile, 1, region)
    probability = 1 / (1 + np.exp(-(3 * tile[0, 1].numpy().astype(float) + bias)))
    px = int(region.sum())
    assert found.probability == pytest.approx(probability[region.numpy()].sum(), rel=1e-5)
    assert found.without[0] == found.without[2] == found.probability
    assert found.without[1] == pytest.approx(px / (1 + np.exp(-bias)), rel=1e-5)
    was_one = (probability > 0.5)[region.numpy()].sum()
    assert found.lost_px == [px - was_one, px, px - was_one]
    needed = np.where(region.numpy(), probability - 1 / (1 + np.exp(-bias)), 0).clip(0)
    np.testing.assert_allclose(found.most.numpy(), needed, atol=1e-6)
