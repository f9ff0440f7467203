"""Seams: masks of one real image with no halo, `fast`, `exact` and `gaussian`, beside that of the whole image run once.

A small U-Net learns for a few hundred steps where scikit-image's immunohistochemistry picture is densely stained, which
takes a look around; its mask is then made tile by tile. It prints the share of labels that are not those of the whole
image, and draws the picture of docs/halo.md: the image, and the labels that a halo changes.

    python benchmarks/seams.py [--steps 200] [--png docs/images/seams.png] [--json]
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2hed
from skimage.data import immunohistochemistry

from segcore.config import IngestConfig, PredictConfig, TrainConfig
from segcore.geometry import Window, reflected
from segcore.inference import predict
from segcore.inference.numerics import Network, repeatable
from segcore.ingest import ingest
from segcore.models.package import ModelPackage, read_package
from segcore.store import Workspace
from segcore.training import train

TILE_PX = 64
ZOOM, START_PX, SHOWN_PX = 2, 128, 232
"""The picture shows this much of the image, from here on in y and x."""
CUTS: dict[str, dict[str, Any]] = {
    "halo 0": {"halo": 0},
    "halo fast": {"halo": "fast"},
    "halo exact": {"halo": "exact"},
    "gaussian": {"blend": "gaussian"},
}

Pixels = npt.NDArray[np.uint8]


def dense(pixels: Pixels) -> Pixels:
    """The half of the image with more brown stain around each pixel."""
    stain = gaussian_filter(rgb2hed(pixels)[..., 2], 6)
    return (stain > np.median(stain)).astype(np.uint8)


def trained(folder: Path, steps: int) -> tuple[Workspace, ModelPackage]:
    """A workspace with the image, and a model that learned it."""
    pixels = immunohistochemistry()
    Image.fromarray(pixels).save(folder / "ihc.png")
    Image.fromarray(dense(pixels)).save(folder / "ihc_target.png")
    uri = str(folder / "W")
    ingest(IngestConfig(workspace=uri, sources=(str(folder / "ihc.png"),), targets="{parent}/{stem}_target.png"))
    settings: dict[str, Any] = {
        "channels": (8, 16, 32, 32),
        "tile_px": 128,
        "batch": 4,
        "max_steps": steps,
        "threads": 1,
    }
    result = train(TrainConfig(workspace=uri, name="seams", learning_rate=1e-2, device="cpu", **settings))
    ws = Workspace.open(uri)
    return ws, read_package(ws, result.details["model"])


def masked(ws: Workspace, package: ModelPackage, name: str, **settings: Any) -> Pixels:
    """The mask of the image, tile by tile."""
    config = {"workspace": ws.uri, "model": package.model_id, "name": name.replace(" ", "-"), "precision": "float32"}
    result = predict(PredictConfig.model_validate({"device": "cpu", "tile_px": TILE_PX, **config, **settings}))
    assert result.exit_code == 0, result.items
    label = ws.label(ws.image_ids()[0], config["name"])
    return label.read(Window.whole(label.shape())).astype(np.uint8)


def whole(package: ModelPackage, pixels: Pixels) -> Pixels:
    """The mask of the image run through the model at once, mirrored by the exact halo."""
    halo = package.contract.receptive_px
    assert halo is not None, "the U-Net has no global context"
    tiles = np.moveaxis(pixels, -1, 0)
    for axis in (1, 2):
        side = tiles.shape[axis]
        tiles = tiles.take(reflected(-halo, side + 2 * halo, side), axis=axis)
    with repeatable(), torch.inference_mode():
        torch.set_num_threads(1)
        return Network(package, torch.device("cpu"), "float32", batch=1).ids(tiles[None], (halo, halo))[0]


def picture(pixels: Pixels, masks: dict[str, Pixels], expected: Pixels) -> Image.Image:
    """Panels side by side: the image, then each mask, with the labels that are not the whole image's in red."""
    panels = {"image": np.asarray(Image.fromarray(pixels).quantize(64).convert("RGB"))}
    for name, mask in masks.items():
        panel = np.where(mask[..., None] > 0, np.uint8((222, 184, 120)), np.uint8((245, 245, 245)))
        panel[mask != expected] = (214, 30, 30)
        panels[name] = panel
    side, gap, head = ZOOM * SHOWN_PX, 8, 22
    drawn = Image.new("RGB", (len(panels) * (side + gap) - gap, side + head), "white")
    pen = ImageDraw.Draw(drawn)
    for i, (name, panel) in enumerate(panels.items()):
        window = slice(START_PX, START_PX + SHOWN_PX)
        shown = Image.fromarray(np.ascontiguousarray(panel[window, window])).resize((side, side), 0)
        drawn.paste(shown, (i * (side + gap), head))
        pen.text((i * (side + gap) + 2, 4), name, fill="black", font_size=14)
    return drawn.quantize(128, dither=Image.Dither.NONE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of training")
    parser.add_argument("--png", type=Path, help="where to draw the picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ws, package = trained(Path(folder), arguments.steps)
        pixels = immunohistochemistry()
        expected = whole(package, pixels)
        masks = {name: masked(ws, package, name, **settings) for name, settings in CUTS.items()}
    found = {name: float((mask != expected).mean()) for name, mask in masks.items()}
    if arguments.png:
        shown = {name: masks[name] for name in ("halo 0", "halo exact")}
        picture(pixels, shown, expected).save(arguments.png, optimize=True)
    if arguments.json:
        print(json.dumps({"exact_px": package.contract.receptive_px, "tile_px": TILE_PX, "changed": found}))
        return
    print(f"exact halo {package.contract.receptive_px} px; tiles of {TILE_PX} px; labels unlike the whole image's:")
    for name, share in found.items():
        print(f"{name:12} {share:.4%}")


if __name__ == "__main__":
    main()
