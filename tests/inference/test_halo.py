"""halo: exact gives the mask of the whole image; fast says what it costs; global context gets gaussian."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch import nn

from segcore.classes import default_classes
from segcore.config import PredictConfig
from segcore.errors import ConfigError
from segcore.inference import field, predict
from segcore.inference import halo as module
from segcore.inference.field import with_kept_field
from segcore.inference.model_grid import ModelGrid
from segcore.inference.numerics import Network
from segcore.inference.precision import device_slug
from segcore.inference.tile_choice import exact_tile_px, tiling_for
from segcore.models import ARCHITECTURES, Architecture, ModelConfig, build_model
from segcore.models.package import InputContract, ModelPackage, PackageInfo, write_package
from segcore.models.receptive import measured, with_field
from segcore.results import StageResult
from segcore.store import Workspace, verify
from tests.inference.scenes import MEAN, STD, mask_of, padded, scene, unet_package, volume_package, whole_image_mask
from tests.synthetic import put_image

HEIGHT, WIDTH = 603, 517


class Arguments(BaseModel):
    in_channels: int
    num_classes: int
    layers: str
    stride: int = 1


class Layers(nn.Module):
    """One of the stacks below."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        self.stride = arguments.stride
        self.layers = nn.Sequential(*STACKS[arguments.layers][1](arguments.in_channels, arguments.num_classes))

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return self.layers(tiles)  # type: ignore[no-any-return]


def conv(a: int, b: int, kernel_px: int = 3, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(a, b, kernel_px, padding="same", dilation=dilation)


STACKS: dict[str, tuple[int, Callable[[int, int], list[nn.Module]]]] = {
    "plain": (1, lambda c, k: [conv(c, 8, 5), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, k)]),
    "dilated": (1, lambda c, k: [conv(c, 8, 3, 4), nn.ReLU(), conv(8, 8, 3, 2), nn.ReLU(), conv(8, k)]),
    "max pool": (1, lambda c, k: [conv(c, 8), nn.MaxPool2d(3, stride=1, padding=1), conv(8, k, 5)]),
    "strided": (
        4,
        lambda c, k: [
            nn.Conv2d(c, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(),
            conv(8, 8), nn.ConvTranspose2d(8, 8, 2, stride=2), nn.ReLU(),
            nn.ConvTranspose2d(8, k, 4, stride=2, padding=1),
        ],
    ),
    "bilinear": (
        2, lambda c, k: [conv(c, 8), nn.MaxPool2d(2), conv(8, k), nn.Upsample(scale_factor=2, mode="bilinear")]
    ),
    "instance norm": (1, lambda c, k: [conv(c, 8), nn.InstanceNorm2d(8), conv(8, k)]),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plain way uses the tile workers' kernels, those for one thread."""
    monkeypatch.setitem(ARCHITECTURES, "layers", Architecture(Arguments, Layers, "layers", "test", "", "here", None))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "a", scene(HEIGHT, WIDTH))
    return ws


def package_of(ws: Workspace, name: str, tells: bool = False, **contract: Any) -> ModelPackage:
    """Seeded layers whose classes all occur; the package says how far they look, or leaves it to be measured."""
    torch.manual_seed(5)
    stride = STACKS[name][0]
    config = ModelConfig(
        architecture="layers", arguments={"in_channels": 3, "num_classes": 3, "layers": name, "stride": stride}
    )
    model = build_model(config).eval()
    pixels = torch.from_numpy(scene(256, 256, seed=9)).float()
    normal = (pixels - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1)
    last = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)][-1]
    with torch.no_grad():
        last.bias.sub_(model(normal[None]).mean(dim=(0, 2, 3)))
    bands = [f"band {i}" for i in range(3)]
    values = {"bands": bands, "dtype": "uint8", "spacing": None, "mean": MEAN, "std": STD, "stride": stride}
    given = InputContract.model_validate({"tile_px": 64, "halo_px": 4, **values, **contract})
    info = PackageInfo(
        name="layers",
        architecture=config,
        contract=measured(given, model) if tells else given,
        classes=default_classes(3),
    )
    return write_package(ws.objects, "models", info, model.state_dict())


