"""STAC Items: their assets as one image; what an Item may point at, and what it must not."""

import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Limits, Opening, open_source, stac
from segcore.sources.files import SourceFile

RNG = np.random.default_rng(11)
TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


def write(path: Path, bands: Any, res: float = 10.0) -> Any:
    path.parent.mkdir(exist_ok=True)
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype, crs="EPSG:32631",
        transform=from_origin(500000, 4600000, res, res),
    ) as dataset:  # fmt: skip
        dataset.write(bands)
    return bands


def item_of(assets: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "scene",
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
        "properties": {"datetime": "2026-01-01T00:00:00Z"},
        "links": [],
        "assets": assets,
    } | more


@pytest.fixture
def scene(tmp_path: Path) -> dict[str, Any]:
    """An Item with two data assets, a picture to look at and a document; the pixels by asset."""
    pixels = {
        "red": write(tmp_path / "data/red.tif", RNG.integers(1, 999, (1, 20, 30)).astype("uint16")),
        "swir": write(tmp_path / "data/swir.tif", RNG.integers(1, 999, (2, 20, 30)).astype("uint16")),
        "preview": write(tmp_path / "preview.tif", RNG.integers(1, 99, (3, 20, 30)).astype("uint16")),
    }
    bands = [{"name": "B11", "common_name": "swir16"}, {"name": "B12"}]
    assets = {
        "preview": {"href": "preview.tif", "type": TIFF, "roles": ["overview"]},
        "red": {"href": "./data/red.tif", "type": TIFF, "roles": ["data", "reflectance"]},
        "swir": {"href": "data/swir.tif", "roles": ["data"], "eo:bands": bands},
        "metadata": {"href": "granule.xml", "type": "application/xml", "roles": ["metadata", "data"]},
    }
    (tmp_path / "item.json").write_text(json.dumps(item_of(assets)))
    return pixels | {"assets": assets}


def test_the_data_assets_are_one_image(tmp_path: Path, scene: dict[str, Any], assert_reads: Any) -> None:
    with open_source(str(tmp_path / "item.json")) as source:
        assert_reads(source, np.concatenate([scene["red"], scene["swir"]]))
        assert source.info.channels == ("red", "B11", "B12")
        assert (source.info.reader, source.info.uri) == ("stac", str(tmp_path / "item.json"))
        assert source.info.details["assets"] == ["red", "swir"]


def test_assets_by_name(tmp_path: Path, scene: dict[str, Any], assert_reads: Any) -> None:
    with open_source(f"{tmp_path}/item.json::swir,preview") as source:
        assert_reads(source, np.concatenate([scene["swir"], scene["preview"]]))
        assert source.info.channels[:2] == ("B11", "B12")
    with pytest.raises(SourceError, match=r"no asset 'green'; it has preview, red, swir, metadata"):
        open_source(f"{tmp_path}/item.json::red,green")


def test_media_types_where_nothing_has_the_role(tmp_path: Path, scene: dict[str, Any]) -> None:
    assets = {
        "a": {"href": "data/red.tif", "type": TIFF},
        "b": {"href": "preview.tif", "type": TIFF, "roles": ["visual"]},
        "c": {"href": "x.html", "type": "text/html"},
    }
    (tmp_path / "item.json").write_text(json.dumps(item_of(assets)))
    with open_source(str(tmp_path / "item.json")) as source:
        np.testing.assert_array_equal(source.read(Window.whole((1, 20, 30))), scene["red"])
        assert source.info.channels == ("a",)


def test_an_item_from_an_address(tmp_path: Path, scene: dict[str, Any], assert_reads: Any) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("data/red.tif", "data/swir.tif"):
        memory.pipe(f"/bucket/{name}", (tmp_path / name).read_bytes())
    scene["assets"]["red"]["href"] = "../data/red.tif"
    scene["assets"]["swir"]["href"] = "memory://bucket/data/swir.tif"
    memory.pipe("/bucket/items/item.json", json.dumps(item_of(scene["assets"])).encode())
    with open_source("memory://bucket/items/item.json") as source:
        assert_reads(source, np.concatenate([scene["red"], scene["swir"]]), num_windows=2)


@pytest.mark.parametrize(
    ("href", "address"),
    [
        ("../b/x.tif", "https://host/b/x.tif"),
        ("x.tif", "https://host/a/x.tif"),
        ("/x.tif", "https://host/x.tif"),
        ("s3://bucket/x.tif", "s3://bucket/x.tif"),
    ],
)
def test_addresses_are_relative_to_the_item(monkeypatch: pytest.MonkeyPatch, href: str, address: str) -> None:
    class AnsweredError(Exception):
        pass

    def opened(uri: str) -> Any:
        raise AnsweredError(uri)

    item = item_of({"red": {"href": href, "roles": ["data"]}})
    fsspec.filesystem("memory").pipe("/a/item.json", json.dumps(item).encode())
    file = SourceFile("memory://a/item.json")
    file._place = "https://host/a/item.json"
    file.uri = file._place
    monkeypatch.setattr(stac, "SourceFile", opened)
    with pytest.raises(AnsweredError, match=f"^{address}$"):
        stac.READER.open(file, Opening())


def test_too_many_assets(tmp_path: Path, scene: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match="2 assets are over the limit max_channels = 1"):
        open_source(str(tmp_path / "item.json"), Opening(limits=Limits(max_channels=1)))


@pytest.mark.parametrize(
    ("href", "said"),
    [
        ("/etc/passwd", "points at the local file /etc/passwd"),
        ("file:///etc/passwd", "points at the local file"),
        ("../../x.tif", "outside the bucket"),
        ("ssh://host/x.tif", "'ssh://' is not read"),
        ("/vsicurl/https://host/x.tif", "is not read"),
        ("", "has no href"),
        ("item.json", "got STAC again"),
        (7, "has no href"),
    ],
)
def test_what_an_item_from_an_address_must_not_point_at(href: Any, said: str) -> None:
    item = item_of({"red": {"href": href, "roles": ["data"]}})
    fsspec.filesystem("memory").pipe("/hostile/item.json", json.dumps(item).encode())
    with pytest.raises(SourceError, match=said):
        open_source("memory://hostile/item.json")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"type": "Collection", "stac_version": "1.0.0"}, "expected a STAC Item, got a Collection"),
        (item_of({}), "no asset with the role data"),
        (item_of({"a": 3}), "no asset with the role data"),
        (item_of([]), "no asset with the role data"),  # type: ignore[arg-type]
        ({"type": "Feature", "geometry": None, "properties": {"stac_version": "1"}}, "is no image that segcore reads"),
        ([1], "is no image that segcore reads"),
    ],
)
def test_other_documents(tmp_path: Path, document: Any, said: str) -> None:
    (tmp_path / "item.json").write_text(json.dumps(document))
    with pytest.raises(SourceError, match=said):
        open_source(str(tmp_path / "item.json"))


def test_an_item_that_is_too_large_or_too_deep(tmp_path: Path, scene: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match="over the limit of 100"):
        open_source(str(tmp_path / "item.json"), Opening(limits=Limits(max_metadata_bytes=100)))
    (tmp_path / "deep.json").write_text('{"stac_version": "1", "a": ' + "[" * 200_000)
    with pytest.raises(SourceError, match="is no image that segcore reads"):
        open_source(str(tmp_path / "deep.json"))
