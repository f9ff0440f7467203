"""Seeded images and models for the tests of inference, and the plain way to the same answers."""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from segcore.classes import default_classes
from segcore.geometry import Window, reflected
from segcore.inference.numerics import Network
from segcore.instances.rule import NUM_PARTS, Rule
from segcore.models import ModelConfig, build_model
from segcore.models.package import InputContract, ModelPackage, PackageInfo, write_package
from segcore.spatial import Spacing
from segcore.store import Workspace

MEAN, STD = (110.0, 120.0, 130.0), (60.0, 55.0, 50.0)


def scene(height: int, width: int, seed: int = 0, cell: int = 8) -> npt.NDArray[np.uint8]:
    """Blocks of random colour under noise, (3, Y, X): texture on two scales, no two tiles alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (3, -(-height // cell), -(-width // cell)))
    blocks = coarse.repeat(cell, axis=1).repeat(cell, axis=2)[:, :height, :width]
    return np.clip(blocks + rng.integers(-30, 31, blocks.shape), 0, 255).astype(np.uint8)


def unet_package(
    ws: Workspace,
    num_classes: int = 3,
    channels: tuple[int, ...] = (8, 16),
    tile_px: int = 128,
    halo_px: int = 16,
    dtype: str = "uint8",
    spacing: Spacing | None = None,
    **arguments: Any,
) -> ModelPackage:
    """A U-Net of seeded random weights whose classes all occur: the head takes out each logit's mean."""
    config, state = _seeded_unet(num_classes, channels, **arguments)
    return _package(ws, config, state, num_classes, 2 ** (len(channels) - 1), tile_px, halo_px, dtype, spacing)


@functools.cache
def _seeded_unet(
    num_classes: int, channels: tuple[int, ...], **arguments: Any
) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """Made once: it would take each test half a second."""
    config = ModelConfig(
        architecture="unet",
        arguments={"in_channels": 3, "num_classes": num_classes, "channels": channels, **arguments},
    )
    torch.manual_seed(7)
    model = build_model(config).train()
    pixels = torch.from_numpy(scene(256, 256, seed=99)).float()
    tiles = ((pixels - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1))[None]
    with torch.no_grad():
        for _ in range(20):
            model(tiles)
        head: Any = model.eval().get_submodule("head")
        head.weight.mul_(10)
        head.bias.sub_(model(tiles).mean(dim=(0, 2, 3)))
    return config, model.state_dict()


def conv_package(
    ws: Workspace,
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any],
    tile_px: int = 128,
    halo_px: int = 0,
    **contract: Any,
) -> ModelPackage:
    """A one-layer model: logits = weights (K, C, k, k) * pixels + bias (K,)."""
    num_classes, in_channels, kernel_px, _ = weights.shape
    arguments = {"in_channels": in_channels, "num_classes": num_classes, "kernel_px": kernel_px}
    config = ModelConfig(architecture="conv1", arguments=arguments)
    state = {"conv.weight": torch.tensor(weights).float(), "conv.bias": torch.tensor(bias).float()}
    return _package(
        ws, config, state, num_classes, 1, tile_px, halo_px, in_channels=in_channels, plain=True, **contract
    )


def volume_package(
    ws: Workspace, num_channels: int, kernel_px: int, kernel_planes: int, axes: tuple[str, ...]
) -> ModelPackage:
    """A one-layer model of volumes with three classes, seeded; its receptive field is all the halo it needs."""
    rng = np.random.default_rng(3)
    kernel = (3, num_channels, kernel_planes, kernel_px, kernel_px)
    weights = rng.normal(size=kernel) / np.sqrt(np.prod(kernel[1:]))
    bias = -weights.sum(axis=(1, 2, 3, 4)) * 140
    arguments = {
        "in_channels": num_channels, "num_classes": 3, "kernel_px": kernel_px, "kernel_planes": kernel_planes,
    }  # fmt: skip
    state = {"conv.weight": torch.tensor(weights).float(), "conv.bias": torch.tensor(bias).float()}
    contract = InputContract.model_validate(
        {
            "axes": axes, "bands": [f"band {i}" for i in range(num_channels)], "dtype": "uint8", "spacing": None,
            "mean": [0.0] * num_channels, "std": [1.0] * num_channels, "tile_px": 128, "halo_px": kernel_px // 2,
            "tile_planes": 4, "halo_planes": kernel_planes // 2,
        }
    )  # fmt: skip
    info = PackageInfo(
        name="volume",
        architecture=ModelConfig(architecture="conv1", arguments=arguments),
        contract=contract,
        classes=default_classes(3),
    )
    return write_package(ws.objects, "models", info, state)


def _package(
    ws: Workspace,
    config: ModelConfig,
    state: dict[str, torch.Tensor],
    num_classes: int,
    stride: int,
    tile_px: int,
    halo_px: int,
    dtype: str = "uint8",
    spacing: Spacing | None = None,
    in_channels: int = 3,
    plain: bool = False,
    instances: Rule | None = None,
) -> ModelPackage:
    contract = InputContract(
        bands=tuple(f"band {i}" for i in range(in_channels)),
        dtype=dtype,
        spacing=spacing,
        mean=(0.0,) * in_channels if plain else MEAN,
        std=(1.0,) * in_channels if plain else STD,
        tile_px=tile_px,
        halo_px=halo_px,
        stride=stride,
    )
    classes = default_classes(num_classes - (NUM_PARTS if instances else 0))
    if instances:
        classes = (classes[0].model_copy(update={"name": "background"}), *classes[1:])
    info = PackageInfo(name="seeded", architecture=config, contract=contract, classes=classes, instances=instances)
    return write_package(ws.objects, "models", info, state)


def mask_of(ws: Workspace, image_id: str, name: str, level: int = 0) -> npt.NDArray[Any]:
    """A finished mask, whole."""
    label = ws.label(image_id, name)
    return label.read(Window.whole(label.shape(level)), level)


def every_level(ws: Workspace, image_id: str, name: str) -> list[npt.NDArray[Any]]:
    return [mask_of(ws, image_id, name, level) for level in range(ws.label(image_id, name).num_levels)]


def padded(pixels: npt.NDArray[Any], halo: int, stride: int) -> npt.NDArray[Any]:
    """The whole image (C, Y, X), mirrored to a multiple of the stride and by the halo."""
    for axis in (1, 2):
        size = pixels.shape[axis]
        length = -(-size // stride) * stride + 2 * halo
        pixels = pixels.take(reflected(-halo, length, size), axis=axis)
    return pixels


def whole_image_mask(package: ModelPackage, pixels: npt.NDArray[Any], halo: int) -> npt.NDArray[Any]:
    """The model run once on all of the image, float32."""
    network = Network(package, torch.device("cpu"), "float32", batch=1)
    with torch.inference_mode():
        ids = network.ids(padded(pixels, halo, package.contract.stride)[None], (halo, halo))[0]
    return ids[: pixels.shape[1], : pixels.shape[2]]