def run(ws: Workspace, package: ModelPackage, name: str, **settings: Any) -> StageResult:
    values = {"precision": "float32", "device": "cpu", "shard_px": 256, **settings}
    result = predict(PredictConfig(workspace=ws.uri, model=package.model_id, name=name, **values))
    assert {item.error for item in result.items} == {None}
    assert verify(ws) == []
    return result


def masked(ws: Workspace, package: ModelPackage, name: str, **settings: Any) -> np.ndarray:
    run(ws, package, name, **settings)
    return mask_of(ws, "a", name)


@pytest.mark.parametrize("name", ["plain", "dilated", "max pool", "strided", "bilinear", "unet"])
def test_exact_is_the_mask_of_the_whole_image(ws: Workspace, name: str) -> None:
    package = unet_package(ws, channels=(8, 8, 8)) if name == "unet" else package_of(ws, name)
    contract = with_field(package).contract
    halo_px = contract.receptive_px
    assert halo_px
    expected = whole_image_mask(package, scene(HEIGHT, WIDTH), halo_px)
    assert np.bincount(expected.ravel()).min() > 5_000, "the test needs all classes"
    large = masked(ws, package, "large", halo="exact", shard_px=512)
    np.testing.assert_array_equal(large, expected)
    np.testing.assert_array_equal(masked(ws, package, "small", halo="exact", tile_px=64), expected)
    assert ws.label("a", "small").attributes["predict"]["halo_px"] == [halo_px, halo_px]
    assert ws.label("a", "small").attributes["predict"]["tile_px"] == [64, 64]
    assert ws.label("a", "large").attributes["predict"]["tile_px"] == [512, 512]


@pytest.mark.parametrize("name", ["plain", "dilated", "max pool", "strided", "bilinear"])
def test_one_stride_less_than_exact_is_another_mask(ws: Workspace, name: str) -> None:
    package = package_of(ws, name)
    contract = with_field(package).contract
    assert contract.receptive_px
    less = contract.receptive_px - contract.stride
    mask = masked(ws, package, "less", halo=less, tile_px=64 if less else 32)
    expected = whole_image_mask(package, scene(HEIGHT, WIDTH), contract.receptive_px)
    assert 0.9 < (mask == expected).mean() < 1


@pytest.mark.parametrize("is_enough", [True, False])
def test_the_context_of_a_unet_is_neither_too_small_nor_too_large(ws: Workspace, is_enough: bool) -> None:
    """Too little to change a class of this image; the logits tell."""
    package = with_field(unet_package(ws, channels=(8, 8, 8)))
    halo = package.contract.receptive_px or 0
    network = Network(package, torch.device("cpu"), "float32", batch=1)
    pixels, cut = padded(scene(400, 400), halo, 4), 0 if is_enough else 4
    with torch.inference_mode():
        whole = network.logits(pixels[None])[..., halo + 128 : halo + 256, halo + 128 : halo + 256]
        part = np.ascontiguousarray(pixels[:, 128 + cut : 256 + 2 * halo - cut, 128 + cut : 256 + 2 * halo - cut])
        inner = slice(halo - cut, halo - cut + 128)
        difference = (network.logits(part[None])[..., inner, inner] - whole).abs().max()
    assert (difference < 1e-5) if is_enough else (difference > 1e-4)


