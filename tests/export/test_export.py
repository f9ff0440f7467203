"""Exported files read back by GDAL, Pillow and a JSON parser, against the mask in the workspace."""

import json
import os
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import rasterio.features
from PIL import Image as Pillow
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform_geom

from segcore.classes import ClassInfo
from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.export import export, features, geotiff, png
from segcore.export.export import FORMATS, file_name
from segcore.geometry import Window
from segcore.spatial import Georef, Spacing
from segcore.store import Image, Label, Workspace
from tests.synthetic import put_image, put_label

SHAPE = (300, 210)
CLASSES = (
    ClassInfo(id=0, name="background", color=(0, 0, 0)),
    ClassInfo(id=1, name="Gebäude <b>", color=(230, 159, 0)),
    ClassInfo(id=2, name="water", color=(86, 180, 233)),
)
PLACES = {
    "utm": (26914, Affine(5, 0, 600000, 0, -5, 5300000)),
    "rotated": (32633, Affine(0.28, 0.1, 5e5, 0.1, -0.28, 5e6)),
    "degrees": (4326, Affine(0.0003, 0, -120.5, 0, -0.0003, 40.25)),
}


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (geotiff, features, png):
        monkeypatch.setattr(module, "WINDOW_PX", 128)


def _mask() -> npt.NDArray[np.uint8]:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    ids = ((np.sin(rows / 17) + np.cos(columns / 11) > 0.4) * 1).astype(np.uint8)
    ids[(rows - 150) ** 2 + (columns - 100) ** 2 < 60**2] = 2
    ids[(rows - 150) ** 2 + (columns - 100) ** 2 < 20**2] = 0
    ids[:9] = 255
    return ids


def _workspace(tmp_path: Path, georef: Georef | None = None, spacing: Spacing | None = None) -> Workspace:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "scene-1", np.ones((1, *SHAPE), np.uint8), spacing=spacing, georef=georef)
    put_label(ws, "scene-1", "m", _mask(), CLASSES)
    return ws


def _georef(place: str) -> Georef:
    epsg, transform = PLACES[place]
    return Georef(crs_wkt=CRS.from_epsg(epsg).to_wkt(), epsg=epsg, transform=tuple(transform)[:6])


def _export(ws: Workspace, tmp_path: Path, **options: Any) -> Path:
    result = export(ExportConfig(workspace=ws.uri, model="m", output=str(tmp_path / "out"), **options))
    assert [item.state for item in result.items] == ["done"], result.items
    assert result.paths[0] == result.items[0].path
    return Path(result.paths[0])


@pytest.mark.parametrize("place", PLACES)
def test_geotiff_lies_over_its_source(tmp_path: Path, place: str) -> None:
    epsg, transform = PLACES[place]
    path = _export(_workspace(tmp_path, _georef(place)), tmp_path)
    assert path.name == "scene-1.tif"
    with rasterio.open(path) as found:
        assert (found.height, found.width, found.count) == (*SHAPE, 1)
        assert found.crs == CRS.from_epsg(epsg)
        assert found.transform == transform
        assert (found.nodata, found.dtypes[0]) == (255, "uint8")
        assert found.profile["tiled"]
        assert found.profile["compress"] == "deflate"
        np.testing.assert_array_equal(found.read(1), _mask())
        assert found.colormap(1)[2] == (86, 180, 233, 255)
        assert found.tags(1)["CLASS_1"] == "Gebäude <b>"


def test_geotiff_of_a_slide_has_its_resolution_and_no_crs(tmp_path: Path) -> None:
    spacing = Spacing(values={"y": 0.5, "x": 0.25}, unit="micrometer", origin="file")
    path = _export(_workspace(tmp_path, spacing=spacing), tmp_path)
    with Pillow.open(path) as found:
        tags = found.tag_v2  # type: ignore[attr-defined]
        assert (float(tags[282]), float(tags[283]), tags[296]) == (40000, 20000, 3)
        np.testing.assert_array_equal(np.asarray(found), _mask())


