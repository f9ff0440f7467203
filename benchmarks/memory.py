"""Peak memory of ingest and predict on a 648-megapixel image and on a quarter of it; summed PSS of the process tree.

The image is the 36000 x 18000 COG of SEGCORE_DATA (`geotiff/scale`); its quarter is cut from it. The model has
one layer, so that it is the engine that is measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import rasterio
import torch
from rasterio.windows import Window

from segcore.classes import default_classes
from segcore.models import ModelConfig, build_model
from segcore.models.package import InputContract, PackageInfo, write_package
from segcore.store import Workspace

DATA = Path(os.environ.get("SEGCORE_DATA", Path(__file__).parents[2] / "shared" / "data")).absolute()
COG = DATA / "geotiff" / "scale" / "cog_world_36000x18000.tif"


def cut(share: int, folder: Path) -> Path:
    """The corner of the COG with 1/share of its width and height."""
    path = folder / f"corner{share}.tif"
    with rasterio.open(COG) as source:
        window = Window(0, 0, source.width // share, source.height // share)
        profile = source.profile | {"width": window.width, "height": window.height, "driver": "GTiff"}
        with rasterio.open(path, "w", **profile) as corner:
            for _, block in corner.block_windows(1):
                corner.write(source.read(window=block), window=block)
    return path


def put_package(workspace: Workspace, bands: tuple[str, ...]) -> str:
    """A one-layer model of seeded weights."""
    torch.manual_seed(0)
    arguments = {"in_channels": len(bands), "num_classes": 2, "kernel_px": 3}
    config = ModelConfig(architecture="conv1", arguments=arguments)
    zeros, ones = (0.0,) * len(bands), (1.0,) * len(bands)
    contract = InputContract(
        bands=bands, dtype="uint8", spacing=None, mean=zeros, std=ones, tile_px=512, halo_px=1, stride=1
    )
    info = PackageInfo(name="conv1", architecture=config, contract=contract, classes=default_classes(2))
    return write_package(workspace.objects, "models", info, build_model(config).state_dict()).model_id


def segcore(*arguments: str) -> dict[str, Any]:
    """One command; its JSON."""
    done = subprocess.run([sys.executable, "-m", "flows", *arguments, "--json"], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def peaks(source: Path, uri: str, blend: str) -> dict[str, float]:
    """MiB of ingest and predict, and the seconds they took."""
    ingested = segcore("ingest", str(source), "--workspace", uri)
    workspace = Workspace.open(uri)
    model = put_package(workspace, workspace.image(workspace.image_ids()[0]).channels)
    predicted = segcore("predict", "--workspace", uri, "--model", model, "--blend", blend)
    return {
        "ingest_mib": ingested["peak_mib"],
        "predict_mib": predicted["peak_mib"],
        "ingest_s": ingested["seconds"],
        "predict_s": predicted["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blend", default="crop", choices=("crop", "gaussian"))
    parser.add_argument("--quick", action="store_true", help="a quarter against a sixteenth")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    if not COG.exists():
        parser.error(f"no {COG}; set SEGCORE_DATA")
    with tempfile.TemporaryDirectory(prefix="segcore-memory-") as temporary:
        folder = Path(temporary)
        large, small = (cut(2, folder), cut(4, folder)) if arguments.quick else (COG, cut(2, folder))
        whole = peaks(large, str(folder / "large"), arguments.blend)
        part = peaks(small, str(folder / "small"), arguments.blend)
    found = {**whole, **{f"quarter_{name}": value for name, value in part.items()}}
    found["predict_vs_quarter"] = round(whole["predict_mib"] / part["predict_mib"], 3)
    if arguments.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:22} {value:8.1f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
