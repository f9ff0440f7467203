"""Masks that lie on the pixels of a source whose image is resampled."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image as Picture
from rasterio.crs import CRS
from rasterio.transform import from_origin

from segcore.config import IngestConfig
from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.results import StageResult
from segcore.sources import Limits, SourceInfo
from segcore.sources.resampled import ResampledSource
from segcore.spatial import Spacing
from segcore.store import Workspace
from segcore.targets import TargetOpening
from segcore.targets.target import open_target, open_valid
from tests.targets.volumes import Memory, whole

YX, ZYX = ("c", "y", "x"), ("c", "z", "y", "x")


def resampled(shape: tuple[int, ...], axes: tuple[str, ...], wanted: float) -> SourceInfo:
    """An image of 1 x 0.5 um (y x x), resampled."""
    spacing = Spacing(values={"y": 1.0, "x": 0.5}, unit="micrometer", origin="file")
    return ResampledSource(Memory(np.zeros(shape, np.uint8), axes, spacing=spacing), wanted, Limits()).info


def nearest(mask: Any, image: SourceInfo) -> Any:
    """Pixel by pixel: the mask's pixel whose centre is nearest to the image's; of two as near the first."""
    rows, columns = (
        [int(np.argmin(np.round(np.abs(np.arange(n) + 0.5 - (i + 0.5) * step), 9))) for i in range(m)]
        for n, m, step in zip(mask.shape[-2:], image.shape[-2:], image.details["resampled"]["step"], strict=True)
    )
    return mask[..., rows, :][..., columns]


@pytest.mark.parametrize("wanted", [0.3, 0.7, 0.75, 2.0, 2.5, 3.0])
@pytest.mark.parametrize("sides", [(31, 45), (40, 60)])
def test_a_mask_of_the_source_is_brought_to_the_resampled_image(
    tmp_path: Path, rng: np.random.Generator, wanted: float, sides: tuple[int, int]
) -> None:
    image = resampled((1, *sides), YX, wanted)
    mask = rng.integers(0, 5, sides).astype(np.uint8)
    path = str(tmp_path / "mask.tif")
    tifffile.imwrite(path, mask)
    expected = nearest(mask, image)
    target = open_target([path], image, TargetOpening())
    np.testing.assert_array_equal(target.read(Window((3, 4), (5, 2))), expected[3:8, 4:6])
    np.testing.assert_array_equal(whole(target, expected.shape), expected)
    assert not any("outside the image" in note for note in target.notes), target.notes
    with open_valid(path, image) as valid:
        np.testing.assert_array_equal(valid.read(Window.whole(expected.shape)), expected > 0)


def test_a_volume_keeps_its_planes_and_takes_a_plane_as_valid(tmp_path: Path, rng: np.random.Generator) -> None:
    image = resampled((1, 3, 20, 30), ZYX, 2.0)
    mask = rng.integers(0, 4, (3, 20, 30)).astype(np.uint8)
    path, plane = str(tmp_path / "mask.tif"), str(tmp_path / "plane.tif")
    tifffile.imwrite(path, mask, metadata={"axes": "ZYX"}, imagej=True)
    tifffile.imwrite(plane, mask[0])
    expected = nearest(mask, image)
    np.testing.assert_array_equal(whole(open_target([path], image, TargetOpening()), expected.shape), expected)
    with open_valid(plane, image) as valid:
        found = valid.read(Window.whole(expected.shape))
    np.testing.assert_array_equal(found, np.broadcast_to(nearest(mask[0], image) > 0, expected.shape))


def test_a_mask_of_neither_shape_is_refused_with_both(tmp_path: Path) -> None:
    path = str(tmp_path / "mask.tif")
    tifffile.imwrite(path, np.zeros((10, 10), np.uint8))
    with pytest.raises(SourceError, match=r"10 x 10 px .*, its source 10 x 8 resampled, 20 x 30 as it is; they must"):
        open_target([path], resampled((1, 20, 30), YX, 2.0), TargetOpening())


def test_a_mask_of_the_resampled_image_is_taken_as_it_is(tmp_path: Path, rng: np.random.Generator) -> None:
    image = resampled((1, 20, 30), YX, 2.0)
    mask = rng.integers(0, 4, image.shape[-2:]).astype(np.uint8)
    path = str(tmp_path / "mask.tif")
    tifffile.imwrite(path, mask)
    np.testing.assert_array_equal(whole(open_target([path], image, TargetOpening()), mask.shape), mask)


@pytest.mark.parametrize("wanted", [None, "20m"])
def test_a_mosaic_may_have_a_mask_per_piece(tmp_path: Path, rng: np.random.Generator, wanted: str | None) -> None:
    ids = np.kron(rng.integers(0, 4, (6, 8)), np.ones((10, 10), int)).astype(np.uint8)
    for kind, pixels in (("image", 255 - ids), ("mask", ids)):
        for number, part in enumerate(np.split(pixels, 2, axis=1)):
            place = from_origin(5e5 + 400 * number, 4e6, 10, 10)
            told = {"count": 1, "dtype": "uint8", "crs": CRS.from_epsg(32631), "transform": place}
            with rasterio.open(
                tmp_path / f"{kind}{number}.tif", "w", driver="GTiff", height=60, width=40, **told
            ) as opened:
                opened.write(part[None])
    given = {"sources": (f"{tmp_path}/image?.tif",), "targets": f"{tmp_path}/mask?.tif", "mosaic": True}
    given |= {"workspace": str(tmp_path / "w"), "processes": 1, "spacing": wanted}
    (item,) = ingest(IngestConfig.model_validate(given)).items
    assert item.state == "done", item.error
    workspace = Workspace.open(str(tmp_path / "w"))
    label = workspace.label(workspace.image_ids()[0], "target")
    np.testing.assert_array_equal(label.read(Window.whole(label.shape())), ids if wanted is None else ids[::2, ::2])


@pytest.fixture
def scan(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A TIFF of 1 x 0.5 um (y x x), with masks of every kind."""
    folder = tmp_path / "scan"
    folder.mkdir()
    pixels = rng.integers(0, 256, (301, 420), np.uint8)
    tifffile.imwrite(folder / "a.tif", pixels, resolution=(20000, 10000), resolutionunit="CENTIMETER")
    objects = np.kron(rng.integers(0, 3, (31, 42)), np.ones((10, 10), int))[:301, :420]
    for number in (1, 2):
        Picture.fromarray(((objects == number) * 255).astype(np.uint8)).save(folder / f"object{number}.png")
    np.save(folder / "objects.npy", objects)
    return folder