def test_exact_holds_for_volumes(ws: Workspace) -> None:
    """The mask of tiles is that of all planes at once, mirrored by the same context."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (2, 7, 300, 270)).astype(np.uint8)
    put_image(ws, "a", pixels, axes=("c", "z", "y", "x"))
    package = volume_package(ws, num_channels=2, kernel_px=5, kernel_planes=3, axes=("z", "y", "x"))
    once = masked(ws, package, "once", halo="exact", tile_planes=7, tile_px=512, shard_px=512)
    assert ws.label("a", "once").attributes["predict"]["halo_px"] == [1, 2, 2]
    assert ws.label("a", "once").attributes["predict"]["tile_px"] == [7, 300, 270]
    for planes, px in ((1, 64), (2, 128), (3, None)):
        mask = masked(ws, package, f"cut{planes}", halo="exact", tile_planes=planes, tile_px=px)
        np.testing.assert_array_equal(mask, once)
    less = masked(ws, package, "less", halo="exact", halo_planes=0, tile_planes=2)
    assert (less != once).mean() > 0.01
    assert ws.label("a", "less").attributes["predict"]["halo_px"] == [0, 2, 2]


@pytest.mark.parametrize("tells", [True, False])
def test_global_context_gets_gaussian_and_no_exact(ws: Workspace, tells: bool) -> None:
    package = package_of(ws, "instance norm", tells)
    assert package.contract.global_context == tells
    result = run(ws, package, "auto")
    assert "halo_disagreement" not in result.details
    plan = ws.label("a", "auto").attributes["predict"]
    assert (plan["blend"], plan["tile_px"], plan["halo_px"]) == ("gaussian", [64, 64], [8, 8])
    run(ws, package, "cropped", blend="crop")
    assert ws.label("a", "cropped").attributes["predict"]["blend"] == "crop"
    with pytest.raises(ConfigError, match="this one looks at the whole tile") as caught:
        run(ws, package, "exact", halo="exact")
    assert "\n" not in str(caught.value)


def test_exact_and_gaussian_exclude_each_other(ws: Workspace) -> None:
    with pytest.raises(ConfigError, match="expected blend crop, got gaussian"):
        run(ws, package_of(ws, "plain"), "both", halo="exact", blend="gaussian")


@pytest.mark.parametrize(
    ("tile_px", "halo_px", "planes", "num_classes", "expected"),
    [
        (512, 1, 1, 2, 1024),  # large, as the design asks
        (512, 96, 1, 2, 1024),
        (512, 256, 1, 2, 1933),  # (1933 + 2 * 256)^2 = 1.6 * 1933^2
        (512, 1000, 1, 2, 896),  # a wider one would take too much memory
        (2048, 1, 1, 2, 2048),  # the package's is large enough
        (512, 96, 64, 2, 512),
        (256, 16, 1, 150, 636),  # (636 + 2 * 16)^2 * 150 * 4 bytes of logits = 256 MiB
    ],
)
def test_exact_tiles_are_large_enough_for_their_halo(
    tile_px: int, halo_px: int, planes: int, num_classes: int, expected: int
) -> None:
    assert exact_tile_px(tile_px, halo_px, planes, num_classes) == expected


def test_exact_tiles_fit_the_shard(ws: Workspace) -> None:
    put_image(ws, "large", np.zeros((3, 3000, 2500), np.uint8))
    package = with_field(package_of(ws, "plain"))
    for shard_px, core in ((2048, 1024), (512, 512), (768, 768)):
        config = PredictConfig(workspace=ws.uri, model=package.model_id, halo="exact", shard_px=shard_px)
        tiling = tiling_for(config, package, ModelGrid(ws.image("large")))
        assert (tiling.core, tiling.halo) == ((core, core), (4, 4))


class Listener:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, stage: str, total: int, unit: str) -> None: ...

    def advance(self, amount: int = 1) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_fast_reports_the_labels_it_changes(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    package = package_of(ws, "dilated", halo_px=0, tile_px=32)
    every = module.spread_tiles
    monkeypatch.setattr(module, "spread_tiles", lambda image, tiling: every(image, tiling, 10_000))
    listener = Listener()
    result = predict(
        PredictConfig(workspace=ws.uri, model=package.model_id, precision="float32", name="fast", shard_px=256),
        listener,
    )
    expected = whole_image_mask(package, scene(HEIGHT, WIDTH), 7)
    grid = ModelGrid(ws.image("a"))
    seen = sorted(tile.write.start for tile in every(grid, tiling_of(ws, package), 10_000))
    changed = [(mask_of(ws, "a", "fast") != expected)[y : min(y + 32, HEIGHT), x : min(x + 32, WIDTH)] for y, x in seen]
    share = sum(int(part.sum()) for part in changed) / sum(part.size for part in changed)
    assert share > 0.01
    assert result.details["halo_disagreement"] == pytest.approx(share, abs=1e-6)
    assert listener.notes == [
        f"halo fast (0 px): {share:.1%} of the labels on a few tiles are others with halo exact (7 px); "
        "give --halo exact, or a number of px between the two"
    ]


def tiling_of(ws: Workspace, package: ModelPackage) -> Any:
    config = PredictConfig(workspace=ws.uri, model=package.model_id, shard_px=256)
    return tiling_for(config, with_field(package), ModelGrid(ws.image("a")))


def test_the_disagreement_is_measured_once(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    package = package_of(ws, "dilated")
    first = run(ws, package, "first").details["halo_disagreement"]
    assert 0 < first < 0.5
    key = f"state/models/{package.model_id}/halo-{device_slug(torch.device('cpu'))}.json"
    kept = json.loads(ws.objects.get(key) or b"")
    assert (kept["fast_px"], kept["exact_px"], kept["tile_px"]) == ([4, 4], [7, 7], [64, 64])
    with monkeypatch.context() as patch:
        patch.setattr(module, "measure_disagreement", None)
        assert run(ws, package, "second").details["halo_disagreement"] == first
    ws.objects.put(key, b"damaged")
    result = predict(PredictConfig(workspace=ws.uri, model=package.model_id, precision="float32", shard_px=256))
    assert result.details["halo_disagreement"] == first


def test_other_halos_have_no_disagreement(ws: Workspace) -> None:
    package = package_of(ws, "dilated")
    for name, settings in {"exact": {"halo": "exact"}, "px": {"halo": 4}, "gaussian": {"blend": "gaussian"}}.items():
        assert "halo_disagreement" not in run(ws, package, name, **settings).details
    wide = package_of(ws, "dilated", halo_px=16)
    assert run(ws, wide, "wide").details["halo_disagreement"] == 0.0


def test_an_image_that_cannot_show_the_disagreement_is_passed_over(ws: Workspace) -> None:
    put_image(ws, "0-empty", np.zeros((3, 300, 300), np.uint8), nodata=0)
    package = package_of(ws, "dilated", halo_px=0, tile_px=32)
    assert run(ws, package, "mask").details["halo_disagreement"] > 0


def test_a_finished_mask_satisfies_fast_and_auto(ws: Workspace) -> None:
    package = package_of(ws, "plain")
    run(ws, package, "mask", halo="exact")
    assert run(ws, package, "mask").items[0].state == "skipped"
    result = predict(PredictConfig(workspace=ws.uri, model=package.model_id, name="mask", shard_px=256, halo=0))
    assert result.items[0].state == "failed"
    assert "halo_px" in str(result.items[0].error)


def test_a_field_is_measured_once_and_kept(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    package, other = unet_package(ws, channels=(8, 8, 8)), package_of(ws, "plain")
    measured_ids: list[str] = []

    def counted(package: ModelPackage) -> ModelPackage:
        measured_ids.append(package.model_id)
        return with_field(package)

    monkeypatch.setattr(field, "with_field", counted)
    for ensemble in ((), (other.model_id,), (other.model_id,)):
        run(ws, package, f"of{len(ensemble)}", halo="exact", ensemble=ensemble)
    assert measured_ids == [package.model_id, other.model_id]
    expected = with_field(package).contract
    assert with_kept_field(ws, package, dry_run=False).contract == expected
    assert expected.is_measured
    key = f"state/models/{package.model_id}/field.json"
    ws.objects.put(key, b"damaged")
    assert with_kept_field(ws, package, dry_run=True).contract == expected
    assert ws.objects.get(key) == b"damaged"
    assert with_kept_field(ws, package, dry_run=False).contract == expected
    assert measured_ids == [package.model_id, other.model_id, package.model_id, package.model_id]
    assert with_kept_field(ws, with_field(package), dry_run=False).contract == expected
    assert len(measured_ids) == 4
