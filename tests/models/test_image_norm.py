"""Image norm: an instance norm in training; with an image's statistics in its place, a batch norm that stands still."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segcore.models import ModelConfig, build_model
from segcore.models.image_norm import ImageNorm, adapted, has_image_norm, standing, varied
from segcore.models.receptive import ReceptiveField, receptive_field


def unet(norm: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    given = {"in_channels": 3, "num_classes": 2, "channels": (4, 8), "norm": norm, **arguments}
    return build_model(ModelConfig(architecture="unet", arguments=given)).eval()


@pytest.mark.parametrize("shape", [(3, 4, 8, 6), (2, 4, 3, 8, 6)], ids=["plane", "volume"])
@pytest.mark.parametrize("learns", [True, False])
def test_by_itself_it_is_instance_norm(shape: tuple[int, ...], learns: bool) -> None:
    norm = ImageNorm(4, len(shape) - 2)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    features = torch.randn(shape).requires_grad_(learns)
    with torch.set_grad_enabled(learns):
        found = norm(features)
        expected = F.instance_norm(features, weight=norm.weight, bias=norm.bias)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        if learns:
            towards = torch.randn(shape)
            gradients = [torch.autograd.grad(made, (features, norm.weight), towards) for made in (found, expected)]
            torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("shape", [(3, 4, 8, 6), (3, 4, 3, 8, 6)], ids=["plane", "volume"])
def test_varied_it_takes_the_statistics_of_a_tile_to_be_off(shape: tuple[int, ...], learns: bool) -> None:
    norm = ImageNorm(4, len(shape) - 2).train(learns)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    features, seeds = torch.randn(shape) * 3 + 5, [(7, 0, tile) for tile in range(3)]
    with varied(norm, 0.5, seeds):
        assert norm.noise is not None
        noise, found = norm.noise, norm(features)
    axes, wide = tuple(range(2, len(shape))), (3, 4, *(1,) * (len(shape) - 2))
    variance, mean = torch.var_mean(features, axes, correction=0, keepdim=True)
    deviation = variance.sqrt()
    mean, deviation = mean + deviation * noise[:, 0].view(wide), deviation * torch.exp(-noise[:, 1].view(wide))
    flat = (1, 4, *wide[2:])
    expected = (features - mean) / deviation * norm.weight.view(flat) + norm.bias.view(flat)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert norm.noise is None


def test_all_frames_of_a_tile_of_a_sequence_are_off_alike() -> None:
    norm = ImageNorm(2, 2).train()
    frame = torch.randn(1, 2, 6, 5)
    with varied(norm, 0.5, [(1, 0, 0), (1, 0, 1)]):
        found = norm(frame.expand(6, -1, -1, -1))
    assert all(torch.equal(found[0], found[t]) and torch.equal(found[3], found[3 + t]) for t in (1, 2))
    assert not torch.equal(found[0], found[3])


def test_what_is_drawn_for_a_tile_is_its_own_whatever_else_is_in_the_batch() -> None:
    norms = nn.Sequential(ImageNorm(4, 2), ImageNorm(6, 2))
    seeds = [(3, 0, tile) for tile in range(400)]

    def drawn(chosen: list[tuple[int, int, int]]) -> torch.Tensor:
        with varied(norms, 0.2, chosen):
            return torch.cat([norm.noise.flatten(1) for norm in norms if norm.noise is not None], dim=1)

    everything = drawn(seeds)
    assert torch.equal(drawn(seeds[7:9]), everything[7:9])
    exact = (everything == 0).all(dim=1)
    assert 0.4 < exact.float().mean() < 0.6
    assert everything[~exact].std() == pytest.approx(0.2, rel=0.05)
    with varied(norms, 0.0, seeds):
        assert norms[0].noise is None


def test_adapted_it_normalises_by_the_sample_and_a_tile_says_nothing_of_its_own() -> None:
    model = nn.Sequential(ImageNorm(2, 2)).eval()
    sample = torch.randn(3, 2, 16, 16) * torch.tensor([2.0, 5.0])[:, None, None] + 7
    own = adapted(model, sample)
    mean, std = sample.mean((0, 2, 3)), sample.std((0, 2, 3))
    flat = torch.full((1, 2, 4, 4), 9.0)
    expected = ((9 - mean) / std)[None, :, None, None].expand(1, 2, 4, 4)
    torch.testing.assert_close(own(flat), expected, rtol=1e-3, atol=1e-3)
    assert model(flat).abs().max() < 1e-3, "the model itself stays as it is"


def test_adapted_to_an_image_a_network_answers_for_that_image_as_by_itself() -> None:
    """One tile, which is all of the image, is its own sample."""
    model = unet("image")
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(adapted(model, image)(image), model(image), rtol=1e-2, atol=1e-2)


def test_a_single_pixel_at_the_coarsest_stage_is_enough_of_a_sample() -> None:
    model, image = unet("image", channels=(4, 8, 8)), torch.randn(1, 3, 4, 4)
    assert torch.isfinite(adapted(model, image)(image)).all()


def test_other_light_and_contrast_change_nothing() -> None:
    model, image = unet("image"), torch.randn(2, 3, 32, 32)
    brighter = 3 * image + 5
    with torch.no_grad():
        one, other = adapted(model, image)(image), adapted(model, brighter)(brighter)
        inner = (..., slice(8, 24), slice(8, 24))  # zeros around the tile are another value in either
        assert (one[inner] - other[inner]).abs().max() < 0.5 * one.std()


def test_the_field_is_that_of_the_model_as_it_stands() -> None:
    fields = [receptive_field(unet(norm), 3, (2, 2)) for norm in ("batch", "image", "group")]
    assert fields[0] == fields[1] == ReceptiveField((8, 8), (2, 2))
    assert fields[2].context is None


def test_only_models_with_image_norms_are_copied() -> None:
    assert has_image_norm(unet("image"))
    plain = unet("batch")
    assert not has_image_norm(plain)
    assert standing(plain) is plain
    own = standing(unet("image", dims=3))
    assert [type(module) for module in own.modules() if "Norm" in type(module).__name__] == [nn.BatchNorm3d] * 6
