"""Real images through the command line: predict and export lie over their sources, and outsiders can open them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr_models
import pytest
import rasterio
import torch
import yaozarrs
import zarr

from segcore.classes import default_classes
from segcore.models import ModelConfig, build_model
from segcore.models.info import InputContract, PackageInfo
from segcore.models.package import write_package
from segcore.store import Objects


def segcore(*arguments: str) -> dict[str, Any]:
    """One command with --json; what it prints."""
    call = [sys.executable, "-m", "flows", *arguments, "--json"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def seeded_package(folder: Path, num_bands: int) -> str:
    """A package of seeded weights: which classes it finds means nothing, where they lie does."""
    torch.manual_seed(0)
    arguments = {"in_channels": num_bands, "num_classes": 3, "channels": (8, 16, 16)}
    config = ModelConfig(architecture="unet", arguments=arguments)
    contract = InputContract(
        bands=tuple(f"band {i + 1}" for i in range(num_bands)),
        dtype="uint8",
        spacing=None,
        mean=(110.0,) * num_bands,
        std=(50.0,) * num_bands,
        tile_px=256,
        halo_px=32,
        stride=4,
    )
    info = PackageInfo(name="seeded", architecture=config, contract=contract, classes=default_classes(3))
    objects = Objects(str(folder))
    objects.create()
    package = write_package(objects, "models", info, build_model(config).state_dict())
    return str(folder / "models" / package.model_id)


def check_ngff(workspace: Path) -> None:
    """Outside validators accept every image and mask."""
    for image in (workspace / "images").iterdir():
        yaozarrs.validate_zarr_store(str(image))
        opened: Any = ome_zarr_models.open_ome_zarr(zarr.open_group(str(image), mode="r"))
        assert type(opened).__name__ == "Image"
        for label in (image / "labels").iterdir():
            if label.is_dir():
                yaozarrs.validate_zarr_store(str(label))
                mask: Any = ome_zarr_models.open_ome_zarr(zarr.open_group(str(label), mode="r"))
                assert type(mask).__name__ == "ImageLabel"


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["naip", "landsat_rgbn_wgs84"])
def test_a_geotiffs_mask_lies_exactly_over_its_source(tmp_path: Path, data_dir: Path, folder: str) -> None:
    sources = sorted((data_dir / "geotiff" / folder).glob("*.tif"))
    workspace, model = tmp_path / "w", seeded_package(tmp_path / "package", 4)
    segcore("ingest", *map(str, sources), "--workspace", str(workspace))
    segcore("predict", "--workspace", str(workspace), "--model", model)
    exported = segcore("export", "--workspace", str(workspace), "--model", model, "--output", str(tmp_path / "out"))
    assert len(exported["paths"]) == len(sources)
    for source in sources:
        stem = source.stem.replace("_", "-")
        (path,) = [Path(found) for found in exported["paths"] if stem in Path(found).name]
        with rasterio.open(source) as original, rasterio.open(path) as mask:
            assert (mask.width, mask.height) == (original.width, original.height)
            assert mask.crs == original.crs
            assert mask.transform == original.transform
            outside = (original.read() == original.nodata).all(axis=0)
            ids = mask.read(1)
            assert (ids[outside] == 255).all()
            assert set(np.unique(ids[~outside])) <= {0, 1, 2}
    check_ngff(workspace)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # a slide lies nowhere on earth
@pytest.mark.slow
def test_a_slide_goes_through_with_its_spacing(tmp_path: Path, data_dir: Path) -> None:
    workspace, model = tmp_path / "w", seeded_package(tmp_path / "package", 3)
    source = str(data_dir / "wsi/CMU-1-Small-Region.svs")
    segcore("ingest", source, "--workspace", str(workspace))
    segcore("predict", "--workspace", str(workspace), "--model", model)
    exported = segcore("export", "--workspace", str(workspace), "--model", model, "--output", str(tmp_path / "out"))
    with rasterio.open(exported["paths"][0]) as mask:
        assert (mask.height, mask.width) == (2967, 2220)
    (image,) = (workspace / "images").iterdir()
    scales = json.loads((image / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
    assert scales["datasets"][0]["coordinateTransformations"][0]["scale"] == pytest.approx([1.0, 0.499, 0.499])
    assert scales["axes"][1]["unit"] == "micrometer"
    check_ngff(workspace)