def ingested(folder: Path, **values: Any) -> StageResult:
    given = {"workspace": str(folder / "w"), "processes": 1, "shard_px": 256, "spacing": "2um"}
    return ingest(IngestConfig.model_validate(given | {"sources": (str(folder / "a.tif"),)} | values))


@pytest.mark.parametrize("kind", ["instances", "classes", "valid"])
def test_masks_of_the_source_arrive_at_another_spacing(scan: Path, kind: str) -> None:
    objects = np.load(scan / "objects.npy")
    image = resampled((1, *objects.shape), YX, 2.0)
    expected = nearest(objects, image)
    if kind == "valid":
        (scan / "m.csv").write_text("source,valid\na.tif,object1.png\n")
        result = ingested(scan, sources=(), manifest=str(scan / "m.csv"))
        name, expected = "valid", expected == 1
    elif kind == "instances":
        result, name = ingested(scan, targets="{parent}/object?.png"), "target_instances"
    else:
        named = "one={parent}/object1.png;two={parent}/object2.png"
        result, name = ingested(scan, targets=named), "target"
    assert result.items[0].state == "done", result.items[0].error
    workspace = Workspace.open(str(scan / "w"))
    label = workspace.label(workspace.image_ids()[0], name)
    np.testing.assert_array_equal(label.read(Window.whole(label.shape())), expected)
