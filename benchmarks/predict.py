"""Predict, from store to store, beside the bare forward pass and MONAI's sliding window.

All contestants have the same weights and the same image in the same store, and take turns, so that a busy
machine is busy for all; compare the ratios, which are of medians. The peer writes its mask through our store.

    ours                     segcore.inference.predict, blend: crop
    ours_gaussian            the same, blend: gaussian, tiles of 512 px that overlap by a quarter
    forward                  the model alone on ready tiles, as many as `ours` infers, one thread per core
    monai_default            sliding_window_inference as its documentation shows it: float32, overlap 0.25,
                             gaussian, four windows at once
    monai_same_precision     the same in our precision, folded, channels last, one window at once

`vs_forward` is 1 where reading, blending and writing cost nothing; `useful_vs_forward` counts the halo as lost.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from segcore.classes import default_classes
from segcore.config import PredictConfig
from segcore.geometry import Window
from segcore.inference import predict
from segcore.inference.numerics import Network, resolve_device
from segcore.measure import num_cores
from segcore.models import ModelConfig, build_model
from segcore.models.package import InputContract, ModelPackage, PackageInfo, write_package
from segcore.store import PyramidSpec, Staging, Workspace

MEAN, STD = (127.0, 127.0, 127.0), (60.0, 60.0, 60.0)
TILE_PX, HALO_PX = 512, 32
CHANNELS = (16, 32, 64, 128, 256)


def put_scene(ws: Workspace, side: int) -> None:
    """A seeded RGB scene: smooth blobs under noise, about as compressible as a photograph."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(30, 220, (3, -(-side // 32), -(-side // 32)), dtype=np.uint8)
    pixels = coarse.repeat(32, axis=1).repeat(32, axis=2)[:, :side, :side]
    pixels = pixels + rng.integers(0, 30, pixels.shape, dtype=np.uint8)
    spec = PyramidSpec(axes=("c", "y", "x"), shape=pixels.shape, dtype="uint8", kind="image")
    with Staging.begin(ws, "scene", "image", {"side": side}, spec) as staging:
        staging.put_all(pixels)
        staging.finish({"source": "seeded"}, channels=("red", "green", "blue"))


def put_package(ws: Workspace) -> ModelPackage:
    """A U-Net of base 16 and about 1.9 million seeded random weights, two classes."""
    torch.manual_seed(0)
    arguments = {"in_channels": 3, "num_classes": 2, "channels": CHANNELS}
    config = ModelConfig(architecture="unet", arguments=arguments)
    model = build_model(config).train()
    with torch.no_grad():
        for _ in range(10):  # so that batch norm has met its inputs
            model(torch.randn(2, 3, 128, 128))
    contract = InputContract(
        bands=("red", "green", "blue"), dtype="uint8", spacing=None, mean=MEAN, std=STD,
        tile_px=TILE_PX, halo_px=HALO_PX, stride=2 ** (len(CHANNELS) - 1),
    )  # fmt: skip
    info = PackageInfo(name="unet16", architecture=config, contract=contract, classes=default_classes(2))
    return write_package(ws.objects, "models", info, model.state_dict())


