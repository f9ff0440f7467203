"""Architectures: arguments are checked before anything is built; every entry tells what it is."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

from segcore.errors import ConfigError
from segcore.models import ARCHITECTURES, ModelConfig, build_model, checked_arguments, takes
from segcore.models.blocks import enlarged
from segcore.models.fitting import fitted
from segcore.models.receptive import receptive_field


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^architecture: no network is called 'u-net'; did you mean unet\?$"):
        build_model(ModelConfig(architecture="u-net"))
    with pytest.raises(ConfigError, match=r"no network is called 'zzzz'; there are unet, "):
        takes("zzzz", "channels")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"sigma": "3"}, r"it has no argument 'sigma'; its own are channels, dropout"),
        ({"dropout": "much"}, r"argument dropout: Input should be a valid number"),
        ({"dropout": "1.5"}, r"argument dropout: Input should be less than 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigError, match=f"^architecture unet: {why}"):
        checked_arguments("unet", {"in_channels": 3, "num_classes": 2, **arguments})


def test_arguments_from_the_command_line_become_what_they_mean_with_all_defaults() -> None:
    found = checked_arguments("conv1", {"in_channels": 3, "num_classes": 2, "kernel_px": "5"})
    assert found == {"in_channels": 3, "num_classes": 2, "kernel_px": 5, "kernel_planes": None}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_says_what_it_is(name: str) -> None:
    entry = ARCHITECTURES[name]
    assert entry.title
    assert entry.family
    assert entry.use
    assert all(field.description for field in entry.arguments.model_fields.values())


SMALL: dict[str, dict[str, Any]] = {
    "unet": {"channels": (4, 8)},
    "attention_unet": {"channels": (4, 8)},
    "segnet": {"channels": (4, 8)},
    "convlstm_unet": {"channels": (4, 8)},
    "tile_classifier": {"channels": (4, 8), "hidden": 8},
    "dynunet": {"channels": (4, 8, 8)},
    "segresnet": {"first_channels": 8, "depths": (1, 1)},
    "swinunetr": {"features": 12, "dims": 2},
    "unetr": {"features": 8, "hidden": 12, "heads": 3, "grid_px": 32, "grid_planes": 16},
}
"""Where the default is more than a test needs."""
CT = {"dims": 3, "in_channels": 1, "num_classes": 14}
UPS = ("up.0.weight", "up.1.weight")
NEEDS_EINOPS = pytest.mark.skipif(importlib.util.find_spec("einops") is None, reason="extra `volumes` is incomplete")


def param(name: str, *marks: pytest.MarkDecorator) -> Any:
    return pytest.param(name, marks=(*marks, NEEDS_EINOPS) if name in ("swinunetr", "unetr") else marks)


NETWORKS = [name for name, entry in ARCHITECTURES.items() if entry.family != "classic" and not entry.detects]
"""What has weights; of a detector see test_mask_rcnn.py."""


def built(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    given = {"in_channels": 3, "num_classes": 4, **SMALL.get(name, {}), **arguments}
    return build_model(ModelConfig(architecture=name, arguments=given))


@pytest.mark.parametrize("name", [param(name) for name in NETWORKS])
def test_logits_have_the_shape_of_the_tiles_and_the_gradient_reaches_every_weight(name: str) -> None:
    model = built(name)
    stride, is_volume = int(model.stride), len(getattr(model, "axes", "yx")) > 2
    planes = (2 * int(getattr(model, "stride_planes", 1)),) if is_volume else ()
    tiles = torch.randn(2, 3, *planes, 2 * stride, 3 * stride)
    logits = model.train()(tiles)
    assert logits.shape == (2, 4, *tiles.shape[2:])
    logits.square().mean().backward()
    assert [key for key, weight in model.named_parameters() if weight.grad is None] == []
    assert all(hasattr(model, part) for part in getattr(model, "encoder", ()))


@pytest.mark.parametrize(
    ("name", "arguments", "millions"),
    [
        # Of the encoders alone: torchvision's counts without the last layer.
        ("fcn32s", {"encoder": "resnet18"}, 11.177 + 0.002),
        ("fcn32s", {"encoder": "resnet34"}, 21.285 + 0.002),
        ("fcn32s", {"encoder": "resnet50"}, 23.508 + 0.008),
        # Table 1 of the paper, encoder and decoder for the 150 classes of ADE20K; it rounds to 0.1.
        ("segformer", {"size": "b0", "num_classes": 150}, 3.8),
        ("segformer", {"size": "b1", "num_classes": 150}, 13.7),
        ("segformer", {"size": "b2", "num_classes": 150}, 27.5),
        # The paper's SegNet has 29.45 M (its table 1 of the arXiv version).
        ("segnet", {"channels": (64, 128, 256, 512, 512), "convolutions": 3}, 29.45),
        # The paper's network, of 31.0 M with two classes.
        ("unet", {"channels": (64, 128, 256, 512, 1024)}, 31.0),
        # Of CT with 14 classes: the tables of Swin UNETR (61.98) and UNETR (92.58). MONAI's are their authors' own.
        pytest.param("swinunetr", {**CT, "features": 48}, 61.98, marks=(NEEDS_EINOPS, pytest.mark.slow)),
        pytest.param(
            "unetr",
            {**CT, "features": 16, "hidden": 768, "heads": 12, "grid_px": 96, "grid_planes": 96},
            92.58,
            marks=NEEDS_EINOPS,
        ),
    ],
)
def test_as_many_weights_as_published(name: str, arguments: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        model = built(name, **arguments)
    num_weights = sum(weight.numel() for weight in model.parameters())
    assert num_weights / 1e6 == pytest.approx(millions, rel=0.01, abs=0.05)


def test_the_u_net_sees_as_far_as_its_paper_says() -> None:
    """Of 572 px without padding 388 come out: figure 1 of the paper."""
    border_px = (572 - 388) // 2
    model = built("unet", channels=(4, 4, 4, 4, 4))
    # Ours are px around whole cells of the stride: what lies 92 px inside may depend on the tile up to its 96th.
    nearest = -(-border_px // model.stride) * model.stride
    assert receptive_field(model, 3, (model.stride,) * 2, finest=False).context == (nearest, nearest) == (96, 96)


def test_a_finer_fcn_begins_as_the_coarser_one() -> None:
    coarse, fine = built("fcn32s").eval(), built("fcn8s").eval()
    taken = fitted(fine, coarse.state_dict())
    assert list(taken.anew) == ["score.1.weight", "score.1.bias", "score.2.weight", "score.2.bias", *UPS]
    tiles = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        found, expected = fine(tiles), coarse(tiles)
        scores = fine.score[0](fine.features(tiles)[-1])
        torch.testing.assert_close(found, enlarged(fine.up[1](fine.up[0](scores)), tiles.shape[2:]))
    # Linear in three steps rather than one: not the same between the cells, but near.
    inside = (..., slice(32, -32), slice(32, -32))
    assert (found - expected)[inside].abs().mean() < 0.1 * expected[inside].std()


QUICK = ("unet", "attention_unet", "tile_classifier", "conv1")
SLOW = [param(name, pytest.mark.slow) for name in NETWORKS if name not in QUICK]
AS_PLANES = ("dynunet", "segresnet")
"""Their fields are the same in every axis, and measured in seconds rather than minutes so."""


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_the_catalog_says_how_far_each_looks(name: str) -> None:
    torch.manual_seed(0)
    arguments = {"in_channels": 3, "num_classes": 2, **({"dims": 2} if name in AS_PLANES else {})}
    model = build_model(ModelConfig(architecture=name, arguments=arguments))
    stride = int(model.stride)
    planes = (int(getattr(model, "stride_planes", 1)),) if len(getattr(model, "axes", "yx")) > 2 else ()
    field = receptive_field(model, 3, (*planes, stride, stride))
    assert ARCHITECTURES[name].context_px == (None if field.context is None else field.context[-1])
    assert field.stride[-2:] == (stride, stride)


def test_a_network_of_sequences_begins_as_the_u_net_whose_weights_it_takes() -> None:
    unet, model = built("unet"), built("convlstm_unet")
    taken = fitted(model, unet.state_dict())
    assert all(name.startswith("memory.") for name in taken.anew)
    tiles = torch.randn(2, 3, 5, 16, 16)
    with torch.no_grad():
        frames = torch.stack([unet.eval()(frame) for frame in tiles.unbind(2)], dim=2)
        torch.testing.assert_close(model.eval()(tiles), frames)


def test_a_frame_is_seen_in_the_light_of_those_before_it_alone() -> None:
    model = built("convlstm_unet").eval()
    nn.init.normal_(model.memory.gates.weight, std=0.5)
    tiles = torch.randn(1, 3, 6, 16, 16)
    changed = tiles.clone()
    changed[:, :, 2] += 1
    with torch.no_grad():
        is_other = (model(tiles) != model(changed)).flatten(3).any(dim=3)[0].any(dim=0)
    assert is_other.tolist() == [False, False, True, True, True, True]
