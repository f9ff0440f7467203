"""MONAI networks: the same logits as MONAI's own, packaged and read back; listed without loading MONAI."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks import nets
from torch import nn

from segcore.classes import default_classes
from segcore.errors import ConfigError
from segcore.models import ARCHITECTURES, ModelConfig, build_model, weightless
from segcore.models.package import InputContract, PackageInfo, read_package, write_package
from segcore.models.receptive import receptive_field
from segcore.store import Objects

NEEDS_EINOPS = pytest.mark.skipif(importlib.util.find_spec("einops") is None, reason="extra `volumes` is incomplete")
OURS: dict[str, dict[str, Any]] = {
    "dynunet": {"channels": (4, 8, 8)},
    "segresnet": {"first_channels": 8, "depths": (1, 1)},
    "swinunetr": {"features": 12, "window": 4},
    "unetr": {"features": 8, "hidden": 12, "heads": 3, "grid_px": 32, "grid_planes": 16},
}
"""Small ones."""
EACH = [pytest.param(name, marks=NEEDS_EINOPS if name in ("swinunetr", "unetr") else ()) for name in OURS]
INSTANCE = ("instance", {"affine": True})


def built(name: str, dims: int, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    given = {"in_channels": 2, "num_classes": 3, "dims": dims, **OURS[name], **arguments}
    return build_model(ModelConfig(architecture=name, arguments=given)).eval()


def monais(name: str, dims: int) -> nn.Module:
    """The same network, as MONAI's users build it."""
    common: dict[str, Any] = {"spatial_dims": dims, "in_channels": 2, "out_channels": 3}
    made: nn.Module
    if name == "dynunet":
        steps = {"strides": (1, 2, 2), "kernel_size": (3, 3, 3), "upsample_kernel_size": (2, 2)}
        made = nets.DynUNet(**common, **steps, filters=(4, 8, 8), norm_name=INSTANCE)
    elif name == "segresnet":
        made = nets.SegResNet(**common, init_filters=8, blocks_down=(1, 1), blocks_up=(1,), norm=INSTANCE)
    elif name == "swinunetr":
        made = nets.SwinUNETR(**common, feature_size=12, window_size=4, norm_name=INSTANCE)
    else:
        size = {"img_size": (16, 32, 32)[-dims:], "feature_size": 8, "hidden_size": 12, "mlp_dim": 48, "num_heads": 3}
        made = nets.UNETR(**common, **size, norm_name=INSTANCE)
    return made.eval()


def sides(name: str, dims: int) -> tuple[int, ...]:
    return {"swinunetr": (32, 64, 32), "unetr": (16, 32, 32)}.get(name, (8, 16, 24))[-dims:]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", EACH)
def test_logits_are_monais(name: str, dims: int) -> None:
    ours, theirs = built(name, dims), monais(name, dims)
    missing, _ = theirs.load_state_dict(ours.state_dict(), strict=False)
    # DynUNet's second names of the same weights, and weights of UNETR that nothing reads.
    assert all("skip_layers." in key or "norm_cross_attn" in key for key in missing)
    tiles = torch.randn(2, 2, *sides(name, dims), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(ours(tiles), theirs(tiles), rtol=1e-4, atol=1e-5)


@NEEDS_EINOPS
def test_unetr_takes_tiles_of_another_size_than_the_grid_of_its_places() -> None:
    model = built("unetr", 3)
    with torch.inference_mode():
        assert model(torch.randn(1, 2, 32, 48, 16)).shape == (1, 3, 32, 48, 16)


def test_dynunet_leaves_the_planes_apart_in_flat_stages() -> None:
    model = built("dynunet", 3, channels=(4, 4, 4, 4), flat_stages=2)
    assert (model.stride, model.stride_planes) == (8, 2)
    field = receptive_field(model, 2, (2, 8, 8))
    assert field.context is not None
    assert field.context[0] < field.context[1] == field.context[2]
    with pytest.raises(ConfigError, match="flat_stages: expected dims=3"):
        built("dynunet", 2, flat_stages=1)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", EACH)
def test_the_norm_that_is_asked_for_is_in_every_place(name: str, norm: str) -> None:
    kinds = {type(module) for module in built(name, 2, norm=norm).modules()}
    assert (nn.BatchNorm2d if norm == "batch" else nn.GroupNorm) in kinds
    assert not kinds & {nn.InstanceNorm2d, nn.BatchNorm2d if norm == "group" else nn.GroupNorm}


@NEEDS_EINOPS
@pytest.mark.parametrize("name", ["swinunetr", "unetr"])
def test_networks_that_see_all_of_a_tile_are_not_measured(name: str) -> None:
    model = built(name, 3).to("meta")  # nothing can be computed there
    assert receptive_field(model, 2, (32, 32, 32)).context is None


@pytest.mark.parametrize("name", EACH)
def test_what_the_list_tells_is_so(name: str) -> None:
    model = weightless(ModelConfig(architecture=name, arguments={"in_channels": 3, "num_classes": 2}))
    parameters = sum(weight.numel() for weight in model.parameters())
    assert ARCHITECTURES[name].told == (parameters, model.stride, model.axes)


@pytest.mark.parametrize("name", EACH)
def test_a_package_has_the_same_logits_and_building_its_shape_leaves_the_seed(name: str, tmp_path: Path) -> None:
    model = built(name, 2)
    config = ModelConfig(architecture=name, arguments={"in_channels": 2, "num_classes": 3, "dims": 2, **OURS[name]})
    contract = InputContract(bands=("a", "b"), dtype="uint8", spacing=None, mean=(0.0, 0.0), std=(1.0, 1.0))
    info = PackageInfo(name=name, architecture=config, contract=contract, classes=default_classes(3))
    before = torch.get_rng_state()
    package = write_package(Objects(str(tmp_path)), "models", info, model.state_dict())
    again = read_package(None, package.folder).load_weights()
    assert torch.equal(torch.get_rng_state(), before)
    tiles = torch.randn(1, 2, *sides(name, 2))
    with torch.inference_mode():
        assert torch.equal(again(tiles), model(tiles))


def test_all_are_listed_without_loading_monai() -> None:
    code = (
        "import sys; from segcore.models import ARCHITECTURES; from segcore.models.listing import described; "
        "rows = [described(name) for name in ARCHITECTURES]; print('monai' in sys.modules, len(rows))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", str(len(ARCHITECTURES))]


@pytest.mark.parametrize("name", ["swinunetr", "unetr"])
def test_a_missing_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "einops", None)
    with pytest.raises(ConfigError, match=rf"^architecture {name}: needs the extra `volumes`: pip install 'segcore\["):
        build_model(ModelConfig(architecture=name, arguments={"in_channels": 1, "num_classes": 2}))