class Bench:
    """The contestants on one image; each method returns the seconds that it took."""

    def __init__(self, ws: Workspace, package: ModelPackage, device: str, precision: str) -> None:
        self.ws, self.package, self.precision = ws, package, precision
        self.device = resolve_device(device)
        self.side = ws.image("scene").shape()[1]
        self.peak_mib = 0.0
        self._count = 0

    def ours(self, blend: Literal["crop", "gaussian"] = "crop") -> float:
        self._count += 1
        config = PredictConfig(
            workspace=self.ws.uri, model=self.package.model_id, name=f"ours{self._count}", blend=blend,
            precision=self.precision, device=self.device.type,
        )  # fmt: skip
        result = predict(config)
        assert result.exit_code == 0, result.items
        self.peak_mib = self.peak_mib or result.peak_mib  # the first, before a peer has left its own behind
        return result.seconds

    def ours_gaussian(self) -> float:
        return self.ours("gaussian")

    @property
    def num_tiles(self) -> int:
        return (-(-self.side // TILE_PX)) ** 2

    def forward(self) -> float:
        """The same number of tiles through the same prepared model, already normalised."""
        network = Network(self.package, self.device, self.precision, batch=1)
        side = TILE_PX + 2 * HALO_PX
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.precision]
        tile = torch.randn(1, 3, side, side, device=self.device).to(dtype).to(memory_format=torch.channels_last)
        left = iter(range(self.num_tiles))
        lock = threading.Lock()

        def worker() -> None:
            if self.device.type == "cpu":
                torch.set_num_threads(1)
            with torch.inference_mode():
                while True:
                    with lock:
                        if next(left, None) is None:
                            return
                    network.forward(tile)

        threads = [threading.Thread(target=worker) for _ in range(num_cores() if self.device.type == "cpu" else 1)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        torch.set_num_threads(num_cores())
        return seconds

    def monai_default(self) -> float:
        model = self.package.load_weights(self.device)
        return self._monai(model, torch.float32, torch.contiguous_format, sw_batch_size=4)

    def monai_same_precision(self) -> float:
        network = Network(self.package, self.device, self.precision, batch=1)
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.precision]
        return self._monai(network.forward, dtype, torch.channels_last, sw_batch_size=1)

    def _monai(
        self, model: Callable[..., Any], dtype: torch.dtype, layout: torch.memory_format, sw_batch_size: int
    ) -> float:
        """Store -> whole image -> sliding window -> argmax -> store."""
        self._count += 1
        began = time.perf_counter()
        image = self.ws.image("scene")
        shape = (1, 3, 1, 1)
        with torch.inference_mode():
            pixels = torch.from_numpy(image.read(Window.whole(image.shape()))[None]).to(self.device, torch.float32)
            normal = (pixels - torch.tensor(MEAN, device=self.device).reshape(shape)) / STD[0]
            normal = normal.to(dtype).to(memory_format=layout)
            logits = sliding_window_inference(
                normal, (TILE_PX, TILE_PX), sw_batch_size, model, overlap=0.25, mode="gaussian"
            )
            assert isinstance(logits, torch.Tensor)
            mask = logits.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
        spec = PyramidSpec(axes=("y", "x"), shape=mask.shape, dtype="uint8", kind="mask")
        with Staging.begin(self.ws, "scene", f"peer{self._count}", {"peer": "monai"}, spec) as staging:
            staging.put_all(mask)
            staging.finish({}, classes=self.package.classes)
        return time.perf_counter() - began


def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    """Medians over rounds in which every contestant has its turn, and their ratios."""
    names = ("ours", "forward", "monai_default", "monai_same_precision", "ours_gaussian")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    load = [os.getloadavg()[0]]
    bench.ours()  # the first of all warms up kernels and caches, and is not counted
    for _ in range(rounds):
        for name in names:
            seconds[name].append(getattr(bench, name)())
        load.append(os.getloadavg()[0])
    median = {name: statistics.median(values) for name, values in seconds.items()}
    useful = bench.side**2 / (bench.num_tiles * (TILE_PX + 2 * HALO_PX) ** 2)
    spread = max(max(values) / min(values) for values in seconds.values())
    return {
        "mpx_per_s": round(bench.side**2 / 1e6 / median["ours"], 4),
        "vs_forward": round(median["forward"] / median["ours"], 3),
        "useful_vs_forward": round(useful * median["forward"] / median["ours"], 3),
        "vs_monai_default": round(median["monai_default"] / median["ours"], 3),
        "vs_monai_same_precision": round(median["monai_same_precision"] / median["ours"], 3),
        "gaussian_vs_monai_gaussian": round(median["monai_same_precision"] / median["ours_gaussian"], 3),
        "peak_mib": bench.peak_mib,
        "seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "noisy": spread > 1.3 or max(load) > 1.5 * num_cores(),
        "load": [round(value, 2) for value in load],
    }


def main() -> None:
    """Measure, and print one JSON object, or the same as lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2048 px and 3 rounds instead of 4096 px and 5")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "float16"))
    options = parser.parse_args()
    side, rounds = (2048, 3) if options.quick else (4096, 5)
    with tempfile.TemporaryDirectory() as folder:
        ws = Workspace.open(str(Path(folder, "workspace")), create=True)
        put_scene(ws, side)
        bench = Bench(ws, put_package(ws), options.device, options.precision)
        found = measure(bench, rounds)
    found = {"side_px": side, "device": bench.device.type, "precision": options.precision, **found}
    lines = [json.dumps(found)] if options.json else [f"{key:28} {value}" for key, value in found.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