def test_png_keeps_ids_and_colours(tmp_path: Path) -> None:
    path = _export(_workspace(tmp_path), tmp_path, format="png")
    with Pillow.open(path) as found:
        assert found.mode == "P"
        np.testing.assert_array_equal(np.asarray(found), _mask())
        assert found.getpalette()[3:9] == [230, 159, 0, 86, 180, 233]
        assert found.convert("RGBA").getpixel((0, 0))[3] == 0


def test_png_over_the_limit_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "MAX_PX", 1000)
    result = export(ExportConfig(workspace=_workspace(tmp_path).uri, model="m", output=str(tmp_path), format="png"))
    assert result.items[0].error == (
        "image scene-1: 210 x 300 px is too large for a PNG, expected at most 0 Mpx; export it as geotiff"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ws"]


def _burnt(features: list[dict[str, Any]], transform: Affine, crs: str | None = None) -> npt.NDArray[np.uint8]:
    shapes = []
    for feature in features:
        geometry = feature["geometry"]
        if crs is not None:
            geometry = transform_geom("EPSG:4326", crs, geometry, precision=-1)
        shapes.append((geometry, feature["properties"]["class_id"]))
    return rasterio.features.rasterize(shapes, out_shape=SHAPE, transform=transform, dtype="uint8")


def _foreground() -> npt.NDArray[np.uint8]:
    return np.where(_mask() == 255, 0, _mask()).astype(np.uint8)


def test_geojson_in_pixels_is_what_qupath_reads(tmp_path: Path) -> None:
    document = json.loads(_export(_workspace(tmp_path), tmp_path, format="geojson").read_text(encoding="utf-8"))
    assert document["type"] == "FeatureCollection"
    assert "crs" not in document
    np.testing.assert_array_equal(_burnt(document["features"], Affine.identity()), _foreground())
    water = [f for f in document["features"] if f["properties"]["class"] == "water"]
    assert len(water) == 1
    assert len(water[0]["geometry"]["coordinates"]) == 2
    assert water[0]["properties"]["classification"] == {"name": "water", "color": [86, 180, 233]}
    assert water[0]["properties"]["objectType"] == "annotation"


@pytest.mark.parametrize("place", PLACES)
def test_geojson_in_degrees_burns_back_into_the_mask(tmp_path: Path, place: str) -> None:
    epsg, transform = PLACES[place]
    document = json.loads(_export(_workspace(tmp_path, _georef(place)), tmp_path, format="geojson").read_text("utf-8"))
    assert "crs" not in document
    np.testing.assert_array_equal(_burnt(document["features"], transform, f"EPSG:{epsg}"), _foreground())
    for feature in document["features"]:
        ring = np.array(feature["geometry"]["coordinates"][0])
        assert np.abs(ring).max() <= 180
        x, y = ring.T
        assert np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0  # counterclockwise, as RFC 7946 asks


def test_geojson_in_the_own_crs_names_it(tmp_path: Path) -> None:
    path = _export(_workspace(tmp_path, _georef("utm")), tmp_path, format="geojson", coordinates="crs")
    document = json.loads(path.read_text("utf-8"))
    assert document["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::26914"
    np.testing.assert_array_equal(_burnt(document["features"], PLACES["utm"][1]), _foreground())


@pytest.mark.parametrize("output", ["{}/out", "memory://again"])
@pytest.mark.parametrize("file_format", ["geotiff", "png", "geojson", "geopackage", "geoparquet"])
def test_file_of_the_same_mask_is_kept_and_of_another_refused(tmp_path: Path, output: str, file_format: Any) -> None:
    ws = _workspace(tmp_path)
    config = ExportConfig(workspace=ws.uri, model="m", output=output.format(tmp_path), format=file_format)
    (path,) = export(config.model_copy(update={"overwrite": True})).paths
    (same,) = export(config).items
    assert (same.state, same.details) == ("skipped", {"reason": f"{path} holds this mask already"})
    put_label(ws, "scene-1", "m", np.zeros(SHAPE, np.uint8), CLASSES, version=1)
    refused = f"{path} holds another mask, or this one in another form; --overwrite replaces it"
    assert [(item.state, item.error) for item in export(config).items] == [("failed", refused)]
    renewing = config.model_copy(update={"renew": True})
    assert [export(renewing).items[0].state for _ in range(2)] == ["done", "skipped"]
    assert export(config).items[0].state == "skipped"
    for foreign in (b"", b"mine", b"\x89PNG\r\n\x1a\n\0\0\0\xffIHDR", b"II*\0\xff\xff\xff\xff"):
        with fsspec.open(path, "wb") as stream:
            stream.write(foreign)
        assert [item.error for item in (*export(config).items, *export(renewing).items)] == [refused, refused]
        with fsspec.open(path, "rb") as stream:
            assert stream.read() == foreign


def test_geojson_in_other_coordinates_is_another_file(tmp_path: Path) -> None:
    ws = _workspace(tmp_path, _georef("utm"))
    config = ExportConfig(workspace=ws.uri, model="m", output=str(tmp_path / "out"), format="geojson")
    in_crs = config.model_copy(update={"coordinates": "crs"})
    assert [export(c).items[0].state for c in (config, in_crs, config)] == ["done", "failed", "skipped"]


def test_error_that_nobody_foresaw_fails_its_image_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = _workspace(tmp_path)
    put_image(ws, "other", np.ones((1, *SHAPE), np.uint8))
    put_label(ws, "other", "m", _mask(), CLASSES)

    def write(image: Image, mask: Label, path: Path, config: ExportConfig) -> dict[str, Any]:
        if image.image_id == "other":
            raise IndexError("list index\nout of range")
        return png.write_png(image, mask, path, config)

    monkeypatch.setitem(FORMATS, "png", (".png", write, png.png_stamp))
    result = export(ExportConfig(workspace=ws.uri, model="m", output=str(tmp_path / "out"), format="png"))
    assert [(item.state, item.error) for item in result.items] == [
        ("failed", "image other: IndexError: list index out of range"),
        ("done", None),
    ]


def test_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = _workspace(tmp_path)
    put_image(ws, "other", np.ones((1, *SHAPE), np.uint8))
    put_label(ws, "other", "m", _mask(), CLASSES)
    calls: list[Window] = []
    original = type(ws.label("other", "m")).read

    def read(self: Any, window: Window, level: int = 0) -> npt.NDArray[Any]:
        calls.append(window)
        if len(calls) == 2:
            raise StoreError("shard (0, 1) is damaged; run `verify`")
        return original(self, window, level)

    monkeypatch.setattr(type(ws.label("other", "m")), "read", read)
    result = export(ExportConfig(workspace=ws.uri, model="m", output=str(tmp_path / "out")))
    assert [item.state for item in result.items] == ["failed", "done"]
    assert result.exit_code == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scene-1.tif"]


def test_what_killed_exports_left_is_swept(tmp_path: Path) -> None:
    old, running = tmp_path / "out" / ".segcore-old", tmp_path / "out" / ".segcore-running"
    for folder in (old, running):
        folder.mkdir(parents=True)
        (folder / "scene-1.tif").write_bytes(b"half")
    os.utime(old, (time.time() - 4 * 86400,) * 2)
    _export(_workspace(tmp_path), tmp_path)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".segcore-running", "scene-1.tif"]


def test_export_to_a_remote_folder(tmp_path: Path) -> None:
    ws = _workspace(tmp_path)
    result = export(ExportConfig(workspace=ws.uri, model="m", output="memory://exported/masks", format="png"))
    assert result.paths == ("memory://exported/masks/scene-1.png",)
    with fsspec.open(result.paths[0]) as stream, Pillow.open(stream) as found:
        np.testing.assert_array_equal(np.asarray(found), _mask())


@pytest.mark.parametrize(
    ("image_id", "name"), [("../../x", "_.._x.tif"), (".hidden", "hidden.tif"), ("a/b", "a_b.tif")]
)
def test_file_name_stays_in_the_folder(image_id: str, name: str) -> None:
    assert file_name(image_id, ".tif") == name
